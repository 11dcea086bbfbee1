/* ---- Kernels in plain C ---------------------------------------------------------------------------------------- */

/* What is done to every sum: one multiplication in float, then rounded to the nearest, halves to even, and saturated to
 * 0..255, which is the ReLU. */
static uint8_t requantize_in_float(int32_t sum, float factor)
{
    float value = (float)sum * factor;
    uint32_t bits;
    value = value > 0.0f ? value : 0.0f;
    value = (value < 255.0f ? value : 255.0f) + 8388608.0f; /* 2^23: floats are one apart, so the addition rounds */
    memcpy(&bits, &value, sizeof bits);
    return (uint8_t)bits;
}

/* A factor in units of 2^-32, rounded down, and what takes the lower half of a product with it that is a tie to
 * TIE_WINDOW. Of a factor of a half and more, which is rare, every product is taken for a tie. */
typedef struct {
    int32_t multiplier;
    uint32_t tie;
} Scale;

INLINE Scale scale_of(float factor)
{
    Scale scale = {0, TIE_WINDOW};
    uint32_t bits;
    int exponent;
    memcpy(&bits, &factor, sizeof bits);
    exponent = (int)(bits >> 23) - 118;
    if (exponent < 8) {
        const int32_t digits = (int32_t)((bits & 0x7FFFFF) | 0x800000);
        scale.multiplier = exponent >= 0 ? digits << exponent : exponent > -24 ? digits >> -exponent : 0;
        scale.tie += 0x80000000u;
    }
    return scale;
}

/* Whether a product, of which this is the lower half, is too near a tie to be told from one. */
INLINE int near_tie(uint32_t lower, Scale scale)
{
    return lower + scale.tie <= 2 * TIE_WINDOW;
}

/* The same as requantize_in_float(), in integers, since floats are slow where there is no unit for them: a product with
 * 32 bits after the point. Only within TIE_WINDOW of a tie, which is more than the multiplier and the float are rounded
 * by, can the two differ. */
INLINE uint8_t requantize(int32_t sum, Scale scale, const float *factor)
{
    const int64_t product = (int64_t)sum * scale.multiplier;
    const uint32_t lower = (uint32_t)product;
    const int32_t integer = (int32_t)(product >> 32) + (int32_t)(lower >> 31);
    if (near_tie(lower, scale))
        return requantize_in_float(sum, *factor);
    return (uint8_t)(integer < 0 ? 0 : integer > 255 ? 255 : integer);
}

static void patches_portable(const Layer *l, const uint8_t *image, uint8_t *out, int row, int rows)
{
    shared_patches(l, image, out, row, rows);
}

/* A place of a depthwise convolution at the border. Outside the picture is zero, which adds nothing. */
static int32_t border_sum(const Layer *l, const uint8_t *in, const int8_t *weights, int32_t sum, int top, int left)
{
    const int stride = padded(l->inputs, 16);
    int ky, kx;
    for (ky = 0; ky < 3; ky++)
        for (kx = 0; kx < 3; kx++)
            if (top + ky >= 0 && top + ky < l->in_size && left + kx >= 0 && left + kx < l->in_size)
                sum += in[((top + ky) * l->in_size + left + kx) * stride] * weights[kx * 64 + ky];
    return sum;
}

static void depthwise_portable(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const int stride = padded(l->inputs, 16), channels = padded(l->inputs, 4), line = l->in_size * stride;
    const int step = l->stride * stride, inner = inner_outputs(l);
    int y, x, c;
    for (y = row; y < row + rows; y++, out += l->out_size * stride) {
        const int top = y * l->stride - l->top, inside = top >= 0 && top + 3 <= l->in_size;
        for (c = 0; c < channels; c++) {
            const int8_t *w = l->weights + (c / 16 * 3 * 16 + c % 16) * 4;
            const Scale scale = scale_of(l->factors[c]);
            const int32_t bias = l->biases[c];
            const uint8_t *a = in + top * line - l->left * stride + c;
            uint8_t *target = out + c;
            for (x = 0; x < l->out_size; x++, a += step, target += stride) {
                int32_t sum = bias;
                if (inside && x >= l->left && x < inner) {
                    const uint8_t *r = a;
                    sum += r[0] * w[0] + r[stride] * w[64] + r[2 * stride] * w[128];
                    r += line;
                    sum += r[0] * w[1] + r[stride] * w[65] + r[2 * stride] * w[129];
                    r += line;
                    sum += r[0] * w[2] + r[stride] * w[66] + r[2 * stride] * w[130];
                } else
                    sum = border_sum(l, in + c, w, sum, top, x * l->stride - l->left);
                *target = requantize(sum, scale, l->factors + c);
            }
        }
    }
}

/* Pixels and outputs that are computed at once: as many sums as registers hold. */
#if defined(__thumb__) && !defined(__thumb2__)
enum { TILE_PIXELS = 2, TILE_OUTPUTS = 1 }; /* eight registers */
#else
enum { TILE_PIXELS = 2, TILE_OUTPUTS = 2 };
#endif

/* The sums of `height` pixels by TILE_OUTPUTS outputs. */
INLINE void tile_portable(const uint8_t *in, int stride, int inputs, const int8_t *weights, const int32_t *biases,
                          int32_t sums[TILE_PIXELS][TILE_OUTPUTS], const int height)
{
    const uint8_t *end = in + inputs;
    int i, o, p;
    UNROLL for (p = 0; p < height; p++)
        UNROLL for (o = 0; o < TILE_OUTPUTS; o++)
            sums[p][o] = biases[o];
    for (; in != end; in += 4, weights += 64)
        UNROLL for (i = 0; i < 4; i++)
            UNROLL for (p = 0; p < height; p++) {
                const int32_t pixel = in[p * stride + i];
                UNROLL for (o = 0; o < TILE_OUTPUTS; o++)
                    sums[p][o] += pixel * weights[4 * o + i];
            }
}

static void pointwise_portable(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int inputs = padded(l->inputs, 4), outputs = padded(l->outputs, 4), apart = padded(l->outputs, 16);
    int o, p, q, k;
    for (o = 0; o < outputs; o += TILE_OUTPUTS) {
        const int8_t *weights = weights_of(l, o);
        const int32_t *biases = l->biases + o;
        const float *factors = l->factors + o;
        const uint8_t *source = in;
        uint8_t *target = out + o;
        int32_t sums[TILE_PIXELS][TILE_OUTPUTS];
        Scale scales[TILE_OUTPUTS];
        UNROLL for (k = 0; k < TILE_OUTPUTS; k++)
            scales[k] = scale_of(factors[k]);
        for (p = 0; p + TILE_PIXELS <= pixels; p += TILE_PIXELS, source += TILE_PIXELS * stride) {
            tile_portable(source, stride, inputs, weights, biases, sums, TILE_PIXELS);
            UNROLL for (q = 0; q < TILE_PIXELS; q++, target += apart)
                UNROLL for (k = 0; k < TILE_OUTPUTS; k++)
                    target[k] = requantize(sums[q][k], scales[k], factors + k);
        }
        for (; p < pixels; p++, source += stride, target += apart) {
            tile_portable(source, stride, inputs, weights, biases, sums, 1);
            UNROLL for (k = 0; k < TILE_OUTPUTS; k++)
                target[k] = requantize(sums[0][k], scales[k], factors + k);
        }
    }
}

static void pool_portable(const uint8_t *in, uint8_t *out, int pixels, int channels)
{
    static const float factor = POOL_FACTOR;
    const Scale scale = scale_of(factor);
    int stride = padded(channels, 16), p, c;
    for (c = 0; c < padded(channels, 4); c++) {
        int32_t sum = 0;
        for (p = 0; p < pixels; p++)
            sum += in[p * stride + c];
        out[c] = requantize(sum, scale, &factor);
    }
}

static void classify_portable(const Layer *l, const uint8_t *in, float *logits)
{
    int o, k;
    for (o = 0; o < l->outputs; o += TILE_OUTPUTS) {
        int32_t sums[TILE_PIXELS][TILE_OUTPUTS];
        tile_portable(in, 0, padded(l->inputs, 4), weights_of(l, o), l->biases + o, sums, 1);
        for (k = 0; k < TILE_OUTPUTS && o + k < l->outputs; k++)
            logits[o + k] = (float)sums[0][k] * l->factors[o + k];
    }
}

static int has_portable(void)
{
    return 1;
}

static const Kernels portable_kernels = {has_portable,  patches_portable,  depthwise_portable, pointwise_portable,
                                         pool_portable, classify_portable, NULL, 0};
#define PORTABLE_KERNELS

