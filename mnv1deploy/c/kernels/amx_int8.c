
/* ---- Kernels for x86-64 with AMX --------------------------------------------------------------------------------
 *
 * tdpbusd adds the products of 16 pixels and 16 outputs, up to 64 inputs of each, to a tile of 256 int32. Only the 1x1
 * convolutions are other than with AVX-512.
 */
#if defined(AVX512_VNNI_KERNELS) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define AMX_INT8_KERNELS

#define AMX COMPILED_FOR("avx512f,avx512bw,avx512vl,avx512vnni,amx-tile,amx-int8")

#ifdef __cplusplus
extern "C"
#endif
long syscall(long number, ...);

/* Whether Linux lets this process use tiles, for which it has to be asked. */
static int may_use_amx(void)
{
    enum { ARCH_PRCTL = 158, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    static Kept kept; /* 1 is yes, -1 no, 0 not asked yet */
    int answer = LOAD_KEPT(kept);
    if (!answer) {
        answer = syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0 ? 1 : -1;
        STORE_KEPT(kept, answer);
    }
    return answer > 0;
}

/* What the processor reads the tiles' sizes from. */
typedef struct {
    uint8_t palette, start_row, zeros[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} Tiles;

/* The inputs that a tile holds: as many as divide all of a layer's. */
static int chunk_of(const Layer *l)
{
    const int inputs = padded(l->inputs, 4);
    int chunk = smaller(inputs, 64);
    while (inputs % chunk)
        chunk -= 4;
    return chunk;
}

/* For the next calls of pointwise_amx(): tiles 0 to 3 become sums of 16 outputs each, tile 4 pixels, tiles 5 and 6
 * weights. Returns what tells this shape from others; nothing is done if it is `before`, as it takes 150 cycles.
 * No pixels: there are no more, and the tiles are given back. */
AMX static int shape_amx(const Layer *l, int pixels, int before)
{
    Tiles tiles = {1, 0, {0}, {64, 64, 64, 64, 0, 64, 64}, {0}};
    const int chunk = chunk_of(l), rows = smaller(pixels, 16), shape = rows * 65 + chunk;
    int t;
    if (pixels == 0) {
        _tile_release();
        return 0;
    }
    if (shape == before)
        return shape;
    for (t = 0; t < 7; t++)
        tiles.rows[t] = (uint8_t)(t < 5 ? rows : chunk / 4);
    tiles.row_bytes[4] = (uint16_t)chunk;
    __asm__ volatile("" : : "r"(&tiles) : "memory"); /* gcc does not know that all of it is read */
    _tile_loadconfig(&tiles);
    return shape;
}

/* The sums of a tile of pixels by `width` x 16 outputs, in tiles 0 and 1 or, of turn 1, in tiles 2 and 3. A tile's
 * number has to be a literal. */
AMX INLINE void accumulate_amx(const uint8_t *in, int stride, const int8_t *weights, int inputs, int chunk,
                               const __m512i *starts, const int turn, const int width)
{
    int i;
    if (turn == 0) {
        _tile_loadd(0, starts, 0); /* the same row 16 times */
        if (width == 2)
            _tile_loadd(1, starts + 1, 0);
    } else {
        _tile_loadd(2, starts, 0);
        if (width == 2)
            _tile_loadd(3, starts + 1, 0);
    }
    for (i = 0; i < inputs; i += chunk) {
        _tile_loadd(4, in + i, stride);
        _tile_loadd(5, weights + i * 16, 64);
        if (turn == 0)
            _tile_dpbusd(0, 4, 5);
        else
            _tile_dpbusd(2, 4, 5);
        if (width == 2) {
            _tile_loadd(6, weights + (inputs + i) * 16, 64);
            if (turn == 0)
                _tile_dpbusd(1, 4, 6);
            else
                _tile_dpbusd(3, 4, 6);
        }
    }
}

/* Requantizes and stores the sums of one turn. */
AMX INLINE void finish_amx(uint8_t *out, int stride, const Scaling *s, int pixels, const int turn, const int width)
{
    ALIGNED int32_t sums[2][16][16];
    __m512i four[4];
    int p, q;
    if (turn == 0) {
        _tile_stored(0, sums[0], 64);
        if (width == 2)
            _tile_stored(1, sums[1], 64);
    } else {
        _tile_stored(2, sums[0], 64);
        if (width == 2)
            _tile_stored(3, sums[1], 64);
    }
    for (p = 0; p + 4 / width <= pixels; p += 4 / width) {
        UNROLL for (q = 0; q < 4; q++)
            four[q] = _mm512_load_si512(sums[q % width][p + q / width]);
        store_avx512(out + p * stride, stride, four, s, width);
    }
    for (; p < pixels; p++) {
        UNROLL for (q = 0; q < width; q++)
            four[q] = _mm512_load_si512(sums[q][p]);
        store_pixel_avx512(out + p * stride, four, s, width);
    }
}

/* All pixels by as many times `width` x 16 outputs as there are from `output` on; returns the first one that is left.
 * Sums are finished when those of the next turn are under way: a tile is not stored while it is waited for. */
AMX INLINE int strip_amx(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int pixels, int output,
                         const int width)
{
    const int inputs = padded(l->inputs, 4), chunk = chunk_of(l);
    const int out_stride = padded(l->outputs, 16), rows = smaller(pixels, 16);
    Scaling scalings[2];
    const Scaling *s = NULL;
    uint8_t *target = NULL;
    int turn = 0, p;
    for (; output + 16 * width <= out_stride; output += 16 * width) {
        Scaling *next = s == scalings ? scalings + 1 : scalings;
        outputs_scaling_avx512(next, l, output, width);
        __asm__ volatile("" : : : "memory"); /* gcc does not know that tiles are loaded from memory */
        for (p = 0; p < pixels; p += rows, turn ^= 1, s = next) {
            const int start = smaller(p, pixels - rows); /* the last ones may be done twice */
            const uint8_t *source = in + start * stride;
            const int8_t *weights = l->weights + output * inputs;
            if (turn == 0) {
                accumulate_amx(source, stride, weights, inputs, chunk, next->starts, 0, width);
                if (target)
                    finish_amx(target, out_stride, s, rows, 1, width);
            } else {
                accumulate_amx(source, stride, weights, inputs, chunk, next->starts, 1, width);
                finish_amx(target, out_stride, s, rows, 0, width);
            }
            target = out + start * out_stride + output;
        }
    }
    if (target && turn == 0)
        finish_amx(target, out_stride, s, rows, 1, width);
    else if (target)
        finish_amx(target, out_stride, s, rows, 0, width);
    return output;
}

AMX static void pointwise_amx(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int o = strip_amx(l, in, stride, out, pixels, 0, 2);
    strip_amx(l, in, stride, out, pixels, o, 1);
}

AMX static void classify_amx(const Layer *l, const uint8_t *in, float *logits)
{
    _tile_release();
    classify_avx512(l, in, logits);
}

static int has_amx_int8(void)
{
    return has_avx512() && has_x86(X86_AMX_INT8) && may_use_amx();
}

static const Kernels amx_int8_kernels = {has_amx_int8, patches_avx512, depthwise_avx512, pointwise_amx,
                                         pool_avx512,  classify_amx,   shape_amx, 0};

#endif

