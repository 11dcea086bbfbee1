/* AVX-512 in plain C, for processors without it: compiled in by -include. The operations are those of Intel's Intrinsics
 * Guide, as far as the kernels use them; rounding is to the nearest, as it is by default. What the kernels are compiled
 * for is AVX2. */
#ifndef AVX512_H
#define AVX512_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef union {
    int8_t i8[64];
    uint8_t u8[64];
    int16_t i16[32];
    int32_t i32[16];
    uint32_t u32[16];
    float f32[16];
} Emulated512;

/* Not inline: the kernels unroll, and compiling would take a minute. */
#ifdef __clang__
#define EMULATED static __attribute__((noinline, unused, target("avx2")))
#else
#define EMULATED static __attribute__((noinline, unused, target("avx2"), optimize("O2")))
#endif

EMULATED Emulated512 emulated_loadu(const void *memory)
{
    Emulated512 r;
    memcpy(&r, memory, sizeof r);
    return r;
}

EMULATED void emulated_storeu(void *memory, Emulated512 a)
{
    memcpy(memory, &a, sizeof a);
}

EMULATED Emulated512 emulated_set1_epi32(int32_t value)
{
    Emulated512 r;
    int i;
    for (i = 0; i < 16; i++)
        r.i32[i] = value;
    return r;
}

EMULATED Emulated512 emulated_set1_ps(float value)
{
    Emulated512 r;
    int i;
    for (i = 0; i < 16; i++)
        r.f32[i] = value;
    return r;
}

EMULATED Emulated512 emulated_add_epi32(Emulated512 a, Emulated512 b)
{
    int i;
    for (i = 0; i < 16; i++)
        a.u32[i] += b.u32[i];
    return a;
}

EMULATED Emulated512 emulated_max_epi32(Emulated512 a, Emulated512 b)
{
    int i;
    for (i = 0; i < 16; i++)
        a.i32[i] = a.i32[i] > b.i32[i] ? a.i32[i] : b.i32[i];
    return a;
}

EMULATED Emulated512 emulated_slli_epi32(Emulated512 a, int count)
{
    int i;
    for (i = 0; i < 16; i++)
        a.u32[i] <<= count;
    return a;
}

EMULATED Emulated512 emulated_mul_ps(Emulated512 a, Emulated512 b)
{
    int i;
    for (i = 0; i < 16; i++)
        a.f32[i] *= b.f32[i];
    return a;
}

EMULATED Emulated512 emulated_fmsub_ps(Emulated512 a, Emulated512 b, Emulated512 c)
{
    int i;
    for (i = 0; i < 16; i++)
        a.f32[i] = fmaf(a.f32[i], b.f32[i], -c.f32[i]);
    return a;
}

EMULATED Emulated512 emulated_cvtepi32_ps(Emulated512 a)
{
    int i;
    for (i = 0; i < 16; i++)
        a.f32[i] = (float)a.i32[i];
    return a;
}

EMULATED Emulated512 emulated_cvtps_epi32(Emulated512 a)
{
    int i;
    for (i = 0; i < 16; i++)
        a.i32[i] = _mm_cvtss_si32(_mm_set_ss(a.f32[i]));
    return a;
}

EMULATED Emulated512 emulated_cvtepu8_epi32(__m128i a)
{
    Emulated512 r;
    uint8_t bytes[16];
    int i;
    memcpy(bytes, &a, sizeof bytes);
    for (i = 0; i < 16; i++)
        r.i32[i] = bytes[i];
    return r;
}

EMULATED __m128i emulated_cvtusepi32_epi8(Emulated512 a)
{
    uint8_t bytes[16];
    __m128i r;
    int i;
    for (i = 0; i < 16; i++)
        bytes[i] = (uint8_t)(a.u32[i] < 255 ? a.u32[i] : 255);
    memcpy(&r, bytes, sizeof r);
    return r;
}

/* Packing and unpacking work on each 128 bits alone. */
EMULATED Emulated512 emulated_packs_epi32(Emulated512 a, Emulated512 b)
{
    Emulated512 r;
    int lane, i;
    for (lane = 0; lane < 4; lane++)
        for (i = 0; i < 8; i++) {
            const int32_t value = (i < 4 ? a : b).i32[4 * lane + i % 4];
            r.i16[8 * lane + i] = (int16_t)(value < -32768 ? -32768 : value > 32767 ? 32767 : value);
        }
    return r;
}

EMULATED Emulated512 emulated_packus_epi16(Emulated512 a, Emulated512 b)
{
    Emulated512 r;
    int lane, i;
    for (lane = 0; lane < 4; lane++)
        for (i = 0; i < 16; i++) {
            const int16_t value = (i < 8 ? a : b).i16[8 * lane + i % 8];
            r.u8[16 * lane + i] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
        }
    return r;
}

/* Elements of `size` bytes of the lower or the upper half of each 128 bits, in turns. */
EMULATED Emulated512 emulated_unpack(Emulated512 a, Emulated512 b, int size, int upper)
{
    Emulated512 r;
    int lane, i;
    for (lane = 0; lane < 64; lane += 16)
        for (i = 0; i < 8 / size; i++) {
            memcpy(r.u8 + lane + 2 * i * size, a.u8 + lane + 8 * upper + i * size, (size_t)size);
            memcpy(r.u8 + lane + (2 * i + 1) * size, b.u8 + lane + 8 * upper + i * size, (size_t)size);
        }
    return r;
}

EMULATED Emulated512 emulated_permutexvar_epi32(Emulated512 order, Emulated512 a)
{
    Emulated512 r;
    int i;
    for (i = 0; i < 16; i++)
        r.u32[i] = a.u32[order.u32[i] % 16];
    return r;
}

/* sums[i] += unsigned bytes[4 i + k] * signed weights[4 i + k], modulo 2^32 */
EMULATED Emulated512 emulated_dpbusd(Emulated512 sums, Emulated512 bytes, Emulated512 weights)
{
    int i;
    for (i = 0; i < 64; i++)
        sums.u32[i / 4] += (uint32_t)(bytes.u8[i] * weights.i8[i]);
    return sums;
}

EMULATED Emulated512 emulated_insert(Emulated512 a, const void *part, size_t size, int place)
{
    memcpy(a.u8 + size * (size_t)place, part, size);
    return a;
}

EMULATED Emulated512 emulated_insert128(Emulated512 a, __m128i part, int place)
{
    return emulated_insert(a, &part, sizeof part, place);
}

EMULATED Emulated512 emulated_insert256(Emulated512 a, __m256i part, int place)
{
    return emulated_insert(a, &part, sizeof part, place);
}

EMULATED __m128i emulated_extract128(Emulated512 a, int place)
{
    __m128i r;
    memcpy(&r, a.u8 + 16 * place, sizeof r);
    return r;
}

EMULATED __m256i emulated_extract256(Emulated512 a, int place)
{
    __m256i r;
    memcpy(&r, a.u8 + 32 * place, sizeof r);
    return r;
}

EMULATED void emulated_mask_storeu_ps(void *memory, uint32_t mask, Emulated512 a)
{
    int i;
    for (i = 0; i < 16; i++)
        if (mask >> i & 1)
            memcpy((uint8_t *)memory + 4 * i, a.u8 + 4 * i, 4);
}

/* What the mask leaves out is not read. */
EMULATED __m256i emulated_mask_loadu_epi8(__m256i a, uint32_t mask, uintptr_t memory)
{
    uint8_t bytes[32];
    uintptr_t i;
    memcpy(bytes, &a, sizeof bytes);
    for (i = 0; i < 32; i++)
        if (mask >> i & 1)
            bytes[i] = *(const uint8_t *)(memory + i);
    memcpy(&a, bytes, sizeof a);
    return a;
}

EMULATED Emulated512 emulated_setr_epi32(const int32_t *values)
{
    return emulated_loadu(values);
}

#undef _mm512_add_epi32
#undef _mm512_castsi128_si512
#undef _mm512_castsi256_si512
#undef _mm512_castsi512_ps
#undef _mm512_castsi512_si128
#undef _mm512_castsi512_si256
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtps_epi32
#undef _mm512_cvtusepi32_epi8
#undef _mm512_dpbusd_epi32
#undef _mm512_extracti32x4_epi32
#undef _mm512_extracti64x4_epi64
#undef _mm512_fmsub_ps
#undef _mm512_inserti32x4
#undef _mm512_inserti64x4
#undef _mm512_load_si512
#undef _mm512_loadu_ps
#undef _mm512_loadu_si512
#undef _mm512_mask_storeu_ps
#undef _mm512_max_epi32
#undef _mm512_mul_ps
#undef _mm512_packs_epi32
#undef _mm512_packus_epi16
#undef _mm512_permutexvar_epi32
#undef _mm512_set1_epi32
#undef _mm512_set1_ps
#undef _mm512_setr_epi32
#undef _mm512_setzero_si512
#undef _mm512_slli_epi32
#undef _mm512_storeu_si512
#undef _mm512_unpackhi_epi16
#undef _mm512_unpackhi_epi8
#undef _mm512_unpacklo_epi16
#undef _mm512_unpacklo_epi8
#undef _mm256_mask_loadu_epi8
#define __m512i Emulated512
#define __m512 Emulated512
#define _mm512_add_epi32 emulated_add_epi32
#define _mm512_castsi128_si512(a) emulated_insert128(emulated_set1_epi32(0), a, 0)
#define _mm512_castsi256_si512(a) emulated_insert256(emulated_set1_epi32(0), a, 0)
#define _mm512_castsi512_ps(a) (a)
#define _mm512_castsi512_si128(a) emulated_extract128(a, 0)
#define _mm512_castsi512_si256(a) emulated_extract256(a, 0)
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_cvtepu8_epi32 emulated_cvtepu8_epi32
#define _mm512_cvtps_epi32 emulated_cvtps_epi32
#define _mm512_cvtusepi32_epi8 emulated_cvtusepi32_epi8
#define _mm512_dpbusd_epi32 emulated_dpbusd
#define _mm512_extracti32x4_epi32 emulated_extract128
#define _mm512_extracti64x4_epi64 emulated_extract256
#define _mm512_fmsub_ps emulated_fmsub_ps
#define _mm512_inserti32x4 emulated_insert128
#define _mm512_inserti64x4 emulated_insert256
#define _mm512_load_si512 emulated_loadu
#define _mm512_loadu_ps emulated_loadu
#define _mm512_loadu_si512 emulated_loadu
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps
#define _mm512_max_epi32 emulated_max_epi32
#define _mm512_mul_ps emulated_mul_ps
#define _mm512_packs_epi32 emulated_packs_epi32
#define _mm512_packus_epi16 emulated_packus_epi16
#define _mm512_permutexvar_epi32 emulated_permutexvar_epi32
#define _mm512_set1_epi32 emulated_set1_epi32
#define _mm512_set1_ps emulated_set1_ps
#define _mm512_setr_epi32(...) emulated_setr_epi32((const int32_t[16]){__VA_ARGS__})
#define _mm512_setzero_si512() emulated_set1_epi32(0)
#define _mm512_slli_epi32 emulated_slli_epi32
#define _mm512_storeu_si512 emulated_storeu
#define _mm512_unpackhi_epi16(a, b) emulated_unpack(a, b, 2, 1)
#define _mm512_unpackhi_epi8(a, b) emulated_unpack(a, b, 1, 1)
#define _mm512_unpacklo_epi16(a, b) emulated_unpack(a, b, 2, 0)
#define _mm512_unpacklo_epi8(a, b) emulated_unpack(a, b, 1, 0)
#define _mm256_mask_loadu_epi8(a, mask, memory) emulated_mask_loadu_epi8(a, mask, (uintptr_t)(memory))

#ifndef NO_ASSEMBLER
#define NO_ASSEMBLER
#endif
#define target(instructions) target("avx2")

#endif
