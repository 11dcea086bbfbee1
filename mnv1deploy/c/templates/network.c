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
#include <limits.h>
#include <string.h>

#if INT_MAX < 2147483647
#error "An int has to have 32 bits: no AVR, no MSP430."
#endif

/* Below 64 it names the width of the narrowest type that floats are evaluated in, which float is not below. */
#if defined(__FAST_MATH__) || defined(_M_FP_FAST) || \
    (defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16 && FLT_EVAL_METHOD != 32)
#error "Sums are scaled and rounded in IEEE float: no -ffast-math or /fp:fast, and on 32-bit x86 -msse2 -mfpmath=sse."
#endif

#if defined(__GNUC__) || defined(__clang__)
#define ALIGNED __attribute__((aligned(64)))
#elif defined(_MSC_VER)
#define ALIGNED __declspec(align(64))
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
#define SCALED_FIT_22_BITS $scaled_fit /* nor, scaled, 2^22 */

const char *const ${name}_classes[${NAME}_CLASSES] = {
$class_names
};

$kernels/* ---- The network ------------------------------------------------------------------------------------------- */

$weights_place$arrays
/* The layers, in the order in which they run. */
static $layer_const Layer layers[] = {
$layers
};

$load
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

enum { FUSIONS = sizeof fusions / sizeof *fusions };

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

/* Some rows of a fusion from `row` on. Returns the shape that the kernels are left in, given the one they are in. */
INLINE int run_rows(const Kernels *k, const Fusion *f, const uint8_t *input, uint8_t *output, uint8_t *between, int row,
                    int shape)
{
    const Layer *depthwise = f->depthwise, *pointwise = f->pointwise;
    const int size = pointwise->out_size, inputs = pointwise->inputs, rows = smaller(f->rows, size - row);
    const int in_stride = padded(inputs, 16), out_stride = padded(pointwise->outputs, 16);
    output += row * size * out_stride;
    if (k->shape)
        shape = k->shape(pointwise, rows * size, shape);
    if (depthwise) {
        k->depthwise(depthwise, input, between, row, rows);
        if (!k->packed)
            TRACE(depthwise->name, between, rows * size, inputs, in_stride);
    } else
        k->patches(pointwise, input, between, row, rows);
    k->pointwise(pointwise, between, in_stride, output, rows * size);
    TRACE(pointwise->name, output, rows * size, pointwise->outputs, out_stride);
    return shape;
}

/* What comes after the fusions: the mean over all pixels, and the classifier. */
INLINE void answer(const Kernels *k, const uint8_t *input, uint8_t *pooled, float *logits)
{
    const Layer *last = fusions[FUSIONS - 1].pointwise;
    k->pool(input, pooled, last->out_size * last->out_size, last->outputs);
    TRACE("pool", pooled, 1, last->outputs, padded(last->outputs, 16));
    k->classify(&layers[sizeof layers / sizeof *layers - 1], pooled, logits);
}

static void run(const Kernels *k, const uint8_t *image, float *logits, uint8_t *scratch)
{
    int f, row, shape = 0;
    for (f = 0; f < FUSIONS; f++) {
        const uint8_t *input = fusions[f].depthwise ? scratch + fusions[f].input : image;
        for (row = 0; row < fusions[f].pointwise->out_size; row += fusions[f].rows)
            shape = run_rows(k, fusions + f, input, scratch + fusions[f].output, scratch + ROWS, row, shape);
    }
    answer(k, scratch + fusions[FUSIONS - 1].output, scratch + ROWS, logits);
}

int ${name}_run_on(int backend, const uint8_t image[${NAME}_IMAGE_BYTES], float logits[${NAME}_CLASSES], void *scratch)
{
    if (!${name}_has(backend)$not_loaded)
        return -1;
    run(kernels[backend], image, logits, (uint8_t *)scratch);
    return 0;
}

int ${name}_run(const uint8_t image[${NAME}_IMAGE_BYTES], float logits[${NAME}_CLASSES], void *scratch)
{
    return ${name}_run_on(${name}_backend(), image, logits, scratch);
}

/* ---- One picture on several threads ----------------------------------------------------------------------------
 *
 * Rows of a fusion are done in any order and at the same time, so that what it gives may not overwrite what it reads:
 * activations lie at the two ends of the scratch by turns. The rows between two operations are each worker's own.
 */
typedef struct {
    const Kernels *kernels;
    const Fusion *fusion;
    const uint8_t *input;
    uint8_t *output, *between;
} Part;

static void run_part(void *work, int task, int worker)
{
    const Part *part = (const Part *)work;
    const Kernels *k = part->kernels;
    const Fusion *f = part->fusion;
    uint8_t *between = part->between + worker * ${NAME}_WORKER_SCRATCH;
    const int shape = run_rows(k, f, part->input, part->output, between, task * f->rows, 0);
    if (k->shape)
        k->shape(f->pointwise, 0, shape);
}

int ${name}_run_parallel_on(int backend, const uint8_t image[${NAME}_IMAGE_BYTES], float logits[${NAME}_CLASSES],
    void *scratch, ${name}_parallel_for *parallel_for, void *context)
{
    uint8_t *start = (uint8_t *)scratch, *end = start + ${NAME}_PARALLEL_SCRATCH(0);
    Part part = {NULL, NULL, image, NULL, end};
    int f;
    if (!${name}_has(backend)$not_loaded)
        return -1;
    part.kernels = kernels[backend];
    for (f = 0; f < FUSIONS; f++) {
        const int size = fusions[f].pointwise->out_size, rows = fusions[f].rows;
        part.fusion = fusions + f;
        part.output = f % 2 ? end - size * size * padded(fusions[f].pointwise->outputs, 16) : start;
        parallel_for(context, (size + rows - 1) / rows, run_part, &part);
        part.input = part.output;
    }
    answer(part.kernels, part.input, part.between, logits);
    return 0;
}

int ${name}_run_parallel(const uint8_t image[${NAME}_IMAGE_BYTES], float logits[${NAME}_CLASSES], void *scratch,
    ${name}_parallel_for *parallel_for, void *context)
{
    return ${name}_run_parallel_on(${name}_backend(), image, logits, scratch, parallel_for, context);
}
