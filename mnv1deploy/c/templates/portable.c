/* ---- Kernels in plain C ----------------------------------------------------------------------------------------
 *
 * Activations are uint8, [height][width][channels], channels padded to 16 so that pixels are a multiple of 16 apart.
 * real = scale * integer, except the pixels' (whose zero point is folded into the stem's biases).
 */

/* A 3x3 or 1x1 convolution. Weights are int8, in the order in which vector registers want them:
 *   3x3 depthwise      [channels / 16][column of 3][16 channels][row of 3, and a zero]
 *   1x1 and the stem   [outputs / 16][inputs / 4][16 outputs][4 inputs]
 * Biases are int32 in units of input scale * weight scale; factors are input scale * weight scale / output scale. */
typedef struct {
    const char *name;
    int in_size, out_size, stride; /* height and width in pixels */
    int inputs, outputs;           /* channels, without padding */
    const int8_t *weights;
    const int32_t *biases;
    const float *factors;
} Layer;

static int padded(int channels, int multiple)
{
    return (channels + multiple - 1) / multiple * multiple;
}

/* The nearest integer to a value in 0..255, halves to even. */
static uint8_t rounded(float value)
{
    uint32_t bits;
    value += 8388608.0f; /* 2^23: from here on floats are one apart, so the addition rounds */
    memcpy(&bits, &value, sizeof bits);
    return (uint8_t)bits;
}

/* What is done to every sum: one multiplication, then rounded and saturated to 0..255, which is the ReLU. */
static uint8_t requantize(int32_t sum, float factor)
{
    float value = (float)sum * factor;
    value = value > 0.0f ? value : 0.0f;
    return rounded(value < 255.0f ? value : 255.0f);
}

/* The pixels that one output of the stem reads: row, column, colour. */
static void patch_portable(const Layer *l, const uint8_t *image, uint8_t *out, int y, int x)
{
    int k, colour;
    for (k = 0; k < 9; k++) {
        const int top = y * l->stride + k / 3 - 1, left = x * l->stride + k % 3 - 1;
        const int inside = top >= 0 && top < l->in_size && left >= 0 && left < l->in_size;
        for (colour = 0; colour < 3; colour++)
            out[3 * k + colour] = inside ? image[(top * l->in_size + left) * 3 + colour] : PADDING;
    }
    out[27] = 0;
}

/* Those of rows `row` to `row + rows` of the stem's output, PATCH bytes apart. */
static void patches_portable(const Layer *l, const uint8_t *image, uint8_t *out, int row, int rows)
{
    int y, x;
    for (y = row; y < row + rows; y++)
        for (x = 0; x < l->out_size; x++, out += PATCH)
            patch_portable(l, image, out, y, x);
}

/* Rows `row` to `row + rows` of a 3x3 depthwise convolution. Outside the picture is zero, which adds nothing. */
static void depthwise_portable(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    int stride = padded(l->inputs, 16), channels = padded(l->inputs, 4), y, x, c, ky, kx;
    for (y = row; y < row + rows; y++)
        for (x = 0; x < l->out_size; x++, out += stride)
            for (c = 0; c < channels; c++) {
                const int8_t *weights = l->weights + (c / 16 * 3 * 16 + c % 16) * 4;
                int32_t sum = l->biases[c];
                for (ky = 0; ky < 3; ky++)
                    for (kx = 0; kx < 3; kx++) {
                        int top = y * l->stride + ky - 1, left = x * l->stride + kx - 1;
                        if (top >= 0 && top < l->in_size && left >= 0 && left < l->in_size)
                            sum += in[(top * l->in_size + left) * stride + c] * weights[kx * 64 + ky];
                    }
                out[c] = requantize(sum, l->factors[c]);
            }
}

/* One output of a 1x1 convolution, or of the classifier. */
static int32_t dot(const Layer *l, const uint8_t *in, int output)
{
    int inputs = padded(l->inputs, 4), i;
    const int8_t *weights = l->weights + output / 16 * 16 * inputs + output % 16 * 4;
    int32_t sum = l->biases[output];
    for (i = 0; i < inputs; i += 4, weights += 64)
        sum += in[i] * weights[0] + in[i + 1] * weights[1] + in[i + 2] * weights[2] + in[i + 3] * weights[3];
    return sum;
}

/* A 1x1 convolution of pixels that are `stride` bytes apart. */
static void pointwise_portable(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int pixels)
{
    int outputs = padded(l->outputs, 4), p, o;
    for (p = 0; p < pixels; p++, in += stride, out += padded(l->outputs, 16))
        for (o = 0; o < outputs; o++)
            out[o] = requantize(dot(l, in, o), l->factors[o]);
}

/* The mean over all pixels: their sum, requantized. */
static void pool_portable(const uint8_t *in, uint8_t *out, int pixels, int channels)
{
    int stride = padded(channels, 16), p, c;
    for (c = 0; c < padded(channels, 4); c++) {
        int32_t sum = 0;
        for (p = 0; p < pixels; p++)
            sum += in[p * stride + c];
        out[c] = requantize(sum, POOL_FACTOR);
    }
}

static void classify_portable(const Layer *l, const uint8_t *in, float *logits)
{
    int o;
    for (o = 0; o < l->outputs; o++)
        logits[o] = (float)dot(l, in, o) * l->factors[o];
}
