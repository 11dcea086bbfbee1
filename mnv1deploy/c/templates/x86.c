
/* ---- Kernels for x86-64 ----------------------------------------------------------------------------------------
 *
 * Compiled in beside the portable ones and chosen when running, by what the processor says it has. vpdpbusd adds four
 * products of unsigned activations and signed weights to an int32: 16 outputs, 4 inputs of each, per instruction.
 */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(MOBILENETV1_NO_SIMD)
#define X86

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

static int32_t four_bytes(const uint8_t *in)
{
    int32_t bytes;
    memcpy(&bytes, in, sizeof bytes);
    return bytes;
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

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

/* Packing works within each quarter of a register: afterwards quarter i has outputs 4 i to 4 i + 3 of every sum. */
AVX512 INLINE void store32_avx512(uint8_t *out, const __m512i *sums, const __m512 *factors)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512i words = _mm512_packs_epi32(scaled_avx512(sums[0], factors[0]), scaled_avx512(sums[1], factors[1]));
    words = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(words, words));
    _mm256_storeu_si256((__m256i *)out, _mm512_castsi512_si256(words));
}

AVX512 INLINE void store64_avx512(uint8_t *out, const __m512i *sums, const __m512 *factors)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i low = _mm512_packs_epi32(scaled_avx512(sums[0], factors[0]), scaled_avx512(sums[1], factors[1]));
    __m512i high = _mm512_packs_epi32(scaled_avx512(sums[2], factors[2]), scaled_avx512(sums[3], factors[3]));
    _mm512_storeu_si512(out, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)));
}

/* A register tile of a 1x1 convolution: `height` pixels by `width` x 16 outputs from `output` on. */
AVX512 INLINE void tile_avx512(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int output,
                               const int height, const int width)
{
    const int inputs = padded(l->inputs, 4), out_stride = padded(l->outputs, 16);
    const int8_t *weights = l->weights + output * inputs;
    __m512i sums[8][4];
    __m512 factors[4];
    int i, p, q;
    UNROLL for (q = 0; q < width; q++) {
        factors[q] = _mm512_loadu_ps(l->factors + output + 16 * q);
        UNROLL for (p = 0; p < height; p++)
            sums[p][q] = _mm512_loadu_si512(l->biases + output + 16 * q);
    }
    for (i = 0; i < inputs; i += 4) {
        __m512i columns[4];
        UNROLL for (q = 0; q < width; q++)
            columns[q] = _mm512_loadu_si512(weights + (q * inputs + i) * 16);
        UNROLL for (p = 0; p < height; p++) {
            const __m512i pixel = _mm512_set1_epi32(four_bytes(in + p * stride + i));
            UNROLL for (q = 0; q < width; q++)
                sums[p][q] = _mm512_dpbusd_epi32(sums[p][q], pixel, columns[q]);
        }
    }
    UNROLL for (p = 0; p < height; p++) {
        uint8_t *pixel = out + p * out_stride + output;
        if (width == 4)
            store64_avx512(pixel, sums[p], factors);
        else if (width == 2)
            store32_avx512(pixel, sums[p], factors);
        else
            store16_avx512(pixel, sums[p][0], factors[0]);
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
    return wide ? _mm256_loadu_si256(in) : _mm256_zextsi128_si256(_mm_loadu_si128(in));
}

/* 16 bytes at `in` and 16 more `apart` bytes on, or zeros. */
AVX512 INLINE __m256i halves_avx512(const void *in, int apart, const int wide)
{
    const __m256i low = _mm256_zextsi128_si256(_mm_loadu_si128(in));
    return wide ? _mm256_inserti128_si256(low, _mm_loadu_si128((const void *)((const char *)in + apart)), 1) : low;
}

/* One column of three rows of 32 channels: sums[q] has channels 4 q to 4 q + 3 of both halves, for each its three
 * rows and a zero, which is what vpdpbusd takes. */
AVX512 INLINE void column_avx512(__m256i column[4], const uint8_t *const rows[3], const int steps[3], int x,
                                 const int wide)
{
    const __m256i zero = _mm256_setzero_si256();
    const __m256i a = load_avx512(rows[0] + x * steps[0], wide), b = load_avx512(rows[1] + x * steps[1], wide);
    const __m256i c = load_avx512(rows[2] + x * steps[2], wide);
    const __m256i ab_low = _mm256_unpacklo_epi8(a, b), ab_high = _mm256_unpackhi_epi8(a, b);
    const __m256i c_low = _mm256_unpacklo_epi8(c, zero), c_high = _mm256_unpackhi_epi8(c, zero);
    column[0] = _mm256_unpacklo_epi16(ab_low, c_low);
    column[1] = _mm256_unpackhi_epi16(ab_low, c_low);
    column[2] = _mm256_unpacklo_epi16(ab_high, c_high);
    column[3] = _mm256_unpackhi_epi16(ab_high, c_high);
}

/* 32 channels from `c` on, or 16, of some rows of a depthwise convolution. */
AVX512 INLINE void channels_avx512(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows, int c,
                                   const int wide, const int stride)
{
    static const uint8_t nothing[32];
    const int apart = padded(l->inputs, 16), size = l->in_size;
    __m256i weights[3][4], biases[4];
    __m256 factors[4];
    int q, k, x, y;
    UNROLL for (q = 0; q < 4; q++) {
        UNROLL for (k = 0; k < 3; k++)
            weights[k][q] = halves_avx512(l->weights + c * 12 + k * 64 + q * 16, 3 * 64, wide);
        biases[q] = halves_avx512(l->biases + c + 4 * q, 64, wide);
        factors[q] = _mm256_castsi256_ps(halves_avx512(l->factors + c + 4 * q, 64, wide));
    }
    for (y = row; y < row + rows; y++) {
        const uint8_t *lines[3];
        int steps[3];
        __m256i left[4], middle[4], right[4];
        for (k = 0; k < 3; k++) {
            const int top = y * stride + k - 1, inside = top >= 0 && top < size;
            lines[k] = inside ? in + top * size * apart + c : nothing;
            steps[k] = inside ? apart : 0;
        }
        UNROLL for (q = 0; q < 4; q++)
            left[q] = _mm256_setzero_si256();
        if (stride == 1)
            column_avx512(middle, lines, steps, 0, wide);
        for (x = 0; x < l->out_size; x++, out += apart) {
            __m256i sums[4];
            if (stride == 2)
                column_avx512(middle, lines, steps, 2 * x, wide);
            if (stride == 2 || x + 1 < size)
                column_avx512(right, lines, steps, x * stride + 1, wide);
            else {
                UNROLL for (q = 0; q < 4; q++)
                    right[q] = _mm256_setzero_si256();
            }
            UNROLL for (q = 0; q < 4; q++) {
                sums[q] = _mm256_dpbusd_epi32(biases[q], left[q], weights[0][q]);
                sums[q] = _mm256_dpbusd_epi32(sums[q], middle[q], weights[1][q]);
                sums[q] = _mm256_dpbusd_epi32(sums[q], right[q], weights[2][q]);
                sums[q] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sums[q]), factors[q]));
                left[q] = stride == 1 ? middle[q] : right[q];
                middle[q] = right[q];
            }
            sums[0] = _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
            if (wide)
                _mm256_storeu_si256((__m256i *)(out + c), sums[0]);
            else
                _mm_storeu_si128((__m128i *)(out + c), _mm256_castsi256_si128(sums[0]));
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

/* Three masked loads per patch, each putting nine bytes of one row in their place over the padding. */
AVX512 static void patches_avx512(const Layer *l, const uint8_t *image, uint8_t *out, int row, int rows)
{
    const __m256i padding = _mm256_maskz_set1_epi8(0x07FFFFFF, (char)PADDING);
    const int size = l->in_size;
    int x, y, k;
    for (y = row; y < row + rows; y++)
        for (x = 0; x < l->out_size; x++, out += PATCH) {
            const int left = x * l->stride - 1;
            const __mmask32 columns = left < 0 ? 0x1F8 : left + 2 < size ? 0x1FF : 0x03F;
            __m256i patch = padding;
            UNROLL for (k = 0; k < 3; k++) {
                const int top = y * l->stride + k - 1;
                if (top >= 0 && top < size)
                    patch = _mm256_mask_loadu_epi8(patch, columns << 9 * k, image + (top * size + left - 3 * k) * 3);
            }
            _mm256_storeu_si256((__m256i *)out, patch);
        }
}

AVX512 static void pool_avx512(const uint8_t *in, uint8_t *out, int pixels, int channels)
{
    const int stride = padded(channels, 16);
    int p, c;
    for (c = 0; c < channels; c += 16) {
        __m512i sums = _mm512_setzero_si512();
        for (p = 0; p < pixels; p++)
            sums = _mm512_add_epi32(sums, _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(in + p * stride + c))));
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

