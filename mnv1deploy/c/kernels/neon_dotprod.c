
/* ---- Kernels for Arm with dot products --------------------------------------------------------------------------
 *
 * Compiled in where the compiler is told that the processor has them, as with -march=armv8.2-a+dotprod. sdot adds four
 * products of signed bytes to an int32: 4 outputs, 4 inputs of each. Activations are unsigned, so it gets them less
 * 128, and the biases get 128 times the sum of the weights.
 */
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD) && !defined(NO_SIMD)
#define NEON_DOTPROD_KERNELS

#include <arm_neon.h>

/* Four integers, saturated to 16 bits; what is done to every sum, as in requantize(), but for the ReLU. */
INLINE int16x4_t scaled_neon(int32x4_t sums, const float *factors)
{
    return vqmovn_s32(vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums), vld1q_f32(factors))));
}

INLINE void store16_neon(uint8_t *out, const int32x4_t sums[4], const float *factors)
{
    const int16x8_t low = vcombine_s16(scaled_neon(sums[0], factors), scaled_neon(sums[1], factors + 4));
    const int16x8_t high = vcombine_s16(scaled_neon(sums[2], factors + 8), scaled_neon(sums[3], factors + 12));
    vst1q_u8(out, vcombine_u8(vqmovun_s16(low), vqmovun_s16(high)));
}

/* A register tile of a 1x1 convolution: `height` pixels by 16 outputs, from their biases on. */
INLINE void tile_neon(const Layer *l, const uint8_t *in, int stride, uint8_t *out, const int8_t *weights,
                      const float *factors, const int32x4_t biases[4], const int height)
{
    const int inputs = padded(l->inputs, 4), out_stride = padded(l->outputs, 16);
    int32x4_t sums[4][4];
    int i, p, q;
    UNROLL for (p = 0; p < height; p++)
        UNROLL for (q = 0; q < 4; q++)
            sums[p][q] = biases[q];
    for (i = 0; i < inputs; i += 4, weights += 64) {
        int8x16_t columns[4];
        UNROLL for (q = 0; q < 4; q++)
            columns[q] = vld1q_s8(weights + 16 * q);
        UNROLL for (p = 0; p < height; p++) {
            uint32_t bytes;
            int8x16_t pixel;
            memcpy(&bytes, in + p * stride + i, sizeof bytes);
            pixel = vreinterpretq_s8_u32(vdupq_n_u32(bytes ^ 0x80808080u));
            UNROLL for (q = 0; q < 4; q++)
                sums[p][q] = vdotq_s32(sums[p][q], columns[q], pixel);
        }
    }
    UNROLL for (p = 0; p < height; p++)
        store16_neon(out + p * out_stride, sums[p], factors);
}

static void pointwise_neon(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int inputs = padded(l->inputs, 4), outputs = padded(l->outputs, 16);
    int o, i, p, q;
    for (o = 0; o < outputs; o += 16) {
        const int8_t *weights = l->weights + o * inputs;
        int32x4_t biases[4];
        for (q = 0; q < 4; q++) {
            int32x4_t sums = vdupq_n_s32(0);
            for (i = 0; i < inputs; i += 4)
                sums = vdotq_s32(sums, vld1q_s8(weights + 16 * (i + q)), vdupq_n_s8(-128));
            biases[q] = vsubq_s32(vld1q_s32(l->biases + o + 4 * q), sums);
        }
        for (p = 0; p + 4 <= pixels; p += 4)
            tile_neon(l, in + p * stride, stride, out + p * outputs + o, weights, l->factors + o, biases, 4);
        for (; p < pixels; p++)
            tile_neon(l, in + p * stride, stride, out + p * outputs + o, weights, l->factors + o, biases, 1);
    }
}

/* Of 16 channels at a time. */
static void depthwise_neon(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const int channels = padded(l->inputs, 16);
    int c, y, x, ky, kx, q;
    for (c = 0; c < channels; c += 16) {
        int8x16x4_t weights[3]; /* of a column: its rows, and a zero */
        uint8_t *target = out + c;
        for (kx = 0; kx < 3; kx++)
            weights[kx] = vld4q_s8(l->weights + (c * 3 + kx * 16) * 4);
        for (y = row; y < row + rows; y++)
            for (x = 0; x < l->out_size; x++, target += channels) {
                int32x4_t sums[4];
                UNROLL for (q = 0; q < 4; q++)
                    sums[q] = vld1q_s32(l->biases + c + 4 * q);
                UNROLL for (ky = 0; ky < 3; ky++)
                    UNROLL for (kx = 0; kx < 3; kx++) {
                        const int top = y * l->stride + ky - l->top, left = x * l->stride + kx - l->left;
                        if (top >= 0 && top < l->in_size && left >= 0 && left < l->in_size) {
                            const uint8x16_t pixel = vld1q_u8(in + (top * l->in_size + left) * channels + c);
                            const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(pixel)));
                            const int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(pixel));
                            const int16x8_t w_low = vmovl_s8(vget_low_s8(weights[kx].val[ky]));
                            const int16x8_t w_high = vmovl_high_s8(weights[kx].val[ky]);
                            sums[0] = vmlal_s16(sums[0], vget_low_s16(low), vget_low_s16(w_low));
                            sums[1] = vmlal_high_s16(sums[1], low, w_low);
                            sums[2] = vmlal_s16(sums[2], vget_low_s16(high), vget_low_s16(w_high));
                            sums[3] = vmlal_high_s16(sums[3], high, w_high);
                        }
                    }
                store16_neon(target, sums, l->factors + c);
            }
    }
}

static int has_neon_dotprod(void)
{
    return 1;
}

static const Kernels neon_dotprod_kernels = {has_neon_dotprod, patches_portable,  depthwise_neon, pointwise_neon,
                                             pool_portable,    classify_portable, NULL};

#endif

