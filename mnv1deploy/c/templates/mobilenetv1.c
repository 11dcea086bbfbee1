/* $title. Written by mnv1deploy.
 *
 * From checkpoint $checkpoint, sha256.
 * Every integer is onnxruntime's on the int8 ONNX artifact of that checkpoint.
 *
 * Layers, and where they keep their activations in the scratch:
 *
$plan
 */
#include "mobilenetv1.h"

#include <float.h>
#include <string.h>

#if defined(__FAST_MATH__) || (defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0)
#error "Sums are scaled and rounded in IEEE float: no -ffast-math, and on 32-bit x86 -msse2 -mfpmath=sse."
#endif

#ifdef __GNUC__
#define ALIGNED __attribute__((aligned(64)))
#else
#define ALIGNED
#endif

#define PATCH $patch /* bytes from the pixels that one output of the stem reads to the next ones */
#define PADDING $padding /* the pixels' zero point */
#define POOL_FACTOR $pool_factor /* one over the number of pixels that are averaged */
#define SUMS_FIT_23_BITS $sums_fit /* no sum of a convolution can reach 2^23 */

const char *const mobilenetv1_classes[MOBILENETV1_CLASSES] = {
$class_names
};

$portable$x86$amx$neon
/* ---- The network ------------------------------------------------------------------------------------------- */

$arrays
/* The layers, in the order in which they run. */
static const Layer layers[] = {
$layers
};

/* A step: a 3x3 depthwise convolution of a few rows, then a 1x1 convolution of those rows. The first step cuts the
 * patches that the stem reads out of the picture instead. Offsets are into the scratch, in bytes. */
typedef struct {
    const Layer *depthwise, *pointwise;
    int input, output, rows;
} Step;

static const Step steps[] = {
$steps
};

#define ROWS $rows_at /* offset of the rows between the two convolutions of a step */

/* The kernels of one instruction set. */
typedef struct {
    void (*patches)(const Layer *, const uint8_t *image, uint8_t *out, int row, int rows);
    void (*depthwise)(const Layer *, const uint8_t *in, uint8_t *out, int row, int rows);
    void (*pointwise)(const Layer *, const uint8_t *in, int stride, uint8_t *out, int pixels);
    void (*pool)(const uint8_t *in, uint8_t *out, int pixels, int channels);
    void (*classify)(const Layer *, const uint8_t *in, float *logits);
    int (*shape)(const Layer *pointwise, int pixels, int before); /* called before pointwise; may be NULL */
} Kernels;

static const Kernels kernels[MOBILENETV1_BACKENDS] = {
    {patches_portable, depthwise_portable, pointwise_portable, pool_portable, classify_portable, NULL},
#ifdef X86
    {patches_avx2, depthwise_avx2, pointwise_avx2, pool_portable, classify_avx2, NULL},
    {patches_avx512, depthwise_avx512, pointwise_avx512, pool_avx512, classify_avx512, NULL},
#endif
#ifdef X86_AMX
    {patches_avx512, depthwise_avx512, pointwise_amx, pool_avx512, classify_amx, shape_amx},
#endif
#ifdef NEON
    [MOBILENETV1_NEON_DOTPROD] =
        {patches_portable, depthwise_neon, pointwise_neon, pool_portable, classify_portable, NULL},
#endif
};

int mobilenetv1_has(int backend)
{
#ifdef X86
    if (backend == MOBILENETV1_AVX2)
        return __builtin_cpu_supports("avx2") != 0;
    if (backend == MOBILENETV1_AVX512_VNNI)
        return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl");
#endif
#ifdef X86_AMX
    if (backend == MOBILENETV1_AMX_INT8)
        return mobilenetv1_has(MOBILENETV1_AVX512_VNNI) && has_amx();
#endif
#ifdef NEON
    if (backend == MOBILENETV1_NEON_DOTPROD)
        return 1;
#endif
    return backend == MOBILENETV1_PORTABLE;
}

int mobilenetv1_backend(void)
{
    int backend = MOBILENETV1_BACKENDS - 1;
    while (!mobilenetv1_has(backend))
        backend--;
    return backend;
}

#ifdef MOBILENETV1_TRACE
#define TRACE mobilenetv1_trace
#else
#define TRACE(name, values, pixels, channels, stride) ((void)0)
#endif

static void run(const Kernels *k, const uint8_t *image, float *logits, uint8_t *scratch)
{
    const int count = (int)(sizeof steps / sizeof *steps);
    const Layer *last = steps[count - 1].pointwise;
    uint8_t *between = scratch + ROWS;
    int s, row, shape = 0;
    for (s = 0; s < count; s++) {
        const Layer *depthwise = steps[s].depthwise, *pointwise = steps[s].pointwise;
        const int size = pointwise->out_size, inputs = pointwise->inputs;
        const int in_stride = depthwise ? padded(inputs, 16) : PATCH, out_stride = padded(pointwise->outputs, 16);
        for (row = 0; row < size; row += steps[s].rows) {
            const int rows = size - row < steps[s].rows ? size - row : steps[s].rows;
            uint8_t *output = scratch + steps[s].output + row * size * out_stride;
            if (k->shape)
                shape = k->shape(pointwise, rows * size, shape);
            if (depthwise) {
                k->depthwise(depthwise, scratch + steps[s].input, between, row, rows);
                TRACE(depthwise->name, between, rows * size, inputs, in_stride);
            } else
                k->patches(pointwise, image, between, row, rows);
            k->pointwise(pointwise, between, in_stride, output, rows * size);
            TRACE(pointwise->name, output, rows * size, pointwise->outputs, out_stride);
        }
    }
    k->pool(scratch + steps[count - 1].output, between, last->out_size * last->out_size, last->outputs);
    TRACE("pool", between, 1, last->outputs, padded(last->outputs, 16));
    k->classify(&layers[sizeof layers / sizeof *layers - 1], between, logits);
}

int mobilenetv1_run_on(int backend, const uint8_t image[MOBILENETV1_SIZE * MOBILENETV1_SIZE * 3],
                       float logits[MOBILENETV1_CLASSES], void *scratch)
{
    if (!mobilenetv1_has(backend))
        return -1;
    run(&kernels[backend], image, logits, scratch);
    return 0;
}

int mobilenetv1_run(const uint8_t image[MOBILENETV1_SIZE * MOBILENETV1_SIZE * 3],
                    float logits[MOBILENETV1_CLASSES], void *scratch)
{
    return mobilenetv1_run_on(mobilenetv1_backend(), image, logits, scratch);
}
