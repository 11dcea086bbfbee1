/* cpuid and xgetbv of a processor that has, besides its own, what the headers before this one emulate: compiled in by
 * -include, behind them. */
#ifndef X86_H
#define X86_H

#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>

enum {
    EMULATED_VNNI_256 =
#ifdef AVX_VNNI_H
        1,
#else
        0,
#endif
    EMULATED_512 =
#ifdef AVX512_H
        1,
#else
        0,
#endif
    EMULATED_TILES =
#ifdef AMX_H
        1
#else
        0
#endif
};

static inline int emulated_cpuid(unsigned leaf, unsigned subleaf, uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d)
{
    const int known = __get_cpuid_count(leaf, subleaf, a, b, c, d);
    if (leaf == 7 && subleaf == 0) {
        *a |= EMULATED_VNNI_256;
        *b |= EMULATED_512 * (1u << 16 | 3u << 30); /* F, BW, VL */
        *c |= EMULATED_512 * (1u << 11);            /* VNNI */
        *d |= EMULATED_TILES * (3u << 24);          /* TILE, INT8 */
    } else if (leaf == 7 && subleaf == 1)
        *a |= EMULATED_VNNI_256 * (1u << 4);
    return known;
}

__attribute__((target("xsave"))) static inline uint32_t emulated_xgetbv(int which)
{
    uint32_t saved, upper;
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(upper) : "c"(which));
    return saved | EMULATED_512 * 0xE0 | EMULATED_TILES * 0x60000;
}

#undef _xgetbv
#define __get_cpuid_count emulated_cpuid
#define _xgetbv emulated_xgetbv

#endif
