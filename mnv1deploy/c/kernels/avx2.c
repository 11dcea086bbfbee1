/* ---- Kernels for x86-64 with AVX2 -------------------------------------------------------------------------------
 *
 * Sums of two products in 16 bits, which quantization keeps from saturating, and of two of those in 32.
 */
#if (defined(__x86_64__) || defined(_M_X64)) && !defined(_M_ARM64EC) && !defined(NO_SIMD) && \
    (defined(__GNUC__) || defined(__clang__) || (defined(_MSC_VER) && _MSC_VER >= 1920))
#define AVX2_KERNELS

#include <immintrin.h>
#if defined(_MSC_VER) && defined(__clang__) /* whose immintrin.h has what its options name, and no more */
#include <tmmintrin.h>
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <avxvnniintrin.h>
#include <avx512fintrin.h>
#include <avx512bwintrin.h>
#include <avx512vlintrin.h>
#include <avx512vlbwintrin.h>
#include <avx512vnniintrin.h>
#include <xsaveintrin.h>
#endif
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif

enum { X86_ASKED = 1, X86_AVX2 = 2, X86_AVX_VNNI = 4, X86_AVX512_VNNI = 8, X86_AMX_INT8 = 16 };

/* Registers a, b, c and d of cpuid; zeros if this processor knows no such leaf. */
INLINE void cpuid_x86(int leaf, int subleaf, uint32_t registers[4])
{
#ifdef _MSC_VER
    __cpuidex((int *)registers, 0, 0);
    if (registers[0] >= (uint32_t)leaf)
        __cpuidex((int *)registers, leaf, subleaf);
    else
        memset(registers, 0, 4 * sizeof *registers);
#else
    if (!__get_cpuid_count((unsigned)leaf, (unsigned)subleaf, registers, registers + 1, registers + 2, registers + 3))
        memset(registers, 0, 4 * sizeof *registers);
#endif
}

/* Which registers the system saves: bits 1 and 2 AVX's, 5 to 7 AVX-512's, 17 and 18 AMX's. */
COMPILED_FOR("xsave") static uint32_t saved_x86(void)
{
#if defined(_MSC_VER) || defined(_xgetbv)
    return (uint32_t)_xgetbv(0);
#else
    uint32_t saved, upper;
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(upper) : "c"(0));
    return saved;
#endif
}

/* What this processor has, in bits: those of cpuid are in volume 2 of Intel's Software Developer's Manual. */
static int ask_x86(void)
{
    uint32_t first[4], seventh[4], more[4], saved;
    int features = X86_ASKED;
    cpuid_x86(1, 0, first);
    cpuid_x86(7, 0, seventh);
    cpuid_x86(7, seventh[0] ? 1 : 0, more);
    saved = first[2] >> 27 & 1 ? saved_x86() : 0;
#ifdef __APPLE__
    saved |= 0xE0; /* as soon as a thread first uses them */
#endif
    if ((saved & 0x6) != 0x6 || !(seventh[1] >> 5 & 1))
        return features;
    features |= X86_AVX2;
    if (seventh[0] && more[0] >> 4 & 1)
        features |= X86_AVX_VNNI;
    if ((saved & 0xE0) == 0xE0 && (seventh[1] >> 16 & 0xC001) == 0xC001 && seventh[2] >> 11 & 1) /* F, BW, VL, VNNI */
        features |= X86_AVX512_VNNI;
    if ((saved & 0x60000) == 0x60000 && (seventh[3] >> 24 & 3) == 3)
        features |= X86_AMX_INT8;
    return features;
}

/* The answer never changes: it is kept, because some virtual machines take long over cpuid. Threads may race for it. */
#if defined(__GNUC__) || defined(__clang__)
typedef int Kept;
#define LOAD_KEPT(kept) __atomic_load_n(&(kept), __ATOMIC_RELAXED)
#define STORE_KEPT(kept, value) __atomic_store_n(&(kept), value, __ATOMIC_RELAXED)
#else
typedef volatile int Kept;
#define LOAD_KEPT(kept) (kept)
#define STORE_KEPT(kept, value) ((kept) = (value))
#endif

static int has_x86(int feature)
{
    static Kept kept;
    int features = LOAD_KEPT(kept);
    if (!features) {
        features = ask_x86();
        STORE_KEPT(kept, features);
    }
    return (features & feature) != 0;
}

#define AVX2 COMPILED_FOR("avx2")

AVX2 INLINE __m128i load16(const void *in)
{
    return _mm_loadu_si128((const __m128i *)in);
}

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

AVX2 static void pointwise_avx2(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
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

/* 16 channels apart: what a convolution of 3x3 weighs them with, and makes bytes of its sums with. */
typedef struct {
    __m256i weights[3][4], biases[2]; /* by column of the kernel, the words as those of column_avx2 */
    float factors[16];
} Depthwise16;

AVX2 INLINE void add_column_avx2(__m256i sums[2], const __m256i column[4], const __m256i weights[4])
{
    int q;
    UNROLL for (q = 0; q < 4; q++)
        sums[q % 2] = _mm256_add_epi32(sums[q % 2], _mm256_madd_epi16(column[q], weights[q]));
}

AVX2 INLINE void store_depthwise_avx2(uint8_t *out, const __m256i sums[2], const float *factors)
{
    __m256i words = _mm256_packs_epi32(scaled_avx2(sums[0], factors), scaled_avx2(sums[1], factors + 8));
    words = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0x08);
    _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(words));
}

/* A row of a convolution with stride 1: a column of the picture is taken apart once, for three outputs. */
AVX2 INLINE void row_avx2(const Layer *l, const Depthwise16 *d, const Line lines[3], uint8_t *out, int apart)
{
    __m256i last[2], middle[2], first[2], column[4]; /* sums that this column is the last, middle and first one of */
    int x, i, q;
    UNROLL for (q = 0; q < 2; q++)
        last[q] = middle[q] = d->biases[q];
    for (i = 0, x = l->left - 2; x < l->out_size; i++, x++) {
        UNROLL for (q = 0; q < 2; q++)
            first[q] = d->biases[q];
        if (i < l->in_size) {
            column_avx2(column, lines, i);
            add_column_avx2(last, column, d->weights[2]);
            add_column_avx2(middle, column, d->weights[1]);
            add_column_avx2(first, column, d->weights[0]);
        }
        if (x >= 0)
            store_depthwise_avx2(out + x * apart, last, d->factors);
        UNROLL for (q = 0; q < 2; q++) {
            last[q] = middle[q];
            middle[q] = first[q];
        }
    }
}

/* With stride 2 every other column is the last one of an output and the first one of the next. */
AVX2 INLINE void row_by_2_avx2(const Layer *l, const Depthwise16 *d, const Line lines[3], uint8_t *out, int apart)
{
    __m256i sums[2], next[2], column[4];
    int x, i, q;
    UNROLL for (q = 0; q < 2; q++)
        next[q] = d->biases[q];
    if (!l->left) {
        column_avx2(column, lines, 0);
        add_column_avx2(next, column, d->weights[0]);
    }
    for (i = 1 - l->left, x = 0; x < l->out_size; i += 2, x++) {
        UNROLL for (q = 0; q < 2; q++) {
            sums[q] = next[q];
            next[q] = d->biases[q];
        }
        if (i < l->in_size) {
            column_avx2(column, lines, i);
            add_column_avx2(sums, column, d->weights[1]);
        }
        if (i + 1 < l->in_size) {
            column_avx2(column, lines, i + 1);
            add_column_avx2(sums, column, d->weights[2]);
            add_column_avx2(next, column, d->weights[0]);
        }
        store_depthwise_avx2(out + x * apart, sums, d->factors);
    }
}

AVX2 static void depthwise_avx2(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const int apart = padded(l->inputs, 16);
    int c, y, k, q;
    for (c = 0; c < apart; c += 16) {
        Depthwise16 d;
        for (k = 0; k < 3; k++)
            for (q = 0; q < 4; q++)
                d.weights[k][q] = words_avx2(l->weights + c * 12 + k * 64 + q % 2 * 16, q / 2);
        for (q = 0; q < 2; q++) {
            const float *half = l->factors + c + 4 * q;
            const int32_t *bias = l->biases + c + 4 * q;
            d.biases[q] = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(bias)), load16(bias + 8), 1);
            memcpy(d.factors + 8 * q, half, 16);
            memcpy(d.factors + 8 * q + 4, half + 8, 16);
        }
        for (y = 0; y < rows; y++) {
            Line lines[3];
            for (k = 0; k < 3; k++)
                lines[k] = line_of(l, in, (row + y) * l->stride + k - l->top, c);
            if (l->stride == 1)
                row_avx2(l, &d, lines, out + y * l->out_size * apart + c, apart);
            else
                row_by_2_avx2(l, &d, lines, out + y * l->out_size * apart + c, apart);
        }
    }
}

AVX2 static void patches_avx2(const Layer *l, const uint8_t *image, uint8_t *out, int row, int rows)
{
    shared_patches(l, image, out, row, rows);
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

static int has_avx2(void)
{
    return has_x86(X86_AVX2);
}

static const Kernels avx2_kernels = {has_avx2,      patches_avx2,  depthwise_avx2, pointwise_avx2,
                                     pool_portable, classify_avx2, NULL, 0};

#endif

