/* ---- Kernels for WebAssembly with 128-bit SIMD --------------------------------------------------------------------
 *
 * i32x4.dot_i16x8_s adds two products of 16 bits. What is between the two operations of a fusion has 16 bits, [pixel]
 * [inputs], so that in the innermost loop only weights are widened, which loading them does. Nothing is relaxed: all
 * engines give the same bits.
 */
#if defined(__wasm_simd128__) && defined(__GNUC__) && !defined(NO_SIMD)
#define WASM_SIMD128_KERNELS
#undef PORTABLE_KERNELS /* a module with SIMD runs nowhere without */

#include <wasm_simd128.h>

/* The buffer between, as 16-bit values, which an engine reads as well wherever they lie. */
INLINE int16_t *words_simd128(uint8_t *between)
{
    return (int16_t *)(void *)(((uintptr_t)between + 7) & ~(uintptr_t)7);
}

/* Four sums, scaled and rounded to the nearest, halves to even, as requantize_in_float() does; what narrows them
 * saturates. */
INLINE v128_t requantized_simd128(v128_t sums, v128_t factors)
{
    const v128_t units = wasm_f32x4_const_splat(12582912.0f); /* 1.5 * 2^23: floats are one apart, so adding rounds */
    v128_t values = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(sums), factors);
    if (!SCALED_FIT_22_BITS) /* pmax and pmin are one instruction where max and min take several */
        values = wasm_f32x4_pmin(wasm_f32x4_pmax(values, wasm_f32x4_const_splat(0.0f)), wasm_f32x4_const_splat(255.0f));
    return wasm_i32x4_sub(wasm_f32x4_add(values, units), units);
}

/* The sums of `height` pixels, `step` values apart, by four outputs, whose weights are 64 bytes from four inputs to the
 * next. */
INLINE void accumulate_simd128(v128_t sums[4], const int16_t *in, int step, int inputs, const int8_t *weights,
                               const int32_t *biases, const int height)
{
    const int16_t *end = in + inputs;
    v128_t low[4], high[4]; /* two sums of either of two outputs */
    int p;
    UNROLL for (p = 0; p < height; p++) {
        low[p] = wasm_u64x2_load32x2(biases);
        high[p] = wasm_u64x2_load32x2(biases + 2);
    }
    for (; in != end; in += 4, weights += 64) {
        const v128_t first = wasm_i16x8_load8x8(weights), second = wasm_i16x8_load8x8(weights + 8);
        UNROLL for (p = 0; p < height; p++) {
            const v128_t pixel = wasm_v128_load64_splat(in + p * step);
            low[p] = wasm_i32x4_add(low[p], wasm_i32x4_dot_i16x8(pixel, first));
            high[p] = wasm_i32x4_add(high[p], wasm_i32x4_dot_i16x8(pixel, second));
        }
    }
    UNROLL for (p = 0; p < height; p++)
        sums[p] = wasm_i32x4_add(wasm_i32x4_shuffle(low[p], high[p], 0, 2, 4, 6),
                                 wasm_i32x4_shuffle(low[p], high[p], 1, 3, 5, 7));
}

static void pointwise_wasm_simd128(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int inputs = padded(l->inputs, 4), outputs = padded(l->outputs, 4), apart = padded(l->outputs, 16);
    int o, p, q;
    for (o = 0; o < outputs; o += 4) {
        const int8_t *weights = weights_of(l, o);
        const int32_t *biases = l->biases + o;
        const v128_t factors = wasm_v128_load(l->factors + o);
        const int16_t *between = words_simd128(in);
        uint8_t *target = out + o;
        v128_t sums[4], bytes;
        for (p = 0; p + 4 <= pixels; p += 4, between += 4 * stride, target += 4 * apart) {
            accumulate_simd128(sums, between, stride, inputs, weights, biases, 4);
            UNROLL for (q = 0; q < 4; q++)
                sums[q] = requantized_simd128(sums[q], factors);
            bytes = wasm_u8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(sums[0], sums[1]),
                                            wasm_i16x8_narrow_i32x4(sums[2], sums[3]));
            wasm_v128_store32_lane(target, bytes, 0);
            wasm_v128_store32_lane(target + apart, bytes, 1);
            wasm_v128_store32_lane(target + 2 * apart, bytes, 2);
            wasm_v128_store32_lane(target + 3 * apart, bytes, 3);
        }
        for (; p < pixels; p++, between += stride, target += apart) {
            accumulate_simd128(sums, between, stride, inputs, weights, biases, 1);
            bytes = wasm_i16x8_narrow_i32x4(requantized_simd128(sums[0], factors), factors);
            wasm_v128_store32_lane(target, wasm_u8x16_narrow_i16x8(bytes, bytes), 0);
        }
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

/* A column of three rows of eight channels, in 16 bits: the first two rows in pairs, of channels 0 to 3 and 4 to 7, and
 * the third row. */
typedef struct {
    v128_t low, high, third;
} ColumnSimd128;

INLINE ColumnSimd128 column_simd128(const Line lines[3], intptr_t x)
{
    const v128_t a = wasm_v128_load64_zero(lines[0].in + x * lines[0].step);
    const v128_t b = wasm_v128_load64_zero(lines[1].in + x * lines[1].step);
    const v128_t both = wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    ColumnSimd128 column;
    column.low = wasm_u16x8_extend_low_u8x16(both);
    column.high = wasm_u16x8_extend_high_u8x16(both);
    column.third = wasm_u16x8_load8x8(lines[2].in + x * lines[2].step);
    return column;
}

/* What one output of eight channels needs besides its pixels. */
typedef struct {
    v128_t weights[5][2]; /* first two rows of each column; third row of the first two columns; of the last */
    v128_t biases[2], factors[2];
} ChannelsSimd128;

INLINE v128_t added_simd128(v128_t sum, v128_t pixels, v128_t weights)
{
    return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(pixels, weights));
}

INLINE void output_simd128(int16_t *out, const ChannelsSimd128 *c, ColumnSimd128 left, ColumnSimd128 middle,
                           ColumnSimd128 right)
{
    const v128_t both = wasm_i16x8_shuffle(left.third, middle.third, 0, 8, 1, 9, 2, 10, 3, 11);
    const v128_t others = wasm_i16x8_shuffle(left.third, middle.third, 4, 12, 5, 13, 6, 14, 7, 15);
    v128_t low = added_simd128(c->biases[0], left.low, c->weights[0][0]);
    v128_t high = added_simd128(c->biases[1], left.high, c->weights[0][1]);
    low = added_simd128(low, middle.low, c->weights[1][0]);
    high = added_simd128(high, middle.high, c->weights[1][1]);
    low = added_simd128(low, right.low, c->weights[2][0]);
    high = added_simd128(high, right.high, c->weights[2][1]);
    low = added_simd128(low, both, c->weights[3][0]);
    high = added_simd128(high, others, c->weights[3][1]);
    low = added_simd128(low, wasm_u32x4_extend_low_u16x8(right.third), c->weights[4][0]);
    high = added_simd128(high, wasm_u32x4_extend_high_u16x8(right.third), c->weights[4][1]);
    low = wasm_i16x8_narrow_i32x4(requantized_simd128(low, c->factors[0]), requantized_simd128(high, c->factors[1]));
    low = wasm_i16x8_max(low, wasm_i16x8_const_splat(0));
    wasm_v128_store(out, wasm_i16x8_min(low, wasm_i16x8_const_splat(255)));
}

/* One row of outputs. Columns are loaded once: what was right of an output is in the middle of the next one, or with
 * stride 2 left of it. */
INLINE void row_simd128(const Layer *l, const ChannelsSimd128 *c, const Line lines[3], int16_t *out, int step,
                        const int stride)
{
    const int last = l->in_size - 1, left = stride == 1 ? 1 : l->left;
    const v128_t zero = wasm_i32x4_const_splat(0);
    const ColumnSimd128 none = {zero, zero, zero};
    ColumnSimd128 a = left ? none : column_simd128(lines, 0), b = none, d;
    int x;
    if (stride == 1)
        b = column_simd128(lines, 0);
    for (x = 0; x < l->out_size; x++, out += step) {
        const int middle = x * stride + 1 - left;
        if (stride == 2)
            b = middle <= last ? column_simd128(lines, middle) : none;
        d = middle < last ? column_simd128(lines, middle + 1) : none;
        output_simd128(out, c, a, b, d);
        a = stride == 1 ? b : d;
        b = d;
    }
}

/* The weights of four channels. */
INLINE void weights_simd128(const int8_t *in, v128_t out[5][2], const int half)
{
    v128_t third[3];
    int k;
    UNROLL for (k = 0; k < 3; k++) {
        const v128_t a = wasm_i16x8_load8x8(in + 64 * k), b = wasm_i16x8_load8x8(in + 64 * k + 8);
        out[k][half] = wasm_i32x4_shuffle(a, b, 0, 2, 4, 6);
        third[k] = wasm_i32x4_shuffle(a, b, 1, 3, 5, 7); /* and zeros */
    }
    out[3][half] = wasm_v128_or(third[0], wasm_i32x4_shl(third[1], 16));
    out[4][half] = third[2];
}

static void depthwise_wasm_simd128(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const int channels = padded(l->inputs, 8), step = padded(l->inputs, 16);
    int16_t *between = words_simd128(out);
    int c, k, q, y;
    for (c = 0; c < channels; c += 8) {
        ChannelsSimd128 parameters;
        for (q = 0; q < 2; q++) {
            weights_simd128(l->weights + c / 16 * 192 + (c % 16 + 4 * q) * 4, parameters.weights, q);
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

