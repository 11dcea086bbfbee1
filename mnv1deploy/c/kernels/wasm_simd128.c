/* ---- Kernels for WebAssembly with 128-bit SIMD --------------------------------------------------------------------
 *
 * i32x4.dot_i16x8_s adds two products of 16 bits. What is between the two operations of a fusion has 16 bits, [pixel]
 * [inputs], so that in the innermost loop only weights are widened, which loading them does. Nothing is relaxed: all
 * engines give the same bits.
 */
#if defined(__wasm_simd128__) && defined(__GNUC__) && !defined(NO_SIMD)
#define WASM_SIMD128_KERNELS

#include <wasm_simd128.h>

/* The buffer between, as 16-bit values, which an engine reads as well wherever they lie. */
INLINE int16_t *words_simd128(uint8_t *between)
{
    return (int16_t *)(void *)(((uintptr_t)between + 7) & ~(uintptr_t)7);
}

/* Four sums, scaled, rounded to the nearest, halves to even, and saturated to 0..255, as requantize_in_float() does;
 * pmax and pmin are one instruction where max and min take several. */
INLINE v128_t requantized_simd128(v128_t sums, v128_t factors)
{
    const v128_t units = wasm_f32x4_const_splat(8388608.0f); /* 2^23: floats are one apart, so the addition rounds */
    v128_t values = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(sums), factors);
    values = wasm_f32x4_pmin(wasm_f32x4_pmax(values, wasm_f32x4_const_splat(0.0f)), wasm_f32x4_const_splat(255.0f));
    return wasm_i32x4_sub(wasm_f32x4_add(values, units), units);
}

/* The sums of `height` pixels, `step` values apart, by four outputs, whose weights are `apart` bytes from four inputs to
 * the next. */
INLINE void accumulate_simd128(v128_t sums[4], const int16_t *in, int step, int inputs, const int8_t *weights,
                               const int32_t *biases, const int height)
{
    const int16_t *end = in + inputs;
    v128_t low[4], high[4];
    int p;
    UNROLL for (p = 0; p < height; p++)
        low[p] = high[p] = wasm_i32x4_const_splat(0);
    for (; in != end; in += 4, weights += 64) {
        const v128_t first = wasm_i16x8_load8x8(weights), second = wasm_i16x8_load8x8(weights + 8);
        UNROLL for (p = 0; p < height; p++) {
            const v128_t pixel = wasm_v128_load64_splat(in + p * step);
            low[p] = wasm_i32x4_add(low[p], wasm_i32x4_dot_i16x8(pixel, first));
            high[p] = wasm_i32x4_add(high[p], wasm_i32x4_dot_i16x8(pixel, second));
        }
    }
    UNROLL for (p = 0; p < height; p++) {
        const v128_t even = wasm_i32x4_shuffle(low[p], high[p], 0, 2, 4, 6);
        const v128_t odd = wasm_i32x4_shuffle(low[p], high[p], 1, 3, 5, 7);
        sums[p] = wasm_i32x4_add(wasm_i32x4_add(even, odd), wasm_v128_load(biases));
    }
}

INLINE void tile_simd128(const Layer *l, const int16_t *in, int step, int output, uint8_t *out, const int height)
{
    const v128_t factors = wasm_v128_load(l->factors + output);
    v128_t sums[4];
    int p;
    accumulate_simd128(sums, in, step, padded(l->inputs, 4), weights_of(l, output), l->biases + output, height);
    UNROLL for (p = 0; p < height; p++) {
        v128_t bytes = requantized_simd128(sums[p], factors);
        bytes = wasm_i16x8_narrow_i32x4(bytes, bytes);
        wasm_v128_store32_lane(out + p * padded(l->outputs, 16), wasm_u8x16_narrow_i16x8(bytes, bytes), 0);
    }
}

static void pointwise_wasm_simd128(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int outputs = padded(l->outputs, 4), apart = padded(l->outputs, 16);
    const int16_t *between = words_simd128(in);
    int o, p;
    for (o = 0; o < outputs; o += 4) {
        for (p = 0; p + 4 <= pixels; p += 4)
            tile_simd128(l, between + p * stride, stride, o, out + p * apart + o, 4);
        for (; p < pixels; p++)
            tile_simd128(l, between + p * stride, stride, o, out + p * apart + o, 1);
    }
}

static void patches_wasm_simd128(const Layer *l, const uint8_t *image, uint8_t *out, int row, int rows)
{
    const int count = l->out_size * rows * PATCH;
    int16_t *between = words_simd128(out);
    int i;
    /* the patches themselves in the upper half of where they go, which widening, from below, reaches last */
    uint8_t *bytes = (uint8_t *)between + count;
    shared_patches(l, image, bytes, row, rows);
    for (i = 0; i < count; i += 16) {
        const v128_t sixteen = wasm_v128_load(bytes + i);
        wasm_v128_store(between + i, wasm_u16x8_extend_low_u8x16(sixteen));
        wasm_v128_store(between + i + 8, wasm_u16x8_extend_high_u8x16(sixteen));
    }
}

/* Column x of three rows of eight channels: in pairs the first two rows of channels 0 to 3, then of 4 to 7; the same of
 * the third row and zeros. */
typedef struct {
    v128_t pairs[4];
} ColumnSimd128;

INLINE ColumnSimd128 column_simd128(const Line lines[3], intptr_t x)
{
    const v128_t zero = wasm_i32x4_const_splat(0);
    const v128_t a = wasm_v128_load64_zero(lines[0].in + x * lines[0].step);
    const v128_t b = wasm_v128_load64_zero(lines[1].in + x * lines[1].step);
    const v128_t c = wasm_u16x8_load8x8(lines[2].in + x * lines[2].step);
    const v128_t both = wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    ColumnSimd128 column;
    column.pairs[0] = wasm_u16x8_extend_low_u8x16(both);
    column.pairs[1] = wasm_u16x8_extend_high_u8x16(both);
    column.pairs[2] = wasm_u32x4_extend_low_u16x8(c);
    column.pairs[3] = wasm_i16x8_shuffle(c, zero, 4, 12, 5, 13, 6, 14, 7, 15);
    return column;
}

/* What one output of eight channels needs besides its pixels. */
typedef struct {
    v128_t weights[3][4]; /* column; in the order of its pairs */
    v128_t biases[2], factors[2];
} ChannelsSimd128;

INLINE void output_simd128(int16_t *out, const ChannelsSimd128 *c, const ColumnSimd128 *left,
                           const ColumnSimd128 *middle, const ColumnSimd128 *right)
{
    const ColumnSimd128 *columns[3] = {left, middle, right};
    v128_t sums[2];
    int k, q;
    sums[0] = c->biases[0];
    sums[1] = c->biases[1];
    UNROLL for (k = 0; k < 3; k++)
        UNROLL for (q = 0; q < 4; q++)
            sums[q % 2] = wasm_i32x4_add(sums[q % 2], wasm_i32x4_dot_i16x8(columns[k]->pairs[q], c->weights[k][q]));
    sums[0] = requantized_simd128(sums[0], c->factors[0]);
    sums[1] = requantized_simd128(sums[1], c->factors[1]);
    wasm_v128_store(out, wasm_i16x8_narrow_i32x4(sums[0], sums[1]));
}

/* One row of outputs. Columns are loaded once: what was right of an output is in the middle of the next one, or with
 * stride 2 left of it. */
INLINE void row_simd128(const Layer *l, const ChannelsSimd128 *c, const Line lines[3], int16_t *out, int step,
                        const int stride)
{
    const int last = l->in_size - 1, left = stride == 1 ? 1 : l->left;
    const v128_t zero = wasm_i32x4_const_splat(0);
    const ColumnSimd128 none = {{zero, zero, zero, zero}};
    ColumnSimd128 a = left ? none : column_simd128(lines, 0), b = none, d;
    int x;
    if (stride == 1)
        b = column_simd128(lines, 0);
    for (x = 0; x < l->out_size; x++, out += step) {
        const int middle = x * stride + 1 - left;
        if (stride == 2)
            b = middle <= last ? column_simd128(lines, middle) : none;
        d = middle < last ? column_simd128(lines, middle + 1) : none;
        output_simd128(out, c, &a, &b, &d);
        a = stride == 1 ? b : d;
        b = d;
    }
}

/* Bytes 2 pair and 2 pair + 1 of the four weights of each of four channels, as words. */
INLINE v128_t weights_simd128(const int8_t *in, int pair)
{
    const v128_t bytes = wasm_v128_load(in), moved = pair ? bytes : wasm_i32x4_shl(bytes, 16);
    const v128_t even = wasm_u32x4_shr(wasm_i32x4_shr(wasm_i32x4_shl(moved, 8), 8), 16);
    const v128_t odd = wasm_i32x4_shr(moved, 24);
    return wasm_v128_or(even, wasm_i32x4_shl(odd, 16));
}

static void depthwise_wasm_simd128(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const int channels = padded(l->inputs, 8), step = padded(l->inputs, 16);
    int16_t *between = words_simd128(out);
    int c, k, q, y;
    for (c = 0; c < channels; c += 8) {
        ChannelsSimd128 parameters;
        for (k = 0; k < 3; k++)
            for (q = 0; q < 4; q++)
                parameters.weights[k][q] =
                    weights_simd128(l->weights + (c / 16 * 3 + k) * 64 + (c % 16 + q % 2 * 4) * 4, q / 2);
        for (q = 0; q < 2; q++) {
            parameters.biases[q] = wasm_v128_load(l->biases + c + 4 * q);
            parameters.factors[q] = wasm_v128_load(l->factors + c + 4 * q);
        }
        for (y = 0; y < rows; y++) {
            int16_t *target = between + y * l->out_size * step + c;
            Line lines[3];
            for (k = 0; k < 3; k++)
                lines[k] = line_of(l, in, (row + y) * l->stride + k - l->top, c);
            if (l->stride == 1)
                row_simd128(l, &parameters, lines, target, step, 1);
            else
                row_simd128(l, &parameters, lines, target, step, 2);
        }
    }
}

static void classify_wasm_simd128(const Layer *l, const uint8_t *in, float *logits)
{
    const int inputs = padded(l->inputs, 4);
    int o;
    for (o = 0; o < l->outputs; o += 4) {
        v128_t low = wasm_i32x4_const_splat(0), high = low, sums;
        const int8_t *weights = weights_of(l, o);
        float values[4];
        int i;
        for (i = 0; i < inputs; i += 4, weights += 64) {
            const v128_t pixel = wasm_u16x8_extend_low_u8x16(wasm_v128_load32_splat(in + i));
            low = wasm_i32x4_add(low, wasm_i32x4_dot_i16x8(pixel, wasm_i16x8_load8x8(weights)));
            high = wasm_i32x4_add(high, wasm_i32x4_dot_i16x8(pixel, wasm_i16x8_load8x8(weights + 8)));
        }
        sums = wasm_i32x4_add(wasm_i32x4_shuffle(low, high, 0, 2, 4, 6), wasm_i32x4_shuffle(low, high, 1, 3, 5, 7));
        sums = wasm_i32x4_add(sums, wasm_v128_load(l->biases + o));
        wasm_v128_store(values, wasm_f32x4_mul(wasm_f32x4_convert_i32x4(sums), wasm_v128_load(l->factors + o)));
        memcpy(logits + o, values, sizeof *values * (size_t)smaller(4, l->outputs - o));
    }
}

static int has_wasm_simd128(void)
{
    return 1;
}

static const Kernels wasm_simd128_kernels = {has_wasm_simd128, patches_wasm_simd128, depthwise_wasm_simd128,
                                             pointwise_wasm_simd128, pool_portable, classify_wasm_simd128, NULL, 1};
#endif

