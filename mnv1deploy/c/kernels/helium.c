/* ---- Kernels for Helium, the vector extension of Cortex-M55 and M85 -----------------------------------------------
 *
 * vmladava adds 16 products of signed bytes to one sum: activations less 128, by one output's weights, which are
 * gathered from where they are, four inputs in one place. What is taken from the activations is given back by the
 * biases, 128 times the sum of the weights.
 */
#if defined(__ARM_FEATURE_MVE) && __ARM_FEATURE_MVE == 3 && defined(__GNUC__) && defined(__OPTIMIZE__) && \
    !defined(__ARM_BIG_ENDIAN) && !defined(NO_SIMD)
#define HELIUM_KERNELS

#include <arm_mve.h>

/* Integers, not yet saturated; what is done to every sum, as in requantize(). */
INLINE int32x4_t scaled_helium(int32x4_t sums, float32x4_t factors)
{
    return vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums), factors));
}

/* Where the weights of one output are: four inputs at each address. */
INLINE uint32x4_t addresses_helium(const int8_t *weights)
{
    const uint32x4_t apart = {0, 64, 128, 192};
    return vaddq_n_u32(apart, (uint32_t)(uintptr_t)weights);
}

/* The bias of an output, and 128 times the sum of its weights. */
INLINE int32_t bias_helium(int32_t bias, const int8_t *weights, int inputs)
{
    uint32x4_t addresses = addresses_helium(weights - 256);
    int32_t sum = 0;
    int i;
    for (i = inputs / 16; i > 0; i--)
        sum = vaddvaq_s8(sum, vreinterpretq_s8_u32(vldrwq_gather_base_wb_u32(&addresses, 256)));
    if (inputs % 16) {
        const mve_pred16_t there = vctp32q((uint32_t)inputs % 16 / 4);
        sum = vaddvaq_s8(sum, vreinterpretq_s8_u32(vldrwq_gather_base_z_u32(addresses, 256, there)));
    }
    return bias + 128 * sum;
}

/* Two outputs of 2 x `tiles` pixels of a 1x1 convolution. Sums start from the biases, which the bits of floats hold:
 * there are more registers for those. gcc's own code for the intrinsics moves every sum several times, and left to
 * choose the registers it finds too few. */
INLINE void outputs_helium(const int8_t *in, int stride, int inputs, uint8_t *target, int apart, int count,
                           const int8_t *weights, const float biases[2], float32x4_t factors, uint32x4_t places)
{
    const uint32x4_t start = addresses_helium(weights - 256);
    register int32_t s00 __asm__("r0"), s01 __asm__("r2"), s10 __asm__("r4"), s11 __asm__("r6"); /* even: vmladava */
    register const int8_t *a __asm__("r1") = in, *b __asm__("r3") = in + stride;
    register uint8_t *out __asm__("r5") = target;
    register int tiles __asm__("r8") = count, fours __asm__("r10") = inputs / 4, step __asm__("r11") = 2 * apart;
    register int skip __asm__("r12") = 2 * stride - inputs / 16 * 16;
    __asm__ volatile("1:\n\t"
                     "vmov q3, %q[start]\n\t"
                     "vmov %[s00], %[bias0]\n\t"
                     "vmov %[s01], %[bias1]\n\t"
                     "mov %[s10], %[s00]\n\t"
                     "mov %[s11], %[s01]\n\t"
                     "lsr lr, %[fours], #2\n\t"
                     "wls lr, lr, 3f\n\t"
                     "2:\n\t"
                     "vldrb.8 q0, [%[a]], #16\n\t"
                     "vldrw.u32 q2, [q3, #256]!\n\t"
                     "vmladava.s8 %[s00], q0, q2\n\t"
                     "vldrb.8 q1, [%[b]], #16\n\t"
                     "vmladava.s8 %[s10], q1, q2\n\t"
                     "vldrw.u32 q2, [q3, #4]\n\t"
                     "vmladava.s8 %[s01], q0, q2\n\t"
                     "vmladava.s8 %[s11], q1, q2\n\t"
                     "le lr, 2b\n\t"
                     "3:\n\t"
                     "ands lr, %[fours], #3\n\t"
                     "beq 4f\n\t"
                     "vldrb.8 q0, [%[a]]\n\t"
                     "vldrb.8 q1, [%[b]]\n\t"
                     "vctp.32 lr\n\t"
                     "vpst\n\t"
                     "vldrwt.u32 q2, [q3, #256]\n\t"
                     "vmladava.s8 %[s00], q0, q2\n\t"
                     "vmladava.s8 %[s10], q1, q2\n\t"
                     "vpst\n\t"
                     "vldrwt.u32 q2, [q3, #260]\n\t"
                     "vmladava.s8 %[s01], q0, q2\n\t"
                     "vmladava.s8 %[s11], q1, q2\n\t"
                     "4:\n\t"
                     "vmov q0[2], q0[0], %[s00], %[s10]\n\t"
                     "vmov q0[3], q0[1], %[s01], %[s11]\n\t"
                     "vcvt.f32.s32 q0, q0\n\t"
                     "vmul.f32 q0, q0, %q[factors]\n\t"
                     "vcvtn.s32.f32 q0, q0\n\t"
                     "vqmovunb.s32 q0, q0\n\t"
                     "vqmovnb.u16 q0, q0\n\t"
                     "vstrb.32 q0, [%[out], %q[places]]\n\t"
                     "add %[out], %[step]\n\t"
                     "add %[a], %[skip]\n\t"
                     "add %[b], %[skip]\n\t"
                     "subs %[tiles], #1\n\t"
                     "bne 1b"
                     : [s00] "=&r"(s00), [s01] "=&r"(s01), [s10] "=&r"(s10), [s11] "=&r"(s11), [a] "+&r"(a),
                       [b] "+&r"(b), [out] "+&r"(out), [tiles] "+&r"(tiles)
                     : [fours] "r"(fours), [skip] "r"(skip), [step] "r"(step),
                       [start] "w"(start), [factors] "w"(factors), [places] "w"(places), [bias0] "t"(biases[0]),
                       [bias1] "t"(biases[1])
                     : "q0", "q1", "q2", "q3", "lr", "cc", "memory");
}

static void pointwise_helium(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int inputs = padded(l->inputs, 4), step = padded(l->outputs, 16);
    const int8_t *centred = (const int8_t *)in;
    int i, o;
    for (i = 0; i < pixels * stride; i += 16)
        vstrbq_u8(in + i, veorq_u8(vldrbq_u8(in + i), vdupq_n_u8(128)));
    for (o = 0; o < l->outputs; o += 2) {
        const uint32x4_t places = {0, 1, (uint32_t)step, (uint32_t)step + 1}, alternately = {0, 4, 0, 4};
        const int8_t *weights = weights_of(l, o);
        const float32x4_t factors = vldrwq_gather_offset_f32(l->factors + o, alternately);
        int32_t sums[2];
        float biases[2];
        sums[0] = bias_helium(l->biases[o], weights, inputs);
        sums[1] = bias_helium(l->biases[o + 1], weights + 4, inputs);
        memcpy(biases, sums, sizeof biases);
        if (pixels > 1)
            outputs_helium(centred, stride, inputs, out + o, step, pixels / 2, weights, biases, factors, places);
        if (pixels % 2) { /* the last one twice, to the same place */
            const uint32x4_t same = {0, 1, 0, 1};
            const int p = pixels - 1;
            outputs_helium(centred + p * stride, 0, inputs, out + p * step + o, step, 1, weights, biases, factors, same);
        }
    }
}

/* What eight channels of a depthwise convolution need besides their pixels. Channels 0, 2, 4, 6 come first where sums
 * have 32 bits. */
typedef struct {
    int16_t weights[9][8]; /* row by row */
    int32_t biases[2][4];
    float factors[2][4];
} ChannelsHelium;

/* A pixel times its weights; the line goes on to the next column. */
#define TAP_HELIUM(to, line, step, k) \
    "vldrb.u16 " to ", [%[" line "]]\n\tvldrh.u16 q7, [%[c], #16*" #k "]\n\t" \
    "add %[" line "], %[" step "]\n\tvmul.i16 " to ", " to ", q7\n\t"

/* Two neighbouring weights of a channel, times pixels, fit 16 bits (see PAIR in quantization); to the sums. */
#define SUM_HELIUM(products) \
    "vmovlb.s16 q2, " products "\n\tvadd.i32 q3, q3, q2\n\t" \
    "vmovlt.s16 q2, " products "\n\tvadd.i32 q4, q4, q2\n\t"

#define ROW_HELIUM(back) \
    __asm__ volatile("wls lr, %[count], 2f\n\t" \
                     "1:\n\t" \
                     "vldrw.u32 q3, [%[c], #144]\n\t" \
                     "vldrw.u32 q4, [%[c], #160]\n\t" \
                     TAP_HELIUM("q0", "a", "as", 0) TAP_HELIUM("q1", "a", "as", 1) "vadd.i16 q0, q0, q1\n\t" \
                     SUM_HELIUM("q0") \
                     TAP_HELIUM("q0", "a", "as", 2) TAP_HELIUM("q1", "b", "bs", 3) "vadd.i16 q0, q0, q1\n\t" \
                     SUM_HELIUM("q0") \
                     TAP_HELIUM("q0", "b", "bs", 4) TAP_HELIUM("q1", "b", "bs", 5) "vadd.i16 q0, q0, q1\n\t" \
                     SUM_HELIUM("q0") \
                     TAP_HELIUM("q0", "d", "ds", 6) TAP_HELIUM("q1", "d", "ds", 7) "vadd.i16 q0, q0, q1\n\t" \
                     SUM_HELIUM("q0") \
                     TAP_HELIUM("q0", "d", "ds", 8) SUM_HELIUM("q0") back \
                     "vcvt.f32.s32 q3, q3\n\t" \
                     "vcvt.f32.s32 q4, q4\n\t" \
                     "vldrw.u32 q0, [%[c], #176]\n\t" \
                     "vldrw.u32 q1, [%[c], #192]\n\t" \
                     "vmul.f32 q3, q3, q0\n\t" \
                     "vmul.f32 q4, q4, q1\n\t" \
                     "vcvtn.s32.f32 q3, q3\n\t" \
                     "vcvtn.s32.f32 q4, q4\n\t" \
                     "vqmovunb.s32 q3, q3\n\t" \
                     "vqmovunt.s32 q3, q4\n\t" \
                     "vqmovnb.u16 q3, q3\n\t" \
                     "vstrb.16 q3, [%[out]]\n\t" \
                     "add %[out], %[step]\n\t" \
                     "le lr, 1b\n\t" \
                     "2:" \
                     : [a] "+r"(a), [b] "+r"(b), [d] "+r"(d), [out] "+r"(out) \
                     : [as] "r"(as), [bs] "r"(bs), [ds] "r"(ds), [step] "r"(apart), [c] "r"(c), [count] "r"(count) \
                     : "q0", "q1", "q2", "q3", "q4", "q7", "lr", "cc", "memory")

/* `outputs` of a row, the first of which reads columns `left` to `left + 2`, all inside. */
INLINE void inner_helium(uint8_t *target, const ChannelsHelium *channels, const Line lines[3], int left, int step,
                         int outputs, const int stride)
{
    register const uint8_t *a __asm__("r0") = lines[0].in + left * lines[0].step;
    register const uint8_t *b __asm__("r1") = lines[1].in + left * lines[1].step;
    register const uint8_t *d __asm__("r2") = lines[2].in + left * lines[2].step;
    register uint8_t *out __asm__("r3") = target;
    register intptr_t as __asm__("r4") = lines[0].step, bs __asm__("r5") = lines[1].step, ds __asm__("r6") = lines[2].step;
    register intptr_t apart __asm__("r8") = step;
    register const ChannelsHelium *c __asm__("r10") = channels;
    register int count __asm__("r11") = outputs;
    if (stride == 1)
        ROW_HELIUM("sub %[a], %[a], %[as], lsl #1\n\tsub %[b], %[b], %[bs], lsl #1\n\tsub %[d], %[d], %[ds], lsl #1\n\t");
    else
        ROW_HELIUM("sub %[a], %[as]\n\tsub %[b], %[bs]\n\tsub %[d], %[ds]\n\t");
}

/* An output of which columns may be outside: those are zeros. */
static void border_helium(uint8_t *out, const ChannelsHelium *c, const Line lines[3], int left, int size)
{
    int32x4_t even = vldrwq_s32(c->biases[0]), odd = vldrwq_s32(c->biases[1]);
    int16x8_t integers;
    int k, x;
    for (x = left < 0 ? -left : 0; x < 3 && left + x < size; x++)
        for (k = 0; k < 3; k++) {
            const int16x8_t pixels = vreinterpretq_s16_u16(vldrbq_u16(lines[k].in + (left + x) * lines[k].step));
            const int16x8_t products = vmulq_s16(pixels, vldrhq_s16(c->weights[3 * k + x]));
            even = vaddq_s32(even, vmovlbq_s16(products));
            odd = vaddq_s32(odd, vmovltq_s16(products));
        }
    integers = vqmovnbq_s32(vuninitializedq_s16(), scaled_helium(even, vldrwq_f32(c->factors[0])));
    integers = vqmovntq_s32(integers, scaled_helium(odd, vldrwq_f32(c->factors[1])));
    integers = vminq_s16(vmaxq_s16(integers, vdupq_n_s16(0)), vdupq_n_s16(255));
    vstrbq_u16(out, vreinterpretq_u16_s16(integers));
}

static void depthwise_helium(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const uint16x8_t fourth = vmulq_n_u16(vidupq_n_u16(0, 1), 4); /* byte: 0, 4, 8 ... */
    const uint32x4_t even = {0, 8, 16, 24};
    const int channels = padded(l->inputs, 16), size = l->in_size, inner = inner_outputs(l);
    int c, k, x, y;
    for (c = 0; c < channels; c += 8) {
        const int8_t *stored = l->weights + c / 16 * 192 + c % 16 * 4;
        ChannelsHelium parameters;
        for (k = 0; k < 9; k++)
            vstrhq_s16(parameters.weights[k], vldrbq_gather_offset_s16(stored + k % 3 * 64 + k / 3, fourth));
        for (k = 0; k < 2; k++) {
            vstrwq_s32(parameters.biases[k], vldrwq_gather_offset_s32(l->biases + c + k, even));
            vstrwq_f32(parameters.factors[k], vldrwq_gather_offset_f32(l->factors + c + k, even));
        }
        for (y = 0; y < rows; y++) {
            uint8_t *target = out + y * l->out_size * channels + c;
            Line lines[3];
            for (k = 0; k < 3; k++)
                lines[k] = line_of(l, in, (row + y) * l->stride + k - l->top, c);
            x = 0;
            if (l->left || !inner)
                border_helium(target, &parameters, lines, -l->left, size), x = 1;
            if (x < inner) {
                uint8_t *first = target + x * channels;
                const int left = x * l->stride - l->left;
                if (l->stride == 1)
                    inner_helium(first, &parameters, lines, left, channels, inner - x, 1);
                else
                    inner_helium(first, &parameters, lines, left, channels, inner - x, 2);
                x = inner;
            }
            for (; x < l->out_size; x++)
                border_helium(target + x * channels, &parameters, lines, x * l->stride - l->left, size);
        }
    }
}

static int has_helium(void)
{
    return 1;
}

static const Kernels helium_kernels = {has_helium, patches_portable, depthwise_helium, pointwise_helium, pool_portable,
                                       classify_portable, NULL, 0};
#endif

