/* ---- Kernels for Cortex-M with the DSP extension --------------------------------------------------------------------
 *
 * Cortex-M4, M7 and M33. smlad adds two products of 16 bits. What is between the two operations of a fusion has 16
 * bits, so that nothing is unpacked in the innermost loop: [4 pixels][4 inputs][inputs 0 2, inputs 1 3][4 pixels][2].
 * The 1x1 convolution's weights are unpacked behind it, of two outputs at a time.
 */
#if defined(__ARM_FEATURE_DSP) && defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M' && defined(__GNUC__) && \
    defined(__OPTIMIZE__) && !defined(__ARM_BIG_ENDIAN) && \
    (!defined(__ARM_FEATURE_MVE) || __ARM_FEATURE_MVE != 3) && !defined(NO_SIMD)
#define CORTEX_M_DSP_KERNELS

#define INSTRUCTION_DSP(name, text) \
    INLINE uint32_t name##_dsp(uint32_t a) \
    { \
        uint32_t result; \
        __asm__(text : "=r"(result) : "r"(a)); \
        return result; \
    }

INSTRUCTION_DSP(signed_even, "sxtb16 %0, %1")          /* bytes 0 and 2 to 16 bits */
INSTRUCTION_DSP(signed_odd, "sxtb16 %0, %1, ror #8")   /* bytes 1 and 3 */
INSTRUCTION_DSP(unsigned_even, "uxtb16 %0, %1")
INSTRUCTION_DSP(unsigned_odd, "uxtb16 %0, %1, ror #8")

INLINE int32_t add_products_dsp(int32_t sum, uint32_t a, uint32_t b)
{
    __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}

/* Lower or upper halves of two words. */
INLINE uint32_t lower_dsp(uint32_t a, uint32_t b)
{
    return (a & 0xffff) | b << 16;
}

INLINE uint32_t upper_dsp(uint32_t a, uint32_t b)
{
    return a >> 16 | (b & 0xffff0000u);
}

/* What scales a sum, and what then rounds it and saturates it to 0..255: with or without a floating-point unit. */
#ifdef __ARM_FP
typedef float ScaleDsp;

INLINE ScaleDsp scale_dsp(float factor)
{
    return factor;
}

/* vcvtr rounds as the processor's mode says, to the nearest and halves to even. */
INLINE uint32_t requantize_dsp(int32_t sum, ScaleDsp scale, const float *factor)
{
    float value = (float)sum * scale, rounded;
    int32_t integer;
    (void)factor;
    __asm__("vcvtr.s32.f32 %0, %1" : "=t"(rounded) : "t"(value));
    memcpy(&integer, &rounded, sizeof integer);
    __asm__("usat %0, #8, %0" : "+r"(integer));
    return (uint32_t)integer;
}
#else
typedef Scale ScaleDsp;

INLINE ScaleDsp scale_dsp(float factor)
{
    return scale_of(factor);
}

/* As requantize(); smmulr gives the rounded upper half of a product. */
INLINE uint32_t requantize_dsp(int32_t sum, ScaleDsp scale, const float *factor)
{
    int32_t integer;
    if (near_tie((uint32_t)sum * (uint32_t)scale.multiplier, scale))
        return requantize_in_float(sum, *factor);
    __asm__("smmulr %0, %1, %2" : "=r"(integer) : "r"(sum), "r"(scale.multiplier));
    __asm__("usat %0, #8, %0" : "+r"(integer));
    return (uint32_t)integer;
}
#endif

/* ldrd wants words where words belong; the scratch may lie anywhere. */
INLINE uint32_t *aligned_dsp(uint8_t *between)
{
    return (uint32_t *)(((uintptr_t)between + 7) & ~(uintptr_t)7);
}

/* The word of a pixel's first two of four inputs, from `input` on; those of the others are four words further. */
INLINE uint32_t *word_dsp(uint32_t *between, int inputs, int pixel, int input)
{
    return between + pixel / 4 * 2 * inputs + input / 4 * 8 + pixel % 4;
}

/* Two inputs of four pixels by two outputs: pixels are at r4, weights at r5. */
#define QUARTER_DSP(pixels, weights) \
    "ldrd lr, r7, [r5, #" #weights "]\n\t" \
    "ldrd r6, r12, [r4, #" #pixels "]\n\t" \
    "smlad r0, r6, lr, r0\n\t" \
    "smlad r1, r6, r7, r1\n\t" \
    "smlad r2, r12, lr, r2\n\t" \
    "smlad r3, r12, r7, r3\n\t" \
    "ldrd r6, r12, [r4, #" #pixels " + 8]\n\t" \
    "smlad r8, r6, lr, r8\n\t" \
    "smlad r9, r6, r7, r9\n\t" \
    "smlad r10, r12, lr, r10\n\t" \
    "smlad r11, r12, r7, r11\n\t"

/* Four pixels by two outputs of a 1x1 convolution, to `width` of the pixels. All registers that there are: where r7 is
 * the compiler's, for the frame, it does not learn that it was away. */
INLINE void tile_dsp(const uint32_t *in, const uint32_t *weights, const uint32_t *end, const int32_t *biases,
                     const ScaleDsp scales[2], const float *factors, uint8_t *out, int step, int width)
{
    register int32_t s00 __asm__("r0") = biases[0], s01 __asm__("r1") = biases[1], s10 __asm__("r2"), s11 __asm__("r3");
    register int32_t s20 __asm__("r8"), s21 __asm__("r9"), s30 __asm__("r10"), s31 __asm__("r11");
    register const uint32_t *a __asm__("r4") = in, *w __asm__("r5") = weights, *limit __asm__("r6") = end;
    int32_t sums[4][2];
    int p;
    __asm__ volatile("push {r6, r7}\n\t"
                     "mov r2, r0\n\t"
                     "mov r8, r0\n\t"
                     "mov r10, r0\n\t"
                     "mov r3, r1\n\t"
                     "mov r9, r1\n\t"
                     "mov r11, r1\n\t"
                     "1:\n\t" QUARTER_DSP(0, 0) QUARTER_DSP(16, 8) QUARTER_DSP(32, 16) QUARTER_DSP(48, 24)
                     QUARTER_DSP(64, 32) QUARTER_DSP(80, 40) QUARTER_DSP(96, 48) QUARTER_DSP(112, 56)
                     "ldr r6, [sp]\n\t"
                     "adds r5, #64\n\t"
                     "adds r4, #128\n\t"
                     "cmp r5, r6\n\t"
                     "bne 1b\n\t"
                     "pop {r6, r7}"
                     : "+r"(s00), "+r"(s01), "=r"(s10), "=r"(s11), "=r"(s20), "=r"(s21), "=r"(s30), "=r"(s31), "+r"(a),
                       "+r"(w), "+r"(limit)
                     :
                     : "r12", "lr", "cc", "memory");
    sums[0][0] = s00, sums[0][1] = s01, sums[1][0] = s10, sums[1][1] = s11;
    sums[2][0] = s20, sums[2][1] = s21, sums[3][0] = s30, sums[3][1] = s31;
    UNROLL for (p = 0; p < 4; p++, out += step)
        if (p < width) {
            const uint32_t first = requantize_dsp(sums[p][0], scales[0], factors);
            const uint16_t both = (uint16_t)(first | requantize_dsp(sums[p][1], scales[1], factors + 1) << 8);
            memcpy(out, &both, sizeof both);
        }
}

/* Four weights of two outputs as the tile reads them: [0 2, 1 3][2 outputs][2]. */
INLINE void expand_four_dsp(uint32_t *out, const int8_t *weights)
{
    const uint32_t v = (uint32_t)four_bytes((const uint8_t *)weights);
    const uint32_t w = (uint32_t)four_bytes((const uint8_t *)weights + 4);
    out[0] = signed_even_dsp(v);
    out[1] = signed_even_dsp(w);
    out[2] = signed_odd_dsp(v);
    out[3] = signed_odd_dsp(w);
}

/* All of them; the tile takes sixteen at a time. */
INLINE void expand_dsp(uint32_t *out, const int8_t *weights, int inputs)
{
    int i, k;
    for (i = 0; i + 16 <= inputs; i += 16, weights += 256, out += 16)
        UNROLL for (k = 0; k < 4; k++)
            expand_four_dsp(out + 4 * k, weights + 64 * k);
    for (; i < inputs; i += 4, weights += 64, out += 4)
        expand_four_dsp(out, weights);
    for (; i % 16; i += 4, out += 4)
        out[0] = out[1] = out[2] = out[3] = 0;
}

static void pointwise_cortex_m_dsp(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int inputs = padded(l->inputs, 4), sixteens = padded(inputs, 16), step = padded(l->outputs, 16);
    uint32_t *between = aligned_dsp(in), *expanded = word_dsp(between, sixteens, padded(pixels, 4), 0);
    int o, p;
    (void)stride;
    for (o = 0; o < l->outputs; o += 2) {
        const float *factors = l->factors + o;
        const uint32_t *a = between;
        uint8_t *target = out + o;
        ScaleDsp scales[2];
        scales[0] = scale_dsp(factors[0]);
        scales[1] = scale_dsp(factors[1]);
        expand_dsp(expanded, weights_of(l, o), inputs);
        for (p = 0; p + 4 <= pixels; p += 4, a += 2 * sixteens, target += 4 * step)
            tile_dsp(a, expanded, expanded + sixteens, l->biases + o, scales, factors, target, step, 4);
        if (p < pixels)
            tile_dsp(a, expanded, expanded + sixteens, l->biases + o, scales, factors, target, step, pixels - p);
    }
}

/* A patch, taken apart. */
INLINE void put_patch_dsp(uint32_t *word, const uint8_t *patch)
{
    int i;
    for (i = 0; i < 9 * COLOURS; i += 4, word += 8) {
        const uint32_t bytes = (uint32_t)four_bytes(patch + i);
        word[0] = unsigned_even_dsp(bytes);
        word[4] = unsigned_odd_dsp(bytes);
    }
}

static void patches_cortex_m_dsp(const Layer *l, const uint8_t *image, uint8_t *out, int row, int rows)
{
    const int inputs = padded(l->inputs, 16), size = l->in_size;
    uint32_t *between = aligned_dsp(out);
    uint8_t patch[PATCH + COPIED];
    int k, p = 0, x, y;
    memset(patch, 0, sizeof patch);
    for (y = row; y < row + rows; y++)
        for (x = 0; x < l->out_size; x++, p++) {
            const int top = y * l->stride - l->top, left = x * l->stride - l->left;
            if (top < 0 || left < 0 || top + 3 > size || left + 3 > size)
                border_patch(l, image, patch, y, x);
            else
                UNROLL for (k = 0; k < 3; k++)
                    memcpy(patch + k * PATCH_ROW, image + ((top + k) * size + left) * COLOURS, PATCH_ROW);
            put_patch_dsp(word_dsp(between, inputs, p, 0), patch);
        }
}

/* Of four channels, in pairs: rows 0 and 2 of each column, columns 0 and 1 of row 1, column 2 of it and nothing. The
 * order is that in which they are used. */
typedef struct {
    uint32_t weights[18];
    int32_t biases[4];
    ScaleDsp scales[4];
    const float *factors;
} ChannelsDsp;

/* Two taps of four channels, a byte of each in x and in y, times the weights at `at`. */
#define PAIR_DSP(at) \
    "uxtb16 %[t], %[x]\n\t" \
    "uxtb16 %[u], %[y]\n\t" \
    "pkhbt %[v], %[t], %[u], lsl #16\n\t" \
    "pkhtb %[t], %[u], %[t], asr #16\n\t" \
    "ldr %[u], [%[c], #" #at "]\n\t" \
    "smlad %[s0], %[v], %[u], %[s0]\n\t" \
    "ldr %[u], [%[c], #" #at " + 8]\n\t" \
    "smlad %[s2], %[t], %[u], %[s2]\n\t" \
    "uxtb16 %[t], %[x], ror #8\n\t" \
    "uxtb16 %[u], %[y], ror #8\n\t" \
    "pkhbt %[v], %[t], %[u], lsl #16\n\t" \
    "pkhtb %[t], %[u], %[t], asr #16\n\t" \
    "ldr %[u], [%[c], #" #at " + 4]\n\t" \
    "smlad %[s1], %[v], %[u], %[s1]\n\t" \
    "ldr %[u], [%[c], #" #at " + 12]\n\t" \
    "smlad %[s3], %[t], %[u], %[s3]\n\t"

/* One output: `rows` has the first column of three rows, which are `steps` apart from their next ones. */
INLINE void output_dsp(uint32_t *word, const ChannelsDsp *c, const Line lines[3], intptr_t column)
{
    const uint8_t *a = lines[0].in + column * lines[0].step, *b = lines[1].in + column * lines[1].step;
    const uint8_t *d = lines[2].in + column * lines[2].step;
    int32_t s0 = c->biases[0], s1 = c->biases[1], s2 = c->biases[2], s3 = c->biases[3];
    uint32_t x, y, t, u, v;
#define ADD_DSP(first, second, at) \
    x = (uint32_t)four_bytes(first); \
    y = (uint32_t)four_bytes(second); \
    __asm__(PAIR_DSP(at) : [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [t] "=&r"(t), [u] "=&r"(u), \
            [v] "=&r"(v) : [x] "r"(x), [y] "r"(y), [c] "r"(c), "m"(*c))
    ADD_DSP(a, d, 0);
    ADD_DSP(a + lines[0].step, d + lines[2].step, 16);
    ADD_DSP(a + 2 * lines[0].step, d + 2 * lines[2].step, 32);
    ADD_DSP(b, b + lines[1].step, 48);
    x = (uint32_t)four_bytes(b + 2 * lines[1].step);
    t = unsigned_even_dsp(x);
    u = unsigned_odd_dsp(x);
    __asm__("smlabb %0, %1, %2, %0" : "+r"(s0) : "r"(t), "r"(c->weights[16]));
    __asm__("smlabb %0, %1, %2, %0" : "+r"(s1) : "r"(u), "r"(c->weights[17]));
    __asm__("smlatt %0, %1, %2, %0" : "+r"(s2) : "r"(t), "r"(c->weights[16]));
    __asm__("smlatt %0, %1, %2, %0" : "+r"(s3) : "r"(u), "r"(c->weights[17]));
#define REQUANTIZED_DSP(k, sum) requantize_dsp(sum, c->scales[k], c->factors + k)
    word[0] = REQUANTIZED_DSP(0, s0) | REQUANTIZED_DSP(2, s2) << 16;
    word[4] = REQUANTIZED_DSP(1, s1) | REQUANTIZED_DSP(3, s3) << 16;
}

/* One of which columns may be outside: those are zeros. */
static void border_dsp(uint32_t *word, const ChannelsDsp *c, const Line lines[3], int left, int size)
{
    uint32_t columns[3][3];
    Line copies[3];
    int k, x;
    UNROLL for (k = 0; k < 3; k++) {
        UNROLL for (x = 0; x < 3; x++) {
            const int inside = left + x >= 0 && left + x < size;
            columns[k][x] = inside ? (uint32_t)four_bytes(lines[k].in + (left + x) * lines[k].step) : 0;
        }
        copies[k].in = (const uint8_t *)columns[k];
        copies[k].step = 4;
    }
    output_dsp(word, c, copies, 0);
}

static void depthwise_cortex_m_dsp(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const int inputs = padded(l->inputs, 16), size = l->in_size, stride = l->stride, inner = inner_outputs(l);
    uint32_t *between = aligned_dsp(out);
    int c, k, x, y;
    for (c = 0; c < l->inputs; c += 4) {
        ChannelsDsp parameters;
        int p = 0;
        for (k = 0; k < 4; k++) {
            const uint8_t *stored = (const uint8_t *)l->weights + c / 16 * 192 + (c % 16 + k) * 4;
            const uint32_t left = (uint32_t)four_bytes(stored), middle = (uint32_t)four_bytes(stored + 64);
            const uint32_t right = (uint32_t)four_bytes(stored + 128), odd = signed_odd_dsp(right);
            parameters.weights[k] = signed_even_dsp(left);
            parameters.weights[4 + k] = signed_even_dsp(middle);
            parameters.weights[8 + k] = signed_even_dsp(right);
            parameters.weights[12 + k] = lower_dsp(signed_odd_dsp(left), signed_odd_dsp(middle));
            parameters.weights[16 + k % 2] = k < 2 ? odd : lower_dsp(parameters.weights[16 + k % 2], odd);
            parameters.biases[k] = l->biases[c + k];
            parameters.scales[k] = scale_dsp(l->factors[c + k]);
        }
        parameters.factors = l->factors + c;
        for (y = 0; y < rows; y++) {
            Line lines[3];
            for (k = 0; k < 3; k++)
                lines[k] = line_of(l, in, (row + y) * stride + k - l->top, c);
            x = 0;
            if (l->left || !inner)
                border_dsp(word_dsp(between, inputs, p++, c), &parameters, lines, -l->left, size), x = 1;
            for (; x < inner; x++, p++)
                output_dsp(word_dsp(between, inputs, p, c), &parameters, lines, x * stride - l->left);
            for (; x < l->out_size; x++, p++)
                border_dsp(word_dsp(between, inputs, p, c), &parameters, lines, x * stride - l->left, size);
        }
    }
}

static int has_cortex_m_dsp(void)
{
    return 1;
}

static const Kernels cortex_m_dsp_kernels = {has_cortex_m_dsp, patches_cortex_m_dsp, depthwise_cortex_m_dsp,
                                             pointwise_cortex_m_dsp, pool_portable, classify_portable, NULL, 1};
#endif

