/* $title. Written by mnv1deploy.
 *
 * From checkpoint $checkpoint, sha256.
 * Every integer is onnxruntime's on the int8 ONNX artifact of that checkpoint.
 *
 * Layers, and where they keep their activations in the scratch:
 *
$plan
 */
#include "$name.h"

#include <float.h>
#include <string.h>

/* Below 64 it names the width of the narrowest type that floats are evaluated in, which float is not below. */
#if defined(__FAST_MATH__) || \
    (defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16 && FLT_EVAL_METHOD != 32)
#error "Sums are scaled and rounded in IEEE float: no -ffast-math, and on 32-bit x86 -msse2 -mfpmath=sse."
#endif

#ifdef __GNUC__
#define ALIGNED __attribute__((aligned(64)))
#else
#define ALIGNED
#endif

#ifdef ${NAME}_NO_SIMD
#define NO_SIMD
#endif

#define COLOURS ${NAME}_COLOURS
#define PADDING $padding /* the pixels' zero point */
#define POOL_FACTOR $pool_factor /* one over the number of pixels that are averaged */
#define TIE_WINDOW ${tie_window}u /* how far a product in integers may be from the float's, in units of 2^-32 */
#define SUMS_FIT_23_BITS $sums_fit /* no sum of a convolution can reach 2^23 */

const char *const ${name}_classes[${NAME}_CLASSES] = {
$class_names
};

$kernels/* ---- The network ------------------------------------------------------------------------------------------- */

$arrays
/* The layers, in the order in which they run. */
static const Layer layers[] = {
$layers
};

/* Two operations that run together, a few rows at a time: a 3x3 depthwise convolution and the 1x1 convolution of what
 * it gives. The first one cuts the patches that the stem reads out of the picture instead. Offsets are into the
 * scratch, in bytes. */
typedef struct {
    const Layer *depthwise, *pointwise;
    int input, output, rows;
} Fusion;

static const Fusion fusions[] = {
$fusions
};

#define ROWS $rows_at /* offset of the rows between the two operations of a fusion */

/* By number of the header's enum; NULL for what is not compiled in. */
static const Kernels *const kernels[${NAME}_BACKENDS] = {
$table
};

int ${name}_has(int backend)
{
    return backend >= 0 && backend < ${NAME}_BACKENDS && kernels[backend] && kernels[backend]->has();
}

int ${name}_backend(void)
{
    int backend = ${NAME}_BACKENDS - 1;
    while (!${name}_has(backend))
        backend--;
    return backend;
}

#ifdef ${NAME}_TRACE
#define TRACE ${name}_trace
#else
#define TRACE(name, values, pixels, channels, stride) ((void)0)
#endif

static void run(const Kernels *k, const uint8_t *image, float *logits, uint8_t *scratch)
{
    const int count = (int)(sizeof fusions / sizeof *fusions);
    const Layer *last = fusions[count - 1].pointwise;
    uint8_t *between = scratch + ROWS;
    int f, row, shape = 0;
    for (f = 0; f < count; f++) {
        const Layer *depthwise = fusions[f].depthwise, *pointwise = fusions[f].pointwise;
        const int size = pointwise->out_size, inputs = pointwise->inputs;
        const int in_stride = padded(inputs, 16), out_stride = padded(pointwise->outputs, 16);
        for (row = 0; row < size; row += fusions[f].rows) {
            const int rows = smaller(fusions[f].rows, size - row);
            uint8_t *output = scratch + fusions[f].output + row * size * out_stride;
            if (k->shape)
                shape = k->shape(pointwise, rows * size, shape);
            if (depthwise) {
                k->depthwise(depthwise, scratch + fusions[f].input, between, row, rows);
                if (!k->packed)
                    TRACE(depthwise->name, between, rows * size, inputs, in_stride);
            } else
                k->patches(pointwise, image, between, row, rows);
            k->pointwise(pointwise, between, in_stride, output, rows * size);
            TRACE(pointwise->name, output, rows * size, pointwise->outputs, out_stride);
        }
    }
    k->pool(scratch + fusions[count - 1].output, between, last->out_size * last->out_size, last->outputs);
    TRACE("pool", between, 1, last->outputs, padded(last->outputs, 16));
    k->classify(&layers[sizeof layers / sizeof *layers - 1], between, logits);
}

int ${name}_run_on(int backend, const uint8_t image[${NAME}_IMAGE_BYTES], float logits[${NAME}_CLASSES], void *scratch)
{
    if (!${name}_has(backend))
        return -1;
    run(kernels[backend], image, logits, (uint8_t *)scratch);
    return 0;
}

int ${name}_run(const uint8_t image[${NAME}_IMAGE_BYTES], float logits[${NAME}_CLASSES], void *scratch)
{
    return ${name}_run_on(${name}_backend(), image, logits, scratch);
}
