
/* ---- Kernels for x86-64 with AMX --------------------------------------------------------------------------------
 *
 * tdpbusd adds the products of 16 pixels and 16 outputs, up to 64 inputs of each, to a tile of 256 int32. Only the 1x1
 * convolutions are other than with AVX-512.
 */
#if defined(X86) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define X86_AMX

#include <cpuid.h>

#define AMX __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,amx-tile,amx-int8")))

long syscall(long number, ...);

/* Whether there are tiles, and Linux lets this process use them, for which it has to be asked. The answer never
 * changes: it is kept, because some virtual machines take long over cpuid, and threads may race for it. */
static int has_amx(void)
{
    enum { ARCH_PRCTL = 158, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, TILE_AND_INT8 = 3 << 24 };
    static int answer; /* 1 is yes, -1 no, 0 not asked yet */
    int kept = __atomic_load_n(&answer, __ATOMIC_RELAXED);
    if (!kept) {
        unsigned a, b, c, d;
        kept = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & TILE_AND_INT8) == TILE_AND_INT8 &&
               syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0 ? 1 : -1;
        __atomic_store_n(&answer, kept, __ATOMIC_RELAXED);
    }
    return kept > 0;
}

/* What the processor reads the tiles' sizes from. */
typedef struct {
    uint8_t palette, start_row, zeros[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} Tiles;

/* Tiles 0 to 3 become sums of 16 outputs each, tile 4 pixels, tiles 5 to 7 weights. */
AMX static void shape_tiles(int pixels, int inputs)
{
    Tiles tiles = {1, 0, {0}, {64, 64, 64, 64, 0, 64, 64, 64}, {0}};
    int t;
    for (t = 0; t < 8; t++)
        tiles.rows[t] = (uint8_t)(t < 5 ? pixels : inputs / 4);
    tiles.row_bytes[4] = (uint16_t)inputs;
    __asm__ volatile("" : : "r"(&tiles) : "memory"); /* gcc does not know that all of it is read */
    _tile_loadconfig(&tiles);
}

/* The sums of as many pixels as the tiles have rows, by `width` x 16 outputs from `output` on, `chunk` inputs at a
 * time. A tile's number has to be a literal. */
AMX INLINE void accumulate_amx(const Layer *l, const uint8_t *in, int stride, int output, int chunk,
                               int32_t sums[4][16][16], const int width)
{
    const int inputs = padded(l->inputs, 4);
    const int8_t *weights = l->weights + output * inputs;
    const int32_t *biases = l->biases + output;
    int i;
    _tile_loadd(0, biases, 0); /* the same row 16 times */
    if (width > 1)
        _tile_loadd(1, biases + 16, 0);
    if (width > 2) {
        _tile_loadd(2, biases + 32, 0);
        _tile_loadd(3, biases + 48, 0);
    }
    for (i = 0; i < inputs; i += chunk) {
        _tile_loadd(4, in + i, stride);
        _tile_loadd(5, weights + i * 16, 64);
        _tile_dpbusd(0, 4, 5);
        if (width > 1) {
            _tile_loadd(6, weights + (inputs + i) * 16, 64);
            _tile_dpbusd(1, 4, 6);
        }
        if (width > 2) {
            _tile_loadd(7, weights + (2 * inputs + i) * 16, 64);
            _tile_dpbusd(2, 4, 7);
            _tile_loadd(5, weights + (3 * inputs + i) * 16, 64);
            _tile_dpbusd(3, 4, 5);
        }
    }
    _tile_stored(0, sums[0], 64);
    if (width > 1)
        _tile_stored(1, sums[1], 64);
    if (width > 2) {
        _tile_stored(2, sums[2], 64);
        _tile_stored(3, sums[3], 64);
    }
}

AMX INLINE void tile_amx(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int pixels, int output,
                         int chunk, const int width)
{
    const int out_stride = padded(l->outputs, 16);
    int32_t sums[4][16][16] ALIGNED;
    __m512 factors[4];
    int p, q;
    accumulate_amx(l, in, stride, output, chunk, sums, width);
    UNROLL for (q = 0; q < 4; q++)
        factors[q] = _mm512_loadu_ps(l->factors + output + 16 * (q % width));
    for (p = 0, out += output; p < pixels; p++, out += out_stride) {
        __m512i pixel[4];
        UNROLL for (q = 0; q < width; q++)
            pixel[q] = _mm512_load_si512(sums[q][p]);
        if (width == 4)
            _mm512_storeu_si512(out, packed_avx512(pixel, factors));
        else {
            UNROLL for (q = 0; q < width; q++)
                store16_avx512(out + 16 * q, pixel[q], factors[q]);
        }
    }
}

/* `count` times `pixels` pixels, at most 16, by all outputs: tiles of that many pixels by up to 64 outputs. */
AMX static void strip_amx(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int pixels, int count)
{
    const int inputs = padded(l->inputs, 4), outputs = padded(l->outputs, 16);
    int chunk = smaller(inputs, 64), width, o, p;
    while (inputs % chunk) /* all of a layer's tiles are the same size */
        chunk -= 4;
    shape_tiles(pixels, chunk);
    for (o = 0; o < outputs; o += 16 * width) {
        const uint8_t *source = in;
        uint8_t *target = out;
        width = outputs - o >= 64 ? 4 : outputs - o >= 32 ? 2 : 1;
        for (p = 0; p < count; p++, source += pixels * stride, target += pixels * outputs)
            if (width == 4)
                tile_amx(l, source, stride, target, pixels, o, chunk, 4);
            else if (width == 2)
                tile_amx(l, source, stride, target, pixels, o, chunk, 2);
            else
                tile_amx(l, source, stride, target, pixels, o, chunk, 1);
    }
}

AMX static void pointwise_amx(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int count = pixels / 16, done = 16 * count;
    if (done)
        strip_amx(l, in, stride, out, 16, count);
    if (done < pixels)
        strip_amx(l, in + done * stride, stride, out + done * padded(l->outputs, 16), pixels - done, 1);
    _tile_release();
}

#endif

