/* ---- Resizing ---------------------------------------------------------------------------------------------------
 *
 * Antialiased, in integers: the bits of Pillow's Image.resize. A pixel of the result is a weighted mean of the source's
 * pixels in a window, first across each row, rounded to 8 bits, then down the columns. Nothing here knows a size, a
 * pixel format or a network: windows and weights are tables that the caller brings, computed at export
 * (mnv1deploy/c/resampling.py) or when a picture comes whose size was not known before, and rows are asked for one by
 * one. To use it elsewhere, include this file as it is, behind <stdint.h>; all of it is static.
 */
#ifndef INLINE
#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline, unused))
#elif defined(_MSC_VER)
#define INLINE static __forceinline
#else
#define INLINE static inline
#endif
#endif

/* Before a loop of few steps, whose number is known: it becomes straight code. */
#ifndef UNROLL
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 8")
#else
#define UNROLL
#endif
#endif

#define WEIGHT_BITS 22 /* weights are fractions of 2^22, and those of a window add up to about that */
#define HALF (1 << (WEIGHT_BITS - 1))
#define VALUES 4       /* of a row, that are added up side by side */

/* Where a pixel of the result comes from, on one axis: `count` of the source's from `first` on, with the weights that
 * begin at `weights` of the table. In the order of the result, `first` never falls. */
typedef struct {
    int first, count, weights;
} Window;

/* How one size becomes another. */
typedef struct {
    int size, colours;          /* of the result, which is square; 1 or 3, of both */
    int held;                   /* rows that are kept: the largest count of a window in `down` */
    const Window *across, *down; /* one for each column and each row of the result */
    const int32_t *weights;
} Resize;

/* Row y of the source, uint8 [width][colours], valid until the next call. Called with every y at most once, rising. */
typedef const uint8_t *(*ReadRow)(void *source, int y);

INLINE uint8_t weighted_mean(int32_t sum)
{
    return sum < 0 ? 0 : sum >> WEIGHT_BITS > 255 ? 255 : (uint8_t)(sum >> WEIGHT_BITS);
}

INLINE void resize_row(const Resize *r, const uint8_t *in, uint8_t *out, const int colours)
{
    const Window *w = r->across, *end = w + r->size;
    for (; w < end; w++, out += colours) {
        const int32_t *weights = r->weights + w->weights;
        const int32_t *const behind = weights + w->count;
        const uint8_t *pixel = in + w->first * colours;
        int32_t sums[3];
        int colour;
        UNROLL for (colour = 0; colour < colours; colour++)
            sums[colour] = HALF;
        for (; weights < behind; weights++, pixel += colours)
            UNROLL for (colour = 0; colour < colours; colour++)
                sums[colour] += pixel[colour] * *weights;
        UNROLL for (colour = 0; colour < colours; colour++)
            out[colour] = weighted_mean(sums[colour]);
    }
}

/* `values` values of a row of the result from column `in` of the rows that are kept, the first of them in row `start`. */
INLINE void resize_down(const Resize *r, const Window *w, const uint8_t *in, int start, uint8_t *out, const int values)
{
    const int width = r->size * r->colours;
    const int32_t *weights = r->weights + w->weights;
    int32_t sums[VALUES];
    int i, v, before = r->held - start; /* the rows are a ring */
    const uint8_t *row = in + start * width;
    UNROLL for (v = 0; v < values; v++)
        sums[v] = HALF;
    for (i = 0; i < w->count; i++, row += width) {
        if (i == before)
            row = in;
        UNROLL for (v = 0; v < values; v++)
            sums[v] += row[v] * weights[i];
    }
    UNROLL for (v = 0; v < values; v++)
        out[v] = weighted_mean(sums[v]);
}

/* out: uint8 [size][size][colours]; rows: held * size * colours bytes, this call's alone while it runs. */
static void resize(const Resize *r, ReadRow read, void *source, uint8_t *rows, uint8_t *out)
{
    const int width = r->size * r->colours;
    int y, v, next = 0;
    for (y = 0; y < r->size; y++, out += width) {
        const Window *w = &r->down[y];
        const int start = w->first % r->held;
        if (next < w->first)
            next = w->first;
        for (; next < w->first + w->count; next++) {
            const uint8_t *in = read(source, next);
            if (r->colours == 3)
                resize_row(r, in, rows + next % r->held * width, 3);
            else
                resize_row(r, in, rows + next % r->held * width, 1);
        }
        for (v = 0; v + VALUES <= width; v += VALUES)
            resize_down(r, w, rows + v, start, out + v, VALUES);
        for (; v < width; v++)
            resize_down(r, w, rows + v, start, out + v, 1);
    }
}

