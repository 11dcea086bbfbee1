/* ---- What all kernels share ------------------------------------------------------------------------------------
 *
 * Activations are uint8, [height][width][channels], channels padded to 16 so that pixels are a multiple of 16 apart;
 * what is in the padding does not matter. real = scale * integer, except the pixels', whose zero point is folded into
 * the stem's biases.
 */
#if defined(__GNUC__) || defined(__clang__) /* clang-cl says the second alone */
#define INLINE static inline __attribute__((always_inline, unused))
#define COMPILED_FOR(instructions) __attribute__((target(instructions)))
#elif defined(_MSC_VER)
#define INLINE static __forceinline
#define COMPILED_FOR(instructions) /* it has all of them everywhere */
#else
#define INLINE static inline
#endif

/* Before a loop of few steps, whose number is known: it becomes straight code. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 8")
#else
#define UNROLL
#endif

/* A 3x3 or 1x1 convolution. Weights are int8, in the order in which vector registers want them:
 *   3x3 depthwise      [channels / 16][column of 3][16 channels][row of 3, and a zero]
 *   1x1 and the stem   [outputs / 16][inputs / 4][16 outputs][4 inputs]
 * Biases are int32 in units of input scale * weight scale; factors are input scale * weight scale / output scale.
 * Inputs of the stem are those of a whole patch: row, column, colour. */
typedef struct {
    const char *name;
    int in_size, out_size, stride; /* height and width in pixels */
    int top, left;                 /* padding, 0 or 1; below and to the right it is what the sizes leave */
    int inputs, outputs;           /* channels, without padding */
    const int8_t *weights;
    const int32_t *biases;
    const float *factors;
} Layer;

/* The kernels of one instruction set. */
typedef struct {
    int (*has)(void); /* whether this processor can run them */

    /* The patches that rows `row` to `row + rows` of the stem's output read, padded(inputs, 16) bytes apart. */
    void (*patches)(const Layer *, const uint8_t *image, uint8_t *out, int row, int rows);

    /* Rows `row` to `row + rows` of a 3x3 depthwise convolution; `out` is where the first of them goes. */
    void (*depthwise)(const Layer *, const uint8_t *in, uint8_t *out, int row, int rows);

    /* A 1x1 convolution of pixels that are `stride` bytes apart, which it may overwrite. */
    void (*pointwise)(const Layer *, uint8_t *in, int stride, uint8_t *out, int pixels);

    /* The mean over all pixels: their sum, requantized with POOL_FACTOR. */
    void (*pool)(const uint8_t *in, uint8_t *out, int pixels, int channels);

    void (*classify)(const Layer *, const uint8_t *in, float *logits);

    /* Called before pointwise with what it returned before, at first 0, and with no pixels when a thread that is not
     * the last one's is done; may be NULL. */
    int (*shape)(const Layer *pointwise, int pixels, int before);

    /* Whether patches and depthwise write, and pointwise reads, what is between them in an order of their own, of twice
     * the bytes, with room behind it for four bytes an input. */
    int packed;
} Kernels;

INLINE int padded(int channels, int multiple)
{
    return (channels + multiple - 1) / multiple * multiple;
}

INLINE int smaller(int a, int b)
{
    return a < b ? a : b;
}

INLINE int32_t four_bytes(const uint8_t *in)
{
    int32_t bytes;
    memcpy(&bytes, in, sizeof bytes);
    return bytes;
}

/* A 1x1 convolution's weights of one output: four inputs at a time, 64 bytes apart. */
INLINE const int8_t *weights_of(const Layer *l, int output)
{
    return l->weights + output / 16 * 16 * padded(l->inputs, 4) + output % 16 * 4;
}

/* Where some channels of a row are, and how far apart its pixels are. A row outside the picture is zeros of any
 * length. */
typedef struct {
    const uint8_t *in;
    intptr_t step;
} Line;

/* Row `top` from channel `c` on. */
INLINE Line line_of(const Layer *l, const uint8_t *in, int top, int c)
{
    static const uint8_t zeros[64] = {0};
    const int step = padded(l->inputs, 16), inside = top >= 0 && top < l->in_size;
    Line line;
    line.in = inside ? in + top * l->in_size * step + c : zeros;
    line.step = inside ? step : 0;
    return line;
}

/* Outputs of a row before this one read no column beyond the last. */
INLINE int inner_outputs(const Layer *l)
{
    return smaller((l->in_size - 3 + l->left + l->stride) / l->stride, l->out_size);
}

enum {
    PATCH_ROW = 3 * COLOURS,             /* bytes that a patch has of each of three rows */
    PATCH = (3 * PATCH_ROW + 15) & ~15,  /* from one to the next */
    COPIED = COLOURS == 3 ? 16 : 4,      /* instead of PATCH_ROW, as registers do; what follows overwrites the rest */
    COPIED_PIXELS = (COPIED + COLOURS - 1) / COLOURS
};

/* A patch, wherever it lies. */
INLINE void border_patch(const Layer *l, const uint8_t *image, uint8_t *out, int y, int x)
{
    int k, colour;
    for (k = 0; k < 9; k++) {
        const int top = y * l->stride + k / 3 - l->top, left = x * l->stride + k % 3 - l->left;
        const int inside = top >= 0 && top < l->in_size && left >= 0 && left < l->in_size;
        for (colour = 0; colour < COLOURS; colour++)
            out[COLOURS * k + colour] = inside ? image[(top * l->in_size + left) * COLOURS + colour] : PADDING;
    }
}

/* Cuts patches out of row y, from l->left to the one before that it returns, COPIED bytes of each of three rows at a
 * time. Patches for which that would read outside the picture are left to the caller. */
INLINE int inner_patches(const Layer *l, const uint8_t *image, uint8_t *out, int y)
{
    const int line = l->in_size * COLOURS, step = l->stride * COLOURS, last = l->in_size - 1;
    const int middle = y * l->stride + 1 - l->top, bottom = middle + 1;
    const int pixels = bottom < last ? 3 : COPIED_PIXELS;
    const int end = smaller((l->in_size - pixels + l->left) / l->stride + 1, l->out_size - 1);
    const int above = middle > 0 ? step : 0, below = bottom <= last ? step : 0; /* outside, one padding for all */
    uint8_t padding[COPIED];
    const uint8_t *a, *b = image + middle * line + l->left * (step - COLOURS), *c;
    int x;
    memset(padding, PADDING, sizeof padding);
    a = above ? b - line : padding;
    c = below ? b + line : padding;
    for (x = l->left, out += x * PATCH; x < end; x++, a += above, b += step, c += below, out += PATCH) {
        memcpy(out, a, COPIED);
        memcpy(out + PATCH_ROW, b, COPIED);
        memcpy(out + 2 * PATCH_ROW, c, COPIED);
    }
    return end;
}

/* All patches of some rows. */
INLINE void shared_patches(const Layer *l, const uint8_t *image, uint8_t *out, int row, int rows)
{
    int x, y;
    for (y = row; y < row + rows; y++, out += l->out_size * PATCH) {
        for (x = 0; x < l->left; x++)
            border_patch(l, image, out + x * PATCH, y, x);
        for (x = inner_patches(l, image, out, y); x < l->out_size; x++)
            border_patch(l, image, out + x * PATCH, y, x);
    }
}

