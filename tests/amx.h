/* AMX in plain C, for processors without it: compiled in by -include. The operations are those of Intel's manual
 * (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: LDTILECFG, TILELOADD, TDPBUSD, TILESTORED,
 * TILERELEASE), and what would raise an exception stops the program. */
#ifndef AMX_H
#define AMX_H

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint8_t rows, data[16][64];
    uint16_t row_bytes;
} EmulatedTile;

static __thread EmulatedTile emulated_tiles[8];

static inline void emulated_check(int fine)
{
    if (!fine)
        abort();
}

static inline void emulated_config(const void *memory)
{
    const uint8_t *bytes = (const uint8_t *)memory;
    int t, i;
    emulated_check(bytes[0] == 1 && bytes[1] == 0);
    for (i = 2; i < 16; i++)
        emulated_check(bytes[i] == 0);
    for (t = 0; t < 16; t++) {
        const int row_bytes = bytes[16 + 2 * t] + 256 * bytes[17 + 2 * t], rows = bytes[48 + t];
        emulated_check(t < 8 ? row_bytes <= 64 && rows <= 16 && !row_bytes == !rows : !row_bytes && !rows);
        if (t < 8) {
            memset(emulated_tiles + t, 0, sizeof *emulated_tiles);
            emulated_tiles[t].rows = (uint8_t)rows;
            emulated_tiles[t].row_bytes = (uint16_t)row_bytes;
        }
    }
}

static inline void emulated_load(EmulatedTile *tile, const void *memory, long stride)
{
    int r;
    emulated_check(tile->rows > 0);
    memset(tile->data, 0, sizeof tile->data);
    for (r = 0; r < tile->rows; r++)
        memcpy(tile->data[r], (const uint8_t *)memory + r * stride, tile->row_bytes);
}

static inline void emulated_store(const EmulatedTile *tile, void *memory, long stride)
{
    int r;
    emulated_check(tile->rows > 0);
    for (r = 0; r < tile->rows; r++)
        memcpy((uint8_t *)memory + r * stride, tile->data[r], tile->row_bytes);
}

/* sums[m][n] += unsigned a[m][4 k + i] * signed b[k][4 n + i], modulo 2^32 */
static inline void emulated_products(EmulatedTile *sums, const EmulatedTile *a, const EmulatedTile *b)
{
    int m, k, n, i;
    emulated_check(sums != a && sums != b && a != b && sums->rows > 0 && a->rows > 0 && b->rows > 0);
    emulated_check(sums->rows == a->rows && sums->row_bytes == b->row_bytes && a->row_bytes == 4 * b->rows);
    for (m = 0; m < sums->rows; m++)
        for (n = 0; n < sums->row_bytes / 4; n++) {
            uint32_t sum;
            memcpy(&sum, sums->data[m] + 4 * n, 4);
            for (k = 0; k < b->rows; k++)
                for (i = 0; i < 4; i++)
                    sum += (uint32_t)(a->data[m][4 * k + i] * (int8_t)b->data[k][4 * n + i]);
            memcpy(sums->data[m] + 4 * n, &sum, 4);
        }
}

static inline void emulated_release(void)
{
    memset(emulated_tiles, 0, sizeof emulated_tiles);
}

static inline long emulated_syscall(long number, ...)
{
    (void)number;
    return 0; /* permission granted */
}

#undef _tile_loadconfig
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#undef _tile_release
#define _tile_loadconfig emulated_config
#define _tile_loadd(tile, memory, stride) emulated_load(emulated_tiles + (tile), memory, stride)
#define _tile_stored(tile, memory, stride) emulated_store(emulated_tiles + (tile), memory, stride)
#define _tile_dpbusd(sums, a, b) emulated_products(emulated_tiles + (sums), emulated_tiles + (a), emulated_tiles + (b))
#define _tile_release emulated_release
#define syscall emulated_syscall

#endif
