/* ---- Kernels for RISC-V's vector extension ----------------------------------------------------------------------
 *
 * Version 1.0, registers of 128 bits or more. Sixteen outputs or channels at a time: their int32 sums are one group of
 * four registers. Vectors have no size that C knows, so they stand in no array.
 */
#if defined(__riscv_v) && __riscv_v >= 1000000 && defined(__riscv_v_intrinsic) && !defined(NO_SIMD)
#define RVV_KERNELS

#include <riscv_vector.h>

/* Sixteen times four neighbouring bytes, apart: a has the first of each. */
#if __riscv_v_intrinsic >= 12000
#define LOAD4_RVV(a, b, c, d, in) \
    do { \
        const vint8m1x4_t all = __riscv_vlseg4e8_v_i8m1x4(in, 16); \
        a = __riscv_vget_v_i8m1x4_i8m1(all, 0); \
        b = __riscv_vget_v_i8m1x4_i8m1(all, 1); \
        c = __riscv_vget_v_i8m1x4_i8m1(all, 2); \
        d = __riscv_vget_v_i8m1x4_i8m1(all, 3); \
    } while (0)
#else
#define LOAD4_RVV(a, b, c, d, in) __riscv_vlseg4e8_v_i8m1(&a, &b, &c, &d, in, 16)
#endif

/* What is done to every sum, as in requantize(): conversions round to nearest, halves to even. */
INLINE void store_rvv(uint8_t *out, vint32m4_t sums, vfloat32m4_t factors)
{
    const vfloat32m4_t scaled = __riscv_vfmul_vv_f32m4(__riscv_vfcvt_f_x_v_f32m4(sums, 16), factors, 16);
    vint32m4_t integers = __riscv_vmax_vx_i32m4(__riscv_vfcvt_x_f_v_i32m4(scaled, 16), 0, 16);
    integers = __riscv_vmin_vx_i32m4(integers, 255, 16);
    __riscv_vse8_v_u8m1(out, __riscv_vncvt_x_x_w_u8m1(__riscv_vreinterpret_v_i16m2_u16m2(
                                 __riscv_vncvt_x_x_w_i16m2(integers, 16)), 16), 16);
}

/* Input `i` of each pixel times the weights of it, to the sums. */
#define ADD_RVV(weights, i) \
    do { \
        const vint16m2_t words = __riscv_vsext_vf2_i16m2(weights, 16); \
        sums0 = __riscv_vwmacc_vx_i32m4(sums0, a[i], words, 16); \
        if (height > 1) \
            sums1 = __riscv_vwmacc_vx_i32m4(sums1, b[i], words, 16); \
        if (height > 2) \
            sums2 = __riscv_vwmacc_vx_i32m4(sums2, c[i], words, 16); \
        if (height > 3) \
            sums3 = __riscv_vwmacc_vx_i32m4(sums3, d[i], words, 16); \
    } while (0)

/* A register tile of a 1x1 convolution: `height` pixels by 16 outputs. */
INLINE void tile_rvv(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int output, const int height)
{
    const int inputs = padded(l->inputs, 4), step = padded(l->outputs, 16);
    const int8_t *weights = l->weights + output * inputs;
    const uint8_t *a = in, *b = a + stride, *c = b + stride, *d = c + stride, *const end = in + inputs;
    vint32m4_t sums0 = __riscv_vle32_v_i32m4(l->biases + output, 16), sums1 = sums0, sums2 = sums0, sums3 = sums0;
    vfloat32m4_t factors;
    for (; a != end; a += 4, b += 4, c += 4, d += 4, weights += 64) {
        vint8m1_t first, second, third, fourth;
        LOAD4_RVV(first, second, third, fourth, weights);
        ADD_RVV(first, 0);
        ADD_RVV(second, 1);
        ADD_RVV(third, 2);
        ADD_RVV(fourth, 3);
    }
    factors = __riscv_vle32_v_f32m4(l->factors + output, 16);
    store_rvv(out, sums0, factors);
    if (height > 1)
        store_rvv(out + step, sums1, factors);
    if (height > 2)
        store_rvv(out + 2 * step, sums2, factors);
    if (height > 3)
        store_rvv(out + 3 * step, sums3, factors);
}

static void pointwise_rvv(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int outputs = padded(l->outputs, 16);
    int o, p;
    for (o = 0; o < outputs; o += 16) {
        for (p = 0; p + 4 <= pixels; p += 4)
            tile_rvv(l, in + p * stride, stride, out + p * outputs + o, o, 4);
        for (; p < pixels; p++)
            tile_rvv(l, in + p * stride, 0, out + p * outputs + o, o, 1);
    }
}

/* Whole rows of patches are copied by registers, whatever their alignment. */
static void patches_rvv(const Layer *l, const uint8_t *image, uint8_t *out, int row, int rows)
{
    const int inner = inner_outputs(l);
    uint8_t padding[PATCH_ROW];
    int k, x, y;
    memset(padding, PADDING, sizeof padding);
    for (y = row; y < row + rows; y++, out += l->out_size * PATCH) {
        for (x = 0; x < l->left; x++)
            border_patch(l, image, out + x * PATCH, y, x);
        for (k = 0; k < 3; k++) {
            const int top = y * l->stride + k - l->top, inside = top >= 0 && top < l->in_size;
            const int step = inside ? l->stride * COLOURS : 0;
            const uint8_t *in = inside ? image + (top * l->in_size + l->left * (l->stride - 1)) * COLOURS : padding;
            for (x = l->left; x < inner; x++, in += step)
                __riscv_vse8_v_u8m1(out + x * PATCH + k * PATCH_ROW, __riscv_vle8_v_u8m1(in, PATCH_ROW), PATCH_ROW);
        }
        for (x = l->left > inner ? l->left : inner; x < l->out_size; x++)
            border_patch(l, image, out + x * PATCH, y, x);
    }
}

/* A pixel of each row times the weights of its column. A product is 16 bits. */
#define COLUMN_RVV(x, weights0, weights1, weights2) \
    do { \
        const vuint8m1_t upper = __riscv_vle8_v_u8m1(lines[0].in + (x) * lines[0].step, 16); \
        const vuint8m1_t middle = __riscv_vle8_v_u8m1(lines[1].in + (x) * lines[1].step, 16); \
        const vuint8m1_t lower = __riscv_vle8_v_u8m1(lines[2].in + (x) * lines[2].step, 16); \
        sums = __riscv_vwadd_wv_i32m4(sums, __riscv_vwmulsu_vv_i16m2(weights0, upper, 16), 16); \
        sums = __riscv_vwadd_wv_i32m4(sums, __riscv_vwmulsu_vv_i16m2(weights1, middle, 16), 16); \
        sums = __riscv_vwadd_wv_i32m4(sums, __riscv_vwmulsu_vv_i16m2(weights2, lower, 16), 16); \
    } while (0)

/* One output. Columns outside the picture are zeros, which add nothing. */
#define OUTPUT_RVV(has_left, has_right) \
    do { \
        const intptr_t column = (intptr_t)x * l->stride + 1 - l->left; \
        vint32m4_t sums = biases; \
        if (has_left) \
            COLUMN_RVV(column - 1, w00, w01, w02); \
        COLUMN_RVV(column, w10, w11, w12); \
        if (has_right) \
            COLUMN_RVV(column + 1, w20, w21, w22); \
        store_rvv(target, sums, factors); \
        target += channels; \
    } while (0)

static void depthwise_rvv(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const int channels = padded(l->inputs, 16), count = l->out_size, inner = inner_outputs(l);
    int c, k, x, y;
    for (c = 0; c < channels; c += 16) {
        const vint32m4_t biases = __riscv_vle32_v_i32m4(l->biases + c, 16);
        const vfloat32m4_t factors = __riscv_vle32_v_f32m4(l->factors + c, 16);
        vint8m1_t w00, w01, w02, w10, w11, w12, w20, w21, w22, zeros; /* column, row */
        LOAD4_RVV(w00, w01, w02, zeros, l->weights + c * 12);
        LOAD4_RVV(w10, w11, w12, zeros, l->weights + c * 12 + 64);
        LOAD4_RVV(w20, w21, w22, zeros, l->weights + c * 12 + 128);
        (void)zeros;
        for (y = 0; y < rows; y++) {
            uint8_t *target = out + y * count * channels + c;
            Line lines[3];
            for (k = 0; k < 3; k++)
                lines[k] = line_of(l, in, (row + y) * l->stride + k - l->top, c);
            x = 0;
            if (l->left) {
                if (x < inner)
                    OUTPUT_RVV(0, 1);
                else
                    OUTPUT_RVV(0, 0);
                x++;
            }
            for (; x < inner; x++)
                OUTPUT_RVV(1, 1);
            for (; x < count; x++)
                OUTPUT_RVV(1, 0);
        }
    }
}

static int has_rvv(void)
{
    return 1;
}

static const Kernels rvv_kernels = {has_rvv, patches_rvv, depthwise_rvv, pointwise_rvv,
                                     pool_portable, classify_portable, NULL, 0};
#endif

