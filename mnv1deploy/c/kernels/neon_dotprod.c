/* ---- Kernels for 64-bit Arm with dot products -------------------------------------------------------------------
 *
 * sdot adds four products of signed bytes to an int32: 4 outputs and 4 inputs of each, or 4 channels and 4 rows. What
 * is taken from the activations is given back by the biases, as in neon.c.
 */
#if defined(NEON_KERNELS) && (defined(__ARM_FEATURE_DOTPROD) || defined(ARM_TARGETS))
#define NEON_DOTPROD_KERNELS

#ifdef __ARM_FEATURE_DOTPROD
#define DOTPROD
#else
#define DOTPROD COMPILED_FOR("arch=armv8.2-a+dotprod")
#endif

/* sums[p][q]: `height` pixels by 16 outputs. `lane`: which four of the 16 bytes that each pixel holds. */
#define ADD_PRODUCTS_DOTPROD(lane) \
    do { \
        UNROLL for (q = 0; q < 4; q++) \
            columns[q] = vld1q_s8(weights + 16 * q); \
        UNROLL for (p = 0; p < height; p++) \
            UNROLL for (q = 0; q < 4; q++) \
                sums[p][q] = vdotq_laneq_s32(sums[p][q], columns[q], bytes[p], lane); \
        weights += 64; \
    } while (0)

/* A register tile of a 1x1 convolution: `height` pixels by 16 outputs. */
DOTPROD INLINE void tile_dotprod(const int8_t *in, int stride, int inputs, uint8_t *out, int out_stride,
                                 const int8_t *weights, const int32x4_t biases[4], const float32x4_t factors[4],
                                 const int height)
{
    int32x4_t sums[4][4];
    int8x16_t columns[4], bytes[4];
    int i = 0, p, q;
    UNROLL for (p = 0; p < height; p++)
        UNROLL for (q = 0; q < 4; q++)
            sums[p][q] = biases[q];
    for (; i + 16 <= inputs; i += 16) {
        UNROLL for (p = 0; p < height; p++)
            bytes[p] = vld1q_s8(in + p * stride + i);
        ADD_PRODUCTS_DOTPROD(0);
        ADD_PRODUCTS_DOTPROD(1);
        ADD_PRODUCTS_DOTPROD(2);
        ADD_PRODUCTS_DOTPROD(3);
    }
    for (; i < inputs; i += 4) {
        UNROLL for (p = 0; p < height; p++)
            bytes[p] = quads_neon(in + p * stride + i);
        ADD_PRODUCTS_DOTPROD(0);
    }
    UNROLL for (p = 0; p < height; p++)
        UNROLL for (q = 0; q < 4; q += 2)
            vst1_u8(out + p * out_stride + 4 * q, bytes_neon(sums[p][q], sums[p][q + 1], factors[q], factors[q + 1]));
}

DOTPROD static void pointwise_neon_dotprod(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
{
    POINTWISE_NEON(tile_dotprod, 4);
}

/* Four rows of eight channels in one column, less 128: channels 0 to 3 and 4 to 7, four rows of each. */
typedef struct {
    int8x16_t halves[2];
} ColumnDotprod;

INLINE uint8x16_t eight_dotprod(Line line, intptr_t x)
{
    return vcombine_u8(vld1_u8(line.in + x * line.step), vdup_n_u8(0));
}

INLINE ColumnDotprod column_dotprod(const Line lines[4], intptr_t x)
{
    const uint8x16_t ab = vzip1q_u8(eight_dotprod(lines[0], x), eight_dotprod(lines[1], x));
    const uint8x16_t cd = vzip1q_u8(eight_dotprod(lines[2], x), eight_dotprod(lines[3], x));
    const uint16x8_t upper = vreinterpretq_u16_u8(veorq_u8(ab, vdupq_n_u8(128)));
    const uint16x8_t lower = vreinterpretq_u16_u8(veorq_u8(cd, vdupq_n_u8(128)));
    ColumnDotprod column;
    column.halves[0] = vreinterpretq_s8_u16(vzip1q_u16(upper, lower));
    column.halves[1] = vreinterpretq_s8_u16(vzip2q_u16(upper, lower));
    return column;
}

/* What the outputs of eight channels need besides their pixels. */
typedef struct {
    int8x16_t weights[2][3][2]; /* for the first three of the four rows, and for the last three; column; half */
    int32x4_t biases[2];
    float32x4_t factors[2];
} ChannelsDotprod;

DOTPROD INLINE void output_dotprod(uint8_t *out, const ChannelsDotprod *c, const int r, const ColumnDotprod *left,
                                   const ColumnDotprod *middle, const ColumnDotprod *right)
{
    int32x4_t sums[2];
    int h;
    UNROLL for (h = 0; h < 2; h++) {
        sums[h] = vdotq_s32(c->biases[h], c->weights[r][0][h], left->halves[h]);
        sums[h] = vdotq_s32(sums[h], c->weights[r][1][h], middle->halves[h]);
        sums[h] = vdotq_s32(sums[h], c->weights[r][2][h], right->halves[h]);
    }
    vst1_u8(out, bytes_neon(sums[0], sums[1], c->factors[0], c->factors[1]));
}

/* One row of outputs, or with stride 1 `rows` of them, which read the same four rows. */
DOTPROD INLINE void outputs_dotprod(const Layer *l, const ChannelsDotprod *c, const Line lines[4], uint8_t *out,
                                    int step, const int stride, const int rows)
{
    const int last = l->in_size - 1, count = l->out_size, left = stride == 1 ? 1 : l->left;
    const int8x16_t zero = vdupq_n_s8(-128);
    const ColumnDotprod none = {{zero, zero}};
    ColumnDotprod a = left ? none : column_dotprod(lines, 0), b = column_dotprod(lines, 0), d;
    int x, r;
    for (x = 0; x < count; x++, out += step) {
        const int right = x * stride + 2 - left;
        if (stride == 2)
            b = right - 1 <= last ? column_dotprod(lines, right - 1) : none;
        d = right <= last ? column_dotprod(lines, right) : none;
        UNROLL for (r = 0; r < rows; r++)
            output_dotprod(out + r * count * step, c, r, &a, &b, &d);
        a = stride == 1 ? b : d;
        b = d;
    }
}

DOTPROD static void depthwise_neon_dotprod(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const int channels = padded(l->inputs, 16), at_once = l->stride == 1 ? 2 : 1;
    int c, h, k, y;
    for (c = 0; c < channels; c += 8) {
        ChannelsDotprod parameters;
        for (h = 0; h < 2; h++) {
            int32x4_t sums = vdupq_n_s32(0);
            for (k = 0; k < 3; k++) {
                const int8x16_t weights = vld1q_s8(l->weights + (c / 16 * 3 + k) * 64 + c % 16 * 4 + 16 * h);
                parameters.weights[0][k][h] = weights;
                parameters.weights[1][k][h] = vreinterpretq_s8_s32(vshlq_n_s32(vreinterpretq_s32_s8(weights), 8));
                sums = vdotq_s32(sums, weights, vdupq_n_s8(-128));
            }
            parameters.biases[h] = vsubq_s32(vld1q_s32(l->biases + c + 4 * h), sums);
            parameters.factors[h] = vld1q_f32(l->factors + c + 4 * h);
        }
        for (y = 0; y < rows; y += at_once) {
            uint8_t *target = out + y * l->out_size * channels + c;
            Line lines[4];
            for (k = 0; k < 4; k++)
                lines[k] = line_of(l, in, k < 2 + at_once ? (row + y) * l->stride + k - l->top : -1, c);
            if (l->stride == 2)
                outputs_dotprod(l, &parameters, lines, target, channels, 2, 1);
            else if (y + 1 < rows)
                outputs_dotprod(l, &parameters, lines, target, channels, 1, 2);
            else
                outputs_dotprod(l, &parameters, lines, target, channels, 1, 1);
        }
    }
}

static int has_neon_dotprod(void)
{
#ifdef __ARM_FEATURE_DOTPROD
    return 1;
#else
    return arm_has(ARM_DOTPROD);
#endif
}

static const Kernels neon_dotprod_kernels = {has_neon_dotprod, patches_portable, depthwise_neon_dotprod, pointwise_neon_dotprod,
                                     pool_portable, classify_portable, NULL, 0};
#endif

