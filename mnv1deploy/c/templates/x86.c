
/* ---- Kernels for x86-64 ----------------------------------------------------------------------------------------
 *
 * Compiled in beside the portable ones and chosen when running, by what the processor says it has.
 */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(MOBILENETV1_NO_SIMD)
#define X86

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

static int32_t four_bytes(const uint8_t *in)
{
    int32_t bytes;
    memcpy(&bytes, in, sizeof bytes);
    return bytes;
}

static __m128i load16(const void *in)
{
    return _mm_loadu_si128(in);
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* Where some channels of a row are, and how far apart its pixels are. A row outside the picture is zeros of any
 * length. */
typedef struct {
    const uint8_t *in;
    int step;
} Line;

/* Row `top` from channel `c` on. */
static Line line_of(const Layer *l, const uint8_t *in, int top, int c)
{
    static const uint8_t zeros[32];
    const int step = padded(l->inputs, 16), inside = top >= 0 && top < l->in_size;
    Line line;
    line.in = inside ? in + top * l->in_size * step + c : zeros;
    line.step = inside ? step : 0;
    return line;
}

/* Patches 1 to the one before this can be cut out of row y by loads of 16 bytes: all of those are in the picture. */
static int inner_end(const Layer *l, int y)
{
    const int top = y * l->stride - 1;
    return PIXELS_ARE_INPUT && top >= 0 && top + 2 < l->in_size ? (l->in_size - 4) / l->stride + 1 : 1;
}

/* ---- AVX2: sums of two products in 16 bits, which quantization keeps from saturating, and of two of those in 32 */

#define AVX2 __attribute__((target("avx2")))

AVX2 INLINE __m256i scaled_avx2(__m256i sums, const float *factors)
{
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_loadu_ps(factors)));
}

/* sums[2 p] and sums[2 p + 1]: of `height` pixels, 16 outputs from `output` on. */
AVX2 INLINE void accumulate_avx2(const Layer *l, const uint8_t *in, int stride, int output, __m256i *sums,
                                 const int height)
{
    const int inputs = padded(l->inputs, 4);
    const int8_t *weights = l->weights + output * inputs;
    const __m256i ones = _mm256_set1_epi16(1);
    int i, p, q;
    UNROLL for (p = 0; p < 2 * height; p++)
        sums[p] = _mm256_loadu_si256((const __m256i *)(l->biases + output + p % 2 * 8));
    for (i = 0; i < inputs; i += 4)
        UNROLL for (p = 0; p < height; p++) {
            const __m256i pixel = _mm256_set1_epi32(four_bytes(in + p * stride + i));
            UNROLL for (q = 0; q < 2; q++) {
                const __m256i column = _mm256_loadu_si256((const __m256i *)(weights + i * 16 + q * 32));
                const __m256i pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(pixel, column), ones);
                sums[2 * p + q] = _mm256_add_epi32(sums[2 * p + q], pairs);
            }
        }
}

AVX2 INLINE void tile_avx2(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int output, const int height)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0);
    const float *factors = l->factors + output;
    __m256i sums[8], words;
    int p;
    accumulate_avx2(l, in, stride, output, sums, height);
    UNROLL for (p = 0; p < height; p++) {
        words = _mm256_packs_epi32(scaled_avx2(sums[2 * p], factors), scaled_avx2(sums[2 * p + 1], factors + 8));
        words = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words, words), order);
        _mm_storeu_si128((__m128i *)(out + p * padded(l->outputs, 16) + output), _mm256_castsi256_si128(words));
    }
}

AVX2 static void pointwise_avx2(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int outputs = padded(l->outputs, 16);
    int o, p;
    for (o = 0; o < outputs; o += 16) {
        for (p = 0; p + 4 <= pixels; p += 4)
            tile_avx2(l, in + p * stride, stride, out + p * outputs, o, 4);
        for (; p < pixels; p++)
            tile_avx2(l, in + p * stride, stride, out + p * outputs, o, 1);
    }
}

/* Three rows of 16 channels in column x, in pairs of words: 0 to 3 and 8 to 11 of the first two rows, the other
 * channels of those; the same of the third row and zeros. */
AVX2 INLINE void column_avx2(__m256i column[4], const Line lines[3], int x)
{
    const __m256i zero = _mm256_setzero_si256();
    const __m256i a = _mm256_cvtepu8_epi16(load16(lines[0].in + x * lines[0].step));
    const __m256i b = _mm256_cvtepu8_epi16(load16(lines[1].in + x * lines[1].step));
    const __m256i c = _mm256_cvtepu8_epi16(load16(lines[2].in + x * lines[2].step));
    column[0] = _mm256_unpacklo_epi16(a, b);
    column[1] = _mm256_unpackhi_epi16(a, b);
    column[2] = _mm256_unpacklo_epi16(c, zero);
    column[3] = _mm256_unpackhi_epi16(c, zero);
}

/* Bytes 2 pair and 2 pair + 1 of the weights of channels 0 to 3 and 8 to 11 from `in` on, as words. */
AVX2 INLINE __m256i words_avx2(const int8_t *in, int pair)
{
    const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(in)), load16(in + 32), 1);
    const __m256i moved = pair ? bytes : _mm256_slli_epi32(bytes, 16);
    const __m256i even = _mm256_srai_epi32(_mm256_slli_epi32(moved, 8), 24), odd = _mm256_srai_epi32(moved, 24);
    return _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xAA);
}

AVX2 static void depthwise_avx2(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const int apart = padded(l->inputs, 16);
    int c, x, y, k, q;
    for (c = 0; c < apart; c += 16) {
        __m256i weights[3][4], biases[2];
        float factors[16];
        for (k = 0; k < 3; k++)
            for (q = 0; q < 4; q++)
                weights[k][q] = words_avx2(l->weights + c * 12 + k * 64 + q % 2 * 16, q / 2);
        for (q = 0; q < 2; q++) {
            const float *half = l->factors + c + 4 * q;
            const int32_t *bias = l->biases + c + 4 * q;
            biases[q] = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(bias)), load16(bias + 8), 1);
            memcpy(factors + 8 * q, half, 16);
            memcpy(factors + 8 * q + 4, half + 8, 16);
        }
        for (y = 0; y < rows; y++) {
            uint8_t *target = out + y * l->out_size * apart + c;
            Line lines[3];
            for (k = 0; k < 3; k++)
                lines[k] = line_of(l, in, (row + y) * l->stride + k - 1, c);
            for (x = 0; x < l->out_size; x++, target += apart) {
                __m256i sums[2], column[4];
                sums[0] = biases[0];
                sums[1] = biases[1];
                for (k = 0; k < 3; k++) {
                    const int left = x * l->stride + k - 1;
                    if (left < 0 || left >= l->in_size)
                        continue;
                    column_avx2(column, lines, left);
                    UNROLL for (q = 0; q < 4; q++)
                        sums[q % 2] = _mm256_add_epi32(sums[q % 2], _mm256_madd_epi16(column[q], weights[k][q]));
                }
                sums[0] = _mm256_packs_epi32(scaled_avx2(sums[0], factors), scaled_avx2(sums[1], factors + 8));
                sums[0] = _mm256_permute4x64_epi64(_mm256_packus_epi16(sums[0], sums[0]), 0x08);
                _mm_storeu_si128((__m128i *)target, _mm256_castsi256_si128(sums[0]));
            }
        }
    }
}

/* A patch is nine bytes of each of three rows; what is loaded around them is masked away. */
AVX2 static void patches_avx2(const Layer *l, const uint8_t *image, uint8_t *out, int row, int rows)
{
    const __m128i nine = _mm_setr_epi32(-1, -1, 0xFF, 0), two = _mm_setr_epi32(0xFFFF, 0, 0, 0);
    const int line = l->in_size * 3, step = l->stride * 3;
    int x, y;
    for (y = row; y < row + rows; y++, out += l->out_size * PATCH) {
        const uint8_t *middle = image + y * l->stride * line - 3;
        const int end = inner_end(l, y);
        for (x = 0; x < l->out_size; x++)
            if (x < 1 || x >= end)
                patch_portable(l, image, out + x * PATCH, y, x);
        for (x = 1; x < end; x++) {
            const uint8_t *in = middle + x * step;
            __m128i *patch = (__m128i *)(out + x * PATCH);
            _mm_storeu_si128(patch, _mm_blendv_epi8(load16(in - 9), load16(in - line), nine));
            _mm_storeu_si128(patch + 1, _mm_blendv_epi8(load16(in + line - 2), load16(in + 7), two));
        }
    }
}

AVX2 static void classify_avx2(const Layer *l, const uint8_t *in, float *logits)
{
    int o;
    for (o = 0; o < l->outputs; o += 16) {
        __m256i sums[2];
        float values[16];
        int q;
        accumulate_avx2(l, in, 0, o, sums, 1);
        for (q = 0; q < 2; q++)
            _mm256_storeu_ps(values + 8 * q, _mm256_mul_ps(_mm256_cvtepi32_ps(sums[q]),
                                                           _mm256_loadu_ps(l->factors + o + 8 * q)));
        memcpy(logits + o, values, sizeof *values * (size_t)smaller(16, l->outputs - o));
    }
}

/* ---- AVX-512 with VNNI: vpdpbusd adds four products of unsigned activations and signed weights to each int32 */

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

/* sums + bytes * weights. gcc moves every sum twice around the intrinsic of an instruction that adds in place. */
AVX512 INLINE __m512i add_products_avx512(__m512i sums, __m512i bytes, __m512i weights)
{
#ifdef __clang__
    return _mm512_dpbusd_epi32(sums, bytes, weights);
#else
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(bytes), "v"(weights));
    return sums;
#endif
}

AVX512 INLINE __m256i add_products_avx512vl(__m256i sums, __m256i bytes, __m256i weights)
{
#ifdef __clang__
    return _mm256_dpbusd_epi32(sums, bytes, weights);
#else
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(bytes), "vm"(weights));
    return sums;
#endif
}

/* What is done to every sum, as in requantize(), but for the saturation. */
AVX512 INLINE __m512i scaled_avx512(__m512i sums, __m512 factors)
{
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), factors));
}

AVX512 INLINE void store16_avx512(uint8_t *out, __m512i sums, __m512 factors)
{
    __m512i integers = _mm512_max_epi32(scaled_avx512(sums, factors), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)out, _mm512_cvtusepi32_epi8(integers));
}

/* 64 integers in order. Packing works within each quarter of a register: before the last step, quarter i holds
 * outputs 4 i to 4 i + 3 of every sum. */
AVX512 INLINE __m512i packed_avx512(const __m512i sums[4], const __m512 factors[4])
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i low = _mm512_packs_epi32(scaled_avx512(sums[0], factors[0]), scaled_avx512(sums[1], factors[1]));
    __m512i high = _mm512_packs_epi32(scaled_avx512(sums[2], factors[2]), scaled_avx512(sums[3], factors[3]));
    return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
}

/* A register tile of a 1x1 convolution: `height` pixels by `width` x 16 outputs from `output` on. */
AVX512 INLINE void tile_avx512(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int output,
                               const int height, const int width)
{
    const int inputs = padded(l->inputs, 4), out_stride = padded(l->outputs, 16);
    const int8_t *weights = l->weights + output * inputs;
    __m512i sums[16];
    __m512 factors[4];
    int i, p, q;
    UNROLL for (p = 0; p < height; p++)
        UNROLL for (q = 0; q < width; q++)
            sums[p * width + q] = _mm512_loadu_si512(l->biases + output + 16 * q);
    for (i = 0; i < inputs; i += 4) {
        __m512i columns[4];
        UNROLL for (q = 0; q < width; q++)
            columns[q] = _mm512_loadu_si512(weights + (q * inputs + i) * 16);
        UNROLL for (p = 0; p < height; p++) {
            const __m512i pixel = _mm512_set1_epi32(four_bytes(in + p * stride + i));
            UNROLL for (q = 0; q < width; q++)
                sums[p * width + q] = add_products_avx512(sums[p * width + q], pixel, columns[q]);
        }
    }
    UNROLL for (q = 0; q < 4; q++)
        factors[q] = _mm512_loadu_ps(l->factors + output + 16 * (q % width));
    out += output;
    if (width == 4) {
        UNROLL for (p = 0; p < height; p++)
            _mm512_storeu_si512(out + p * out_stride, packed_avx512(sums + 4 * p, factors));
    } else if (width == 2 && height % 2 == 0) {
        UNROLL for (p = 0; p < height; p += 2) {
            const __m512i two = packed_avx512(sums + 2 * p, factors);
            _mm256_storeu_si256((__m256i *)(out + p * out_stride), _mm512_castsi512_si256(two));
            _mm256_storeu_si256((__m256i *)(out + (p + 1) * out_stride), _mm512_extracti64x4_epi64(two, 1));
        }
    } else {
        UNROLL for (p = 0; p < height * width; p++)
            store16_avx512(out + p / width * out_stride + p % width * 16, sums[p], factors[p % width]);
    }
}

/* All pixels by `width` x 16 outputs. */
AVX512 INLINE void strip_avx512(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int pixels, int output,
                                const int height, const int width)
{
    const int out_stride = padded(l->outputs, 16);
    int p = 0;
    for (; p + height <= pixels; p += height)
        tile_avx512(l, in + p * stride, stride, out + p * out_stride, output, height, width);
    for (; p < pixels; p++)
        tile_avx512(l, in + p * stride, stride, out + p * out_stride, output, 1, width);
}

AVX512 static void pointwise_avx512(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int outputs = padded(l->outputs, 16);
    int o = 0;
    for (; o + 64 <= outputs; o += 64)
        strip_avx512(l, in, stride, out, pixels, o, 4, 4);
    for (; o + 32 <= outputs; o += 32)
        strip_avx512(l, in, stride, out, pixels, o, 8, 2);
    for (; o < outputs; o += 16)
        strip_avx512(l, in, stride, out, pixels, o, 8, 1);
}

/* 32 bytes, or 16 and zeros. */
AVX512 INLINE __m256i load_avx512(const void *in, const int wide)
{
    return wide ? _mm256_loadu_si256(in) : _mm256_zextsi128_si256(load16(in));
}

/* 16 bytes at `in` and 16 more `apart` bytes on, or zeros. */
AVX512 INLINE __m256i halves_avx512(const void *in, int apart, const int wide)
{
    const __m256i low = _mm256_zextsi128_si256(load16(in));
    return wide ? _mm256_inserti128_si256(low, load16((const char *)in + apart), 1) : low;
}

/* Four rows of 32 channels in column x: column[q] has channels 4 q to 4 q + 3 and 16 + 4 q to 16 + 4 q + 3, of each
 * the four rows, which is what vpdpbusd takes. */
AVX512 INLINE void column_avx512(__m256i column[4], const Line lines[4], int x, const int wide)
{
    const __m256i a = load_avx512(lines[0].in + x * lines[0].step, wide);
    const __m256i b = load_avx512(lines[1].in + x * lines[1].step, wide);
    const __m256i c = load_avx512(lines[2].in + x * lines[2].step, wide);
    const __m256i d = load_avx512(lines[3].in + x * lines[3].step, wide);
    const __m256i ab_low = _mm256_unpacklo_epi8(a, b), ab_high = _mm256_unpackhi_epi8(a, b);
    const __m256i cd_low = _mm256_unpacklo_epi8(c, d), cd_high = _mm256_unpackhi_epi8(c, d);
    column[0] = _mm256_unpacklo_epi16(ab_low, cd_low);
    column[1] = _mm256_unpackhi_epi16(ab_low, cd_low);
    column[2] = _mm256_unpacklo_epi16(ab_high, cd_high);
    column[3] = _mm256_unpackhi_epi16(ab_high, cd_high);
}

/* 32 channels from `c` on, or 16, of some rows of a depthwise convolution. With stride 1, two rows read the same four:
 * the upper one with weights for the first three, the lower one with weights for the last three. */
AVX512 INLINE void channels_avx512(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows, int c,
                                   const int wide, const int stride)
{
    const int apart = padded(l->inputs, 16), size = l->in_size, out_row = l->out_size * apart;
    const int at_once = stride == 1 ? 2 : 1;
    __m256i weights[2][3][4], biases[4];
    __m256 factors[4];
    int q, k, x, y, r;
    UNROLL for (q = 0; q < 4; q++) {
        UNROLL for (k = 0; k < 3; k++) {
            weights[0][k][q] = halves_avx512(l->weights + c * 12 + k * 64 + q * 16, 3 * 64, wide);
            weights[1][k][q] = _mm256_slli_epi32(weights[0][k][q], 8);
        }
        biases[q] = halves_avx512(l->biases + c + 4 * q, 64, wide);
        factors[q] = _mm256_castsi256_ps(halves_avx512(l->factors + c + 4 * q, 64, wide));
    }
    for (y = 0, out += c; y < rows; y += at_once) {
        Line lines[4];
        __m256i left[4], middle[4], right[4];
        for (k = 0; k < 4; k++) /* with stride 2 there is no fourth row */
            lines[k] = line_of(l, in, k < 2 + at_once ? (row + y) * stride + k - 1 : -1, c);
        UNROLL for (q = 0; q < 4; q++)
            left[q] = right[q] = _mm256_setzero_si256();
        if (stride == 1)
            column_avx512(middle, lines, 0, wide);
        for (x = 0; x < l->out_size; x++) {
            uint8_t *target = out + y * out_row + x * apart;
            if (stride == 2)
                column_avx512(middle, lines, 2 * x, wide);
            if (x * stride + 1 < size)
                column_avx512(right, lines, x * stride + 1, wide);
            else {
                UNROLL for (q = 0; q < 4; q++)
                    right[q] = _mm256_setzero_si256();
            }
            UNROLL for (r = 0; r < at_once; r++, target += out_row) {
                __m256i sums[4];
                UNROLL for (q = 0; q < 4; q++) {
                    sums[q] = add_products_avx512vl(biases[q], left[q], weights[r][0][q]);
                    sums[q] = add_products_avx512vl(sums[q], middle[q], weights[r][1][q]);
                    sums[q] = add_products_avx512vl(sums[q], right[q], weights[r][2][q]);
                    sums[q] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sums[q]), factors[q]));
                }
                sums[0] = _mm256_packs_epi32(sums[0], sums[1]);
                sums[0] = _mm256_packus_epi16(sums[0], _mm256_packs_epi32(sums[2], sums[3]));
                if (y + r >= rows)
                    continue;
                if (wide)
                    _mm256_storeu_si256((__m256i *)target, sums[0]);
                else
                    _mm_storeu_si128((__m128i *)target, _mm256_castsi256_si128(sums[0]));
            }
            UNROLL for (q = 0; q < 4; q++) {
                left[q] = stride == 1 ? middle[q] : right[q];
                middle[q] = right[q];
            }
        }
    }
}

AVX512 static void depthwise_avx512(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const int channels = padded(l->inputs, 16);
    int c = 0;
    for (; c + 32 <= channels; c += 32)
        if (l->stride == 1)
            channels_avx512(l, in, out, row, rows, c, 1, 1);
        else
            channels_avx512(l, in, out, row, rows, c, 1, 2);
    if (c < channels && l->stride == 1)
        channels_avx512(l, in, out, row, rows, c, 0, 1);
    else if (c < channels)
        channels_avx512(l, in, out, row, rows, c, 0, 2);
}

/* A patch at the picture's border: only what is inside is loaded, over the padding. */
AVX512 INLINE void border_avx512(const Layer *l, const uint8_t *image, uint8_t *out, int y, int x)
{
    const int top = y * l->stride - 1, left = x * l->stride - 1, size = l->in_size;
    const __mmask32 columns = left < 0 ? 0x1F8 : left + 2 < size ? 0x1FF : 0x03F;
    __m256i patch = _mm256_maskz_set1_epi8(0x07FFFFFF, (char)PADDING);
    int k;
    for (k = 0; k < 3; k++)
        if (top + k >= 0 && top + k < size)
            patch = _mm256_mask_loadu_epi8(patch, columns << 9 * k, image + ((top + k) * size + left - 3 * k) * 3);
    _mm256_storeu_si256((__m256i *)out, patch);
}

AVX512 static void patches_avx512(const Layer *l, const uint8_t *image, uint8_t *out, int row, int rows)
{
    const int line = l->in_size * 3, step = l->stride * 3;
    int x, y;
    if (!PIXELS_ARE_INPUT) {
        patches_portable(l, image, out, row, rows);
        return;
    }
    for (y = row; y < row + rows; y++, out += l->out_size * PATCH) {
        const uint8_t *middle = image + y * l->stride * line - 3;
        const int end = inner_end(l, y);
        border_avx512(l, image, out, y, 0);
        for (x = 1; x < end; x++) {
            const uint8_t *in = middle + x * step;
            __m128i *patch = (__m128i *)(out + x * PATCH);
            _mm_storeu_si128(patch, _mm_mask_mov_epi8(load16(in - line), 0xFE00, load16(in - 9)));
            _mm_storeu_si128(patch + 1, _mm_mask_mov_epi8(load16(in + 7), 0xFFFC, load16(in + line - 2)));
        }
        for (; x < l->out_size; x++)
            border_avx512(l, image, out + x * PATCH, y, x);
    }
}

AVX512 static void pool_avx512(const uint8_t *in, uint8_t *out, int pixels, int channels)
{
    const int stride = padded(channels, 16);
    int p, c;
    for (c = 0; c < channels; c += 16) {
        __m512i sums = _mm512_setzero_si512();
        for (p = 0; p < pixels; p++)
            sums = _mm512_add_epi32(sums, _mm512_cvtepu8_epi32(load16(in + p * stride + c)));
        store16_avx512(out + c, sums, _mm512_set1_ps(POOL_FACTOR));
    }
}

AVX512 static void classify_avx512(const Layer *l, const uint8_t *in, float *logits)
{
    const int inputs = padded(l->inputs, 4);
    int i, o, q;
    for (o = 0; o < l->outputs; o += 16) {
        const int8_t *weights = l->weights + o * inputs;
        const __mmask16 mask = (__mmask16)((1u << smaller(16, l->outputs - o)) - 1);
        __m512i sums[4];
        for (q = 0; q < 4; q++)
            sums[q] = _mm512_setzero_si512();
        sums[0] = _mm512_loadu_si512(l->biases + o);
        for (i = 0; i < inputs; i += 16)
            for (q = 0; q < 4 && i + 4 * q < inputs; q++)
                sums[q] = _mm512_dpbusd_epi32(sums[q], _mm512_set1_epi32(four_bytes(in + i + 4 * q)),
                                              _mm512_loadu_si512(weights + (i + 4 * q) * 16));
        sums[0] = _mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3]));
        _mm512_mask_storeu_ps(logits + o, mask,
                              _mm512_mul_ps(_mm512_cvtepi32_ps(sums[0]), _mm512_loadu_ps(l->factors + o)));
    }
}

#endif

