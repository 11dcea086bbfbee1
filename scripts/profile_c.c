/* Times every kernel call of a generated network; see profile_c.py. Lines: layer, microseconds, multiplying
 * instructions of 16 lanes; first of all the rate of those, measured, per microsecond. */
#define _POSIX_C_SOURCE 199309L
#include "mobilenetv1.c"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { REPEATS = 2000 };

static uint8_t image[MOBILENETV1_SIZE * MOBILENETV1_SIZE * 3], scratch[MOBILENETV1_SCRATCH] ALIGNED;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec * 1e-3;
}

/* vpdpbusd per microsecond, with nothing else to do. */
AVX512 static double peak(void)
{
    double best = 0;
    int repeat, i, q;
    for (repeat = 0; repeat < REPEATS; repeat++) {
        __m512i sums[8];
        double start = now(), rate;
        UNROLL for (q = 0; q < 8; q++)
            sums[q] = _mm512_set1_epi32(repeat);
        for (i = 0; i < 1000; i++)
            UNROLL for (q = 0; q < 8; q++)
                sums[q] = add_products_avx512(sums[q], sums[q], sums[q]);
        UNROLL for (q = 1; q < 8; q++)
            sums[0] = _mm512_xor_si512(sums[0], sums[q]);
        rate = 8000 / (now() - start);
        if (rate > best && _mm512_reduce_add_epi32(sums[0]) != 1)
            best = rate;
    }
    return best;
}

/* Of one step, all calls for depthwise rows or patches, or all for pointwise ones. */
static void repeat_step(const Kernels *k, const Step *step, int second)
{
    const Layer *p = step->pointwise;
    const int size = p->out_size, stride = step->depthwise ? padded(p->inputs, 16) : PATCH;
    int row;
    for (row = 0; row < size; row += step->rows) {
        const int rows = smaller(step->rows, size - row);
        if (second)
            k->pointwise(p, scratch + ROWS, stride, scratch + step->output + row * size * padded(p->outputs, 16),
                         rows * size);
        else if (step->depthwise)
            k->depthwise(step->depthwise, scratch + step->input, scratch + ROWS, row, rows);
        else
            k->patches(p, image, scratch + ROWS, row, rows);
    }
}

int main(void)
{
    const Kernels *k = &kernels[MOBILENETV1_AVX512_VNNI];
    float logits[MOBILENETV1_CLASSES];
    double best, took;
    int s, second, repeat;
    size_t i;
    for (i = 0; i < sizeof image; i++)
        image[i] = (uint8_t)rand();
    printf("peak,%f,0\n", peak());
    for (best = 1e9, repeat = 0; repeat < REPEATS; repeat++) {
        took = now();
        run(k, image, logits, scratch);
        took = now() - took;
        best = took < best ? took : best;
    }
    printf("network,%f,0\n", best);
    for (s = 0; s < (int)(sizeof steps / sizeof *steps); s++)
        for (second = 0; second < 2; second++) {
            const Layer *depthwise = steps[s].depthwise, *p = steps[s].pointwise;
            const double outputs = (double)p->out_size * p->out_size * padded(second ? p->outputs : p->inputs, 16);
            /* vpdpbusd, and the vmulps of requantization */
            const double each = second ? padded(p->inputs, 4) / 4 + 1 : depthwise ? 3 + 1 : 0;
            for (best = 1e9, repeat = 0; repeat < REPEATS; repeat++) {
                took = now();
                repeat_step(k, &steps[s], second);
                took = now() - took;
                best = took < best ? took : best;
            }
            printf("%s,%f,%f\n", second ? p->name : depthwise ? depthwise->name : "patches", best,
                   outputs / 16 * each);
        }
    return 0;
}
