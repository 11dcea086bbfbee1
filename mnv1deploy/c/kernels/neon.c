/* ---- Kernels for 64-bit Arm without dot products ----------------------------------------------------------------
 *
 * Raspberry Pi 3 and 4, and other processors before Armv8.2. smull and smlal multiply bytes and add two products in 16
 * bits: activations less 128 by weights of at most 127, which is at most 32,512. sadalp adds neighbouring ones of
 * those to an int32. What is taken from the activations is given back by the biases: 128 times the sum of the weights.
 */
#if defined(__aarch64__) && defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN) && !defined(NO_SIMD)
#define NEON_KERNELS

#include <arm_neon.h>

/* Eight integers to bytes: what is done to every sum, as in requantize(). */
INLINE uint8x8_t bytes_neon(int32x4_t low, int32x4_t high, float32x4_t low_factors, float32x4_t high_factors)
{
    const int32x4_t first = vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(low), low_factors));
    const int32x4_t second = vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(high), high_factors));
    return vqmovun_s16(vqmovn_high_s32(vqmovn_s32(first), second));
}

/* Four bytes, again and again. */
INLINE int8x16_t quads_neon(const int8_t *in)
{
    return vreinterpretq_s8_s32(vdupq_n_s32(four_bytes((const uint8_t *)in)));
}

/* A register tile of a 1x1 convolution: `height` pixels by 16 outputs, of which sums[p][q] has two parts of four. */
INLINE void accumulate_neon(int32x4_t sums[2][8], const int8_t *in, int stride, int inputs, const int8_t *weights,
                            const int height)
{
    int i = 0, p, q;
    UNROLL for (p = 0; p < height; p++)
        UNROLL for (q = 0; q < 8; q++)
            sums[p][q] = vdupq_n_s32(0);
    for (; i + 8 <= inputs; i += 8, weights += 128) {
        int8x16_t first[2], second[2];
        UNROLL for (p = 0; p < height; p++) {
            first[p] = quads_neon(in + p * stride + i);
            second[p] = quads_neon(in + p * stride + i + 4);
        }
        UNROLL for (q = 0; q < 4; q++) {
            const int8x16_t v = vld1q_s8(weights + 16 * q), w = vld1q_s8(weights + 64 + 16 * q);
            UNROLL for (p = 0; p < height; p++) {
                int16x8_t low = vmull_s8(vget_low_s8(v), vget_low_s8(first[p])), high = vmull_high_s8(v, first[p]);
                low = vmlal_s8(low, vget_low_s8(w), vget_low_s8(second[p]));
                high = vmlal_high_s8(high, w, second[p]);
                sums[p][2 * q] = vpadalq_s16(sums[p][2 * q], low);
                sums[p][2 * q + 1] = vpadalq_s16(sums[p][2 * q + 1], high);
            }
        }
    }
    if (i < inputs)
        UNROLL for (p = 0; p < height; p++)
            UNROLL for (q = 0; q < 4; q++) {
                const int8x16_t v = vld1q_s8(weights + 16 * q), bytes = quads_neon(in + p * stride + i);
                sums[p][2 * q] = vpadalq_s16(sums[p][2 * q], vmull_s8(vget_low_s8(v), vget_low_s8(bytes)));
                sums[p][2 * q + 1] = vpadalq_s16(sums[p][2 * q + 1], vmull_high_s8(v, bytes));
            }
}

INLINE void tile_neon(const int8_t *in, int stride, int inputs, uint8_t *out, int out_stride, const int8_t *weights,
                      const int32x4_t biases[4], const float32x4_t factors[4], const int height)
{
    int32x4_t sums[2][8];
    int p, q;
    accumulate_neon(sums, in, stride, inputs, weights, height);
    UNROLL for (p = 0; p < height; p++)
        UNROLL for (q = 0; q < 4; q += 2) {
            const int32x4_t low = vaddq_s32(vpaddq_s32(sums[p][2 * q], sums[p][2 * q + 1]), biases[q]);
            const int32x4_t high = vaddq_s32(vpaddq_s32(sums[p][2 * q + 2], sums[p][2 * q + 3]), biases[q + 1]);
            vst1_u8(out + p * out_stride + 4 * q, bytes_neon(low, high, factors[q], factors[q + 1]));
        }
}

/* The biases of 16 outputs, and 128 times the sum of their weights. */
INLINE void biases_neon(int32x4_t biases[4], const int32_t *stored, const int8_t *weights, int inputs)
{
    int16x8_t sums[4];
    int i, q;
    UNROLL for (q = 0; q < 4; q++) {
        sums[q] = vdupq_n_s16(0);
        biases[q] = vld1q_s32(stored + 4 * q);
    }
    for (i = 0; i < inputs; i += 4, weights += 64) {
        UNROLL for (q = 0; q < 4; q++)
            sums[q] = vpadalq_s8(sums[q], vld1q_s8(weights + 16 * q));
        if (i % 256 == 252 || i + 4 >= inputs) /* 64 times two weights fit 16 bits */
            UNROLL for (q = 0; q < 4; q++) {
                biases[q] = vaddq_s32(biases[q], vshlq_n_s32(vpaddlq_s16(sums[q]), 7));
                sums[q] = vdupq_n_s16(0);
            }
    }
}

/* The same bytes less 128. */
INLINE const int8_t *centre_neon(uint8_t *bytes, int count)
{
    int i;
    for (i = 0; i < count; i += 16)
        vst1q_u8(bytes + i, veorq_u8(vld1q_u8(bytes + i), vdupq_n_u8(128)));
    return (const int8_t *)bytes;
}

/* A 1x1 convolution by register tiles of `height` pixels, and what is left of them one by one. */
#define POINTWISE_NEON(tile, height) \
    do { \
        const int inputs = padded(l->inputs, 4), outputs = padded(l->outputs, 16); \
        const int8_t *centred = centre_neon(in, pixels * stride); \
        int o, p, q; \
        for (o = 0; o < outputs; o += 16) { \
            const int8_t *weights = weights_of(l, o); \
            int32x4_t biases[4]; \
            float32x4_t factors[4]; \
            biases_neon(biases, l->biases + o, weights, inputs); \
            UNROLL for (q = 0; q < 4; q++) \
                factors[q] = vld1q_f32(l->factors + o + 4 * q); \
            for (p = 0; p + (height) <= pixels; p += (height)) \
                tile(centred + p * stride, stride, inputs, out + p * outputs + o, outputs, weights, biases, factors, height); \
            for (; p < pixels; p++) \
                tile(centred + p * stride, stride, inputs, out + p * outputs + o, outputs, weights, biases, factors, 1); \
        } \
    } while (0)

static void pointwise_neon(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
{
    POINTWISE_NEON(tile_neon, 2);
}

/* Three rows of eight channels in one column, as words. */
typedef struct {
    int16x8_t rows[3];
} ColumnNeon;

INLINE ColumnNeon column_neon(const Line lines[3], intptr_t x)
{
    ColumnNeon column;
    int k;
    UNROLL for (k = 0; k < 3; k++)
        column.rows[k] = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(lines[k].in + x * lines[k].step)));
    return column;
}

/* What one output of eight channels needs besides its pixels. */
typedef struct {
    int16x8_t weights[3][3]; /* column, row */
    int32x4_t biases[2];
    float32x4_t factors[2];
} ChannelsNeon;

INLINE void output_neon(uint8_t *out, const ChannelsNeon *c, const ColumnNeon *left, const ColumnNeon *middle,
                        const ColumnNeon *right)
{
    const ColumnNeon *columns[3] = {left, middle, right};
    int32x4_t low = c->biases[0], high = c->biases[1];
    int k, r;
    UNROLL for (k = 0; k < 3; k++)
        UNROLL for (r = 0; r < 3; r++) {
            const int16x8_t bytes = columns[k]->rows[r], weights = c->weights[k][r];
            low = vmlal_s16(low, vget_low_s16(bytes), vget_low_s16(weights));
            high = vmlal_high_s16(high, bytes, weights);
        }
    vst1_u8(out, bytes_neon(low, high, c->factors[0], c->factors[1]));
}

/* One row of outputs. Columns are loaded once: what was right of an output is in the middle of the next one, or with
 * stride 2 left of it. */
INLINE void row_neon(const Layer *l, const ChannelsNeon *c, const Line lines[3], uint8_t *out, int step, const int stride)
{
    const int last = l->in_size - 1, count = l->out_size, left = stride == 1 ? 1 : l->left;
    const ColumnNeon none = {{vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0)}};
    ColumnNeon a = left ? none : column_neon(lines, 0), b, d;
    int x = 0;
    if (stride == 1) {
        b = column_neon(lines, 0);
        for (; x + 3 < count; x += 3, out += 3 * step) {
            d = column_neon(lines, x + 1);
            output_neon(out, c, &a, &b, &d);
            a = column_neon(lines, x + 2);
            output_neon(out + step, c, &b, &d, &a);
            b = column_neon(lines, x + 3);
            output_neon(out + 2 * step, c, &d, &a, &b);
        }
        for (; x < count; x++, out += step) {
            d = x < last ? column_neon(lines, x + 1) : none;
            output_neon(out, c, &a, &b, &d);
            a = b, b = d;
        }
    } else
        for (; x < count; x++, out += step) {
            const int middle = 2 * x + 1 - left;
            b = middle <= last ? column_neon(lines, middle) : none;
            d = middle < last ? column_neon(lines, middle + 1) : none;
            output_neon(out, c, &a, &b, &d);
            a = d;
        }
}

static void depthwise_neon(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const int channels = padded(l->inputs, 16);
    int c, k, y;
    for (c = 0; c < channels; c += 8) {
        ChannelsNeon parameters;
        for (k = 0; k < 3; k++) {
            const int8x8x4_t bytes = vld4_s8(l->weights + (c / 16 * 3 + k) * 64 + c % 16 * 4);
            parameters.weights[k][0] = vmovl_s8(bytes.val[0]);
            parameters.weights[k][1] = vmovl_s8(bytes.val[1]);
            parameters.weights[k][2] = vmovl_s8(bytes.val[2]);
        }
        for (k = 0; k < 2; k++) {
            parameters.biases[k] = vld1q_s32(l->biases + c + 4 * k);
            parameters.factors[k] = vld1q_f32(l->factors + c + 4 * k);
        }
        for (y = 0; y < rows; y++) {
            uint8_t *target = out + y * l->out_size * channels + c;
            Line lines[3];
            for (k = 0; k < 3; k++)
                lines[k] = line_of(l, in, (row + y) * l->stride + k - l->top, c);
            if (l->stride == 1)
                row_neon(l, &parameters, lines, target, channels, 1);
            else
                row_neon(l, &parameters, lines, target, channels, 2);
        }
    }
}

/* What the processor has beyond that can be asked for on these systems, and compiled for by these compilers. */
#if (defined(__linux__) || defined(__APPLE__) || defined(_WIN32)) && \
    (defined(__clang__) ? __clang_major__ >= 16 : defined(__GNUC__) && __GNUC__ >= 10)
#define ARM_TARGETS

#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#else /* what windows.h, which is long, says of it */
#ifdef __cplusplus
extern "C"
#endif
__declspec(dllimport) int __stdcall IsProcessorFeaturePresent(unsigned long feature);
#endif

enum { ARM_DOTPROD, ARM_I8MM };

INLINE int arm_has(int feature)
{
#if defined(__linux__) /* bits of AT_HWCAP and AT_HWCAP2 in the kernel's hwcap.h */
    return feature == ARM_DOTPROD ? getauxval(AT_HWCAP) >> 20 & 1 : getauxval(AT_HWCAP2) >> 13 & 1;
#elif defined(__APPLE__)
    int there = 0;
    size_t size = sizeof there;
    const char *name = feature == ARM_DOTPROD ? "hw.optional.arm.FEAT_DotProd" : "hw.optional.arm.FEAT_I8MM";
    return sysctlbyname(name, &there, &size, NULL, 0) == 0 && there;
#else /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE and PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE */
    return IsProcessorFeaturePresent(feature == ARM_DOTPROD ? 43 : 66) != 0;
#endif
}
#endif

static int has_neon(void)
{
    return 1;
}

static const Kernels neon_kernels = {has_neon, patches_portable, depthwise_neon, pointwise_neon,
                                     pool_portable, classify_portable, NULL, 0};
#endif

