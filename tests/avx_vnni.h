/* AVX-VNNI in plain C, for processors without it: compiled in by -include. */
#ifndef AVX_VNNI_H
#define AVX_VNNI_H

#include <immintrin.h>
#include <stdint.h>

/* sums[i] += unsigned bytes[4 i + k] * signed weights[4 i + k], modulo 2^32: Intel's VPDPBUSD */
static __attribute__((noinline, unused, target("avx2"))) __m256i emulated_dpbusd_256(__m256i sums, __m256i bytes,
                                                                                     __m256i weights)
{
    uint32_t totals[8];
    uint8_t a[32];
    int8_t b[32];
    int i;
    _mm256_storeu_si256((__m256i *)totals, sums);
    _mm256_storeu_si256((__m256i *)a, bytes);
    _mm256_storeu_si256((__m256i *)b, weights);
    for (i = 0; i < 32; i++)
        totals[i / 4] += (uint32_t)(a[i] * b[i]);
    return _mm256_loadu_si256((const __m256i *)totals);
}

#undef _mm256_dpbusd_avx_epi32
#define _mm256_dpbusd_avx_epi32 emulated_dpbusd_256

#ifndef NO_ASSEMBLER
#define NO_ASSEMBLER
#endif

#endif
