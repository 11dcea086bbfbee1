/* ---- Kernels for 64-bit Arm with matrix products of bytes ------------------------------------------------------
 *
 * usmmla multiplies two pixels of eight unsigned bytes by two outputs of eight weights, and adds to four int32.
 */
#if defined(NEON_KERNELS) && \
    (defined(__ARM_FEATURE_MATMUL_INT8) || (defined(ARM_TARGETS) && !defined(__ARM_FEATURE_DOTPROD)))
#define NEON_I8MM_KERNELS

#ifdef __ARM_FEATURE_MATMUL_INT8
#define I8MM
#else
#define I8MM COMPILED_FOR("arch=armv8.2-a+i8mm")
#endif

/* The same eight inputs of two pixels, the second `stride` bytes on. */
INLINE uint8x16_t two_pixels_i8mm(const uint8_t *in, int stride)
{
    return vcombine_u8(vld1_u8(in), vld1_u8(in + stride));
}

/* The same four, and zeros. */
INLINE uint8x16_t two_short_pixels_i8mm(const uint8_t *in, int stride)
{
    const uint32x4_t bytes = {(uint32_t)four_bytes(in), 0, (uint32_t)four_bytes(in + stride), 0};
    return vreinterpretq_u8_u32(bytes);
}

/* The lower two of four outputs: eight inputs of each. */
INLINE int8x16_t low_i8mm(int8x16_t a, int8x16_t b)
{
    return vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}

INLINE int8x16_t high_i8mm(int8x16_t a, int8x16_t b)
{
    return vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}

/* A register tile of a 1x1 convolution: 2 x `pairs` pixels by 16 outputs. A single pixel is computed twice, with
 * stride 0. sums[p][q]: two pixels by outputs 2 q and 2 q + 1. */
I8MM INLINE void tile_i8mm(const uint8_t *in, int stride, int inputs, uint8_t *out, int out_stride,
                           const int8_t *weights, const int32x4_t biases[4], const float32x4_t factors[4],
                           const int pairs)
{
    int32x4_t sums[2][8];
    int i = 0, p, q;
    UNROLL for (p = 0; p < pairs; p++)
        UNROLL for (q = 0; q < 4; q++) {
            sums[p][2 * q] = vcombine_s32(vget_low_s32(biases[q]), vget_low_s32(biases[q]));
            sums[p][2 * q + 1] = vcombine_s32(vget_high_s32(biases[q]), vget_high_s32(biases[q]));
        }
    for (; i + 8 <= inputs; i += 8, weights += 128) {
        uint8x16_t bytes[2];
        UNROLL for (p = 0; p < pairs; p++)
            bytes[p] = two_pixels_i8mm(in + 2 * p * stride + i, stride);
        UNROLL for (q = 0; q < 4; q++) {
            const int8x16_t v = vld1q_s8(weights + 16 * q), w = vld1q_s8(weights + 64 + 16 * q);
            const int8x16_t low = low_i8mm(v, w), high = high_i8mm(v, w);
            UNROLL for (p = 0; p < pairs; p++) {
                sums[p][2 * q] = vusmmlaq_s32(sums[p][2 * q], bytes[p], low);
                sums[p][2 * q + 1] = vusmmlaq_s32(sums[p][2 * q + 1], bytes[p], high);
            }
        }
    }
    if (i < inputs)
        UNROLL for (q = 0; q < 4; q++) {
            const int8x16_t v = vld1q_s8(weights + 16 * q);
            UNROLL for (p = 0; p < pairs; p++) {
                const uint8x16_t bytes = two_short_pixels_i8mm(in + 2 * p * stride + i, stride);
                sums[p][2 * q] = vusmmlaq_s32(sums[p][2 * q], bytes, low_i8mm(v, v));
                sums[p][2 * q + 1] = vusmmlaq_s32(sums[p][2 * q + 1], bytes, high_i8mm(v, v));
            }
        }
    UNROLL for (p = 0; p < pairs; p++)
        UNROLL for (q = 0; q < 4; q += 2) {
            const int32x4_t *s = sums[p] + 2 * q;
            int32x4_t first[2], second[2];
            first[0] = vcombine_s32(vget_low_s32(s[0]), vget_low_s32(s[1]));
            first[1] = vcombine_s32(vget_low_s32(s[2]), vget_low_s32(s[3]));
            second[0] = vcombine_s32(vget_high_s32(s[0]), vget_high_s32(s[1]));
            second[1] = vcombine_s32(vget_high_s32(s[2]), vget_high_s32(s[3]));
            vst1_u8(out + 2 * p * out_stride + 4 * q, bytes_neon(first[0], first[1], factors[q], factors[q + 1]));
            if (stride)
                vst1_u8(out + (2 * p + 1) * out_stride + 4 * q,
                        bytes_neon(second[0], second[1], factors[q], factors[q + 1]));
        }
}

I8MM static void pointwise_neon_i8mm(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int inputs = padded(l->inputs, 4), outputs = padded(l->outputs, 16);
    int o, p, q;
    for (o = 0; o < outputs; o += 16) {
        const int8_t *weights = l->weights + o * inputs;
        int32x4_t biases[4];
        float32x4_t factors[4];
        UNROLL for (q = 0; q < 4; q++) {
            biases[q] = vld1q_s32(l->biases + o + 4 * q);
            factors[q] = vld1q_f32(l->factors + o + 4 * q);
        }
        for (p = 0; p + 4 <= pixels; p += 4)
            tile_i8mm(in + p * stride, stride, inputs, out + p * outputs + o, outputs, weights, biases, factors, 2);
        for (; p + 2 <= pixels; p += 2)
            tile_i8mm(in + p * stride, stride, inputs, out + p * outputs + o, outputs, weights, biases, factors, 1);
        if (p < pixels)
            tile_i8mm(in + p * stride, 0, inputs, out + p * outputs + o, outputs, weights, biases, factors, 1);
    }
}

static int has_neon_i8mm(void)
{
#ifdef __ARM_FEATURE_MATMUL_INT8
    return 1;
#else
    return arm_has(ARM_I8MM);
#endif
}

static const Kernels neon_i8mm_kernels = {has_neon_i8mm, patches_portable, depthwise_neon_dotprod, pointwise_neon_i8mm,
                                     pool_portable, classify_portable, NULL, 0};
#endif

