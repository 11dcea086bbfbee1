/* $title. Written by mnv1deploy. */
#ifndef ${NAME}_H
#define ${NAME}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ${NAME}_SIZE $size /* pixels, height and width */
#define ${NAME}_COLOURS $colours /* $colour_names */
#define ${NAME}_IMAGE_BYTES (${NAME}_SIZE * ${NAME}_SIZE * ${NAME}_COLOURS)
#define ${NAME}_CLASSES $classes
#define ${NAME}_SCRATCH $scratch /* bytes */
#define ${NAME}_TEMPERATURE $temperature /* probabilities, where they are wanted: softmax(logits / it) */

/* Class names in the order of the logits. */
extern const char *const ${name}_classes[${NAME}_CLASSES];

$load_header/* Classifies one picture.
 *
 * image    raw $colour_names pixels, row by row: [height][width][$colours]
 * logits   one per class; the largest is the answer
 * scratch  ${NAME}_SCRATCH bytes of any alignment and content, this call's alone while it runs
 *
 * Returns 0. Allocates nothing and keeps no state: calls with different scratches may run at the same time. */
int ${name}_run(const uint8_t image[${NAME}_IMAGE_BYTES], float logits[${NAME}_CLASSES], void *scratch);

/* The same on one of the instruction sets compiled in, all of which give the same bits. ${name}_run uses the
 * last one that this processor has. Returns 0, or -1 if it is not compiled in or the processor does not have it. */
enum {
$enum
    ${NAME}_BACKENDS
};
int ${name}_run_on(int backend, const uint8_t image[${NAME}_IMAGE_BYTES], float logits[${NAME}_CLASSES],
    void *scratch);

/* Whether one is compiled in and this processor has it; and the last such, which ${name}_run uses. */
int ${name}_has(int backend);
int ${name}_backend(void);

/* The same picture on several threads, which are the caller's: the logits are the same to the last bit.
 *
 * parallel_for, a function of the caller's, gets its own context and calls task(work, i, worker) once for every i from
 * 0 to tasks - 1, in any order, at the same time, on as many threads as it likes; it returns when all are done. worker
 * is a number from 0 on that no two calls have at the same time. It is called $fusions_count times a picture.
 * scratch has ${NAME}_PARALLEL_SCRATCH(workers) bytes, of any alignment and content.
 * Returns 0; run_parallel_on returns -1 as run_on does. */
#define ${NAME}_WORKER_SCRATCH $worker_scratch
#define ${NAME}_PARALLEL_SCRATCH(workers) ($parallel_scratch + (workers) * ${NAME}_WORKER_SCRATCH)
typedef void ${name}_task(void *work, int task, int worker);
typedef void ${name}_parallel_for(void *context, int tasks, ${name}_task *task, void *work);
int ${name}_run_parallel(const uint8_t image[${NAME}_IMAGE_BYTES], float logits[${NAME}_CLASSES], void *scratch,
    ${name}_parallel_for *parallel_for, void *context);
int ${name}_run_parallel_on(int backend, const uint8_t image[${NAME}_IMAGE_BYTES], float logits[${NAME}_CLASSES],
    void *scratch, ${name}_parallel_for *parallel_for, void *context);

#ifdef ${NAME}_TRACE
/* To be defined by whoever compiles with ${NAME}_TRACE: called with every few finished rows of every layer.
 * stride is the distance from one pixel's channels to the next one's, in bytes. Where depthwise layers' rows are packed
 * in an order of their own, as on a Cortex-M with the DSP extension, it is not called with them. */
void ${name}_trace(const char *layer, const uint8_t *values, int pixels, int channels, int stride);
#endif

#ifdef __cplusplus
}
#endif

#endif
