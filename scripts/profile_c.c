/* Times every kernel call of a generated network; see profile_c.py. Lines: instruction set, layer, microseconds, and
 * how many its arithmetic takes at least; first, as layer "peak", microseconds of some products alone and how many. */
#define _POSIX_C_SOURCE 199309L
#include "network.c"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { REPEATS = 5000, PEAK_CALLS = 1000 };

static uint8_t image[NETWORK_IMAGE_BYTES];
static ALIGNED uint8_t scratch[NETWORK_SCRATCH];

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec * 1e-3;
}

/* Microseconds of 12 vpdpbusd, which is more than are ever under way, over and over. */
AVX512 static void vector_peak(void)
{
    __m512i sums[12];
    int i, q;
    UNROLL for (q = 0; q < 12; q++)
        sums[q] = _mm512_set1_epi32(q);
    for (i = 0; i < PEAK_CALLS; i++)
        _Pragma("GCC unroll 12") for (q = 0; q < 12; q++)
            sums[q] = add_products_avx512(sums[q], sums[q], sums[q]);
    for (q = 1; q < 12; q++)
        sums[0] = _mm512_xor_si512(sums[0], sums[q]);
    scratch[0] = (uint8_t)_mm512_reduce_add_epi32(sums[0]);
}

/* The same of what AVX2 has for vpdpbusd: products of bytes, sums of two, sums of four. The compiler is kept from
 * seeing that all are the same. */
AVX2 static void vector_peak_avx2(void)
{
    __m256i sums[12], bytes = _mm256_set1_epi8(1);
    const __m256i ones = _mm256_set1_epi16(1);
    int i, q;
    UNROLL for (q = 0; q < 12; q++)
        sums[q] = _mm256_set1_epi32(q);
    for (i = 0; i < PEAK_CALLS; i++)
        _Pragma("GCC unroll 12") for (q = 0; q < 12; q++) {
            __asm__("" : "+x"(bytes));
            sums[q] = _mm256_add_epi32(sums[q], _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, bytes), ones));
        }
    for (q = 1; q < 12; q++)
        sums[0] = _mm256_xor_si256(sums[0], sums[q]);
    scratch[0] = (uint8_t)_mm256_extract_epi32(sums[0], 0);
}

#ifdef AVX_VNNI_KERNELS
AVX_VNNI static void vector_peak_avx_vnni(void)
{
    __m256i sums[12];
    int i, q;
    UNROLL for (q = 0; q < 12; q++)
        sums[q] = _mm256_set1_epi32(q);
    for (i = 0; i < PEAK_CALLS; i++)
        _Pragma("GCC unroll 12") for (q = 0; q < 12; q++)
            sums[q] = add_products_avx_vnni(sums[q], sums[q], sums[q]);
    for (q = 1; q < 12; q++)
        sums[0] = _mm256_xor_si256(sums[0], sums[q]);
    scratch[0] = (uint8_t)_mm256_extract_epi32(sums[0], 0);
}
#endif

/* Of 12 conversions, multiplications and roundings of 8 sums. */
AVX2 static void scaling_peak_avx2(void)
{
    __m256i sums = _mm256_set1_epi32(1), scaled;
    const __m256 factor = _mm256_set1_ps(0.5f);
    int i, q;
    for (i = 0; i < PEAK_CALLS; i++)
        _Pragma("GCC unroll 12") for (q = 0; q < 12; q++) {
            __asm__("" : "+x"(sums));
            scaled = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), factor));
            __asm__ volatile("" : : "x"(scaled));
        }
}

/* The same of four tdpbusd. */
#ifdef AMX_INT8_KERNELS
AMX static void tile_peak(void)
{
    Layer full = layers[0];
    int i;
    full.inputs = 64;
    shape_amx(&full, 16, 0);
    for (i = 0; i < PEAK_CALLS; i++) {
        _tile_dpbusd(0, 4, 5);
        _tile_dpbusd(1, 4, 5);
        _tile_dpbusd(2, 4, 5);
        _tile_dpbusd(3, 4, 5);
    }
    _tile_release();
}
#endif

/* Of one fusion, all calls for depthwise rows or patches, or all for pointwise ones. */
static void run_fusion(const Kernels *k, const Fusion *fusion, int second)
{
    const Layer *p = fusion->pointwise;
    const int size = p->out_size, stride = padded(p->inputs, 16);
    int row, shape = 0;
    for (row = 0; row < size; row += fusion->rows) {
        const int rows = smaller(fusion->rows, size - row);
        if (second && k->shape)
            shape = k->shape(p, rows * size, shape);
        if (second)
            k->pointwise(p, scratch + ROWS, stride, scratch + fusion->output + row * size * padded(p->outputs, 16),
                         rows * size);
        else if (fusion->depthwise)
            k->depthwise(fusion->depthwise, scratch + fusion->input, scratch + ROWS, row, rows);
        else
            k->patches(p, image, scratch + ROWS, row, rows);
    }
}

/* What was timed. */
typedef struct {
    void (*peak)(void);
    const Kernels *kernels;
    const Fusion *fusion; /* NULL for all of it */
    int second;
} Job;

/* Microseconds: the shortest of many. */
static double best(const Job *job)
{
    double shortest = 1e9;
    int repeat;
    for (repeat = 0; repeat < REPEATS; repeat++) {
        float logits[NETWORK_CLASSES];
        const double start = now();
        double took;
        if (job->peak)
            job->peak();
        else if (job->fusion)
            run_fusion(job->kernels, job->fusion, job->second);
        else
            run(job->kernels, image, logits, scratch);
        took = now() - start;
        shortest = took < shortest ? took : shortest;
    }
    return shortest;
}

static double peak(void (*function)(void), int instructions)
{
    Job job = {NULL, NULL, NULL, 0};
    job.peak = function;
    return best(&job) / PEAK_CALLS / instructions;
}

static void profile(const char *name, int backend, double vector, double scale, double tile)
{
    Job job = {NULL, NULL, NULL, 0};
    double whole = 0;
    int s;
    job.kernels = kernels[backend];
    for (s = 0; s < (int)(sizeof fusions / sizeof *fusions); s++)
        for (job.second = 0; job.second < 2; job.second++) {
            const Layer *depthwise = fusions[s].depthwise, *p = fusions[s].pointwise;
            const double pixels = (double)p->out_size * p->out_size;
            const double outputs = pixels * padded(job.second ? p->outputs : p->inputs, 16) / 16;
            double products = outputs * (job.second ? padded(p->inputs, 4) / 4 : depthwise ? 3 : 0) * vector;
            /* the multiplication and the rounding of each sum need the same units */
            const double scaling = job.second || depthwise ? outputs * scale : 0;
            double bound = products + scaling;
            if (job.second && backend == NETWORK_AMX_INT8) { /* tiles and vectors work at the same time */
                products = outputs / 16 * ((p->inputs + 63) / 64) * tile;
                bound = products > scaling ? products : scaling;
            }
            whole += bound;
            job.fusion = &fusions[s];
            printf("%s,%s,%f,%f\n", name, job.second ? p->name : depthwise ? depthwise->name : "patches", best(&job),
                   bound);
        }
    job.fusion = NULL;
    printf("%s,network,%f,%f\n", name, best(&job), whole);
}

int main(void)
{
    size_t i;
    for (i = 0; i < sizeof image; i++)
        image[i] = (uint8_t)rand();
    if (network_has(NETWORK_AVX2)) { /* 16 outputs are two vectors */
        const double vector = 2 * peak(vector_peak_avx2, 12);
        printf("avx2,peak,%f,64\n", vector);
        profile("avx2", NETWORK_AVX2, vector, 2 * peak(scaling_peak_avx2, 12), 0);
    }
#ifdef AVX_VNNI_KERNELS
    if (network_has(NETWORK_AVX_VNNI)) {
        const double vector = 2 * peak(vector_peak_avx_vnni, 12);
        printf("avx_vnni,peak,%f,64\n", vector);
        profile("avx_vnni", NETWORK_AVX_VNNI, vector, 2 * peak(scaling_peak_avx2, 12), 0);
    }
#endif
    if (network_has(NETWORK_AVX512_VNNI)) {
        const double vector = peak(vector_peak, 12);
        printf("avx512_vnni,peak,%f,64\n", vector);
        profile("avx512_vnni", NETWORK_AVX512_VNNI, vector, 2 * vector, 0);
#ifdef AMX_INT8_KERNELS
        if (network_has(NETWORK_AMX_INT8)) {
            const double tile = peak(tile_peak, 4);
            printf("amx_int8,peak,%f,16384\n", tile);
            profile("amx_int8", NETWORK_AMX_INT8, vector, 2 * vector, tile);
        }
#endif
    }
    return 0;
}
