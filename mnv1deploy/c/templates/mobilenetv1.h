/* $title. Written by mnv1deploy. */
#ifndef MOBILENETV1_H
#define MOBILENETV1_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOBILENETV1_SIZE $size /* pixels, height and width */
#define MOBILENETV1_CLASSES $classes
#define MOBILENETV1_SCRATCH $scratch /* bytes */

/* Class names in the order of the logits. */
extern const char *const mobilenetv1_classes[MOBILENETV1_CLASSES];

/* Classifies one picture.
 *
 * image    raw RGB pixels, row by row: [height][width][3]
 * logits   one per class; the largest is the answer
 * scratch  MOBILENETV1_SCRATCH bytes of any alignment and content, this call's alone while it runs
 *
 * Returns 0. Allocates nothing and keeps no state: calls with different scratches may run at the same time. */
int mobilenetv1_run(const uint8_t image[MOBILENETV1_SIZE * MOBILENETV1_SIZE * 3],
                    float logits[MOBILENETV1_CLASSES], void *scratch);

/* The same on one of the instruction sets compiled in, all of which give the same bits. mobilenetv1_run uses the
 * last one that this processor has. Returns 0, or -1 if it is not compiled in or the processor does not have it. */
enum {
    MOBILENETV1_PORTABLE,
    MOBILENETV1_AVX2,
    MOBILENETV1_AVX512_VNNI,
    MOBILENETV1_AMX_INT8,
    MOBILENETV1_NEON_DOTPROD,
    MOBILENETV1_BACKENDS
};
int mobilenetv1_run_on(int backend, const uint8_t image[MOBILENETV1_SIZE * MOBILENETV1_SIZE * 3],
                       float logits[MOBILENETV1_CLASSES], void *scratch);

/* Whether one is compiled in and this processor has it; and the last such, which mobilenetv1_run uses. */
int mobilenetv1_has(int backend);
int mobilenetv1_backend(void);

#ifdef MOBILENETV1_TRACE
/* To be defined by whoever compiles with MOBILENETV1_TRACE: called with every few finished rows of every layer.
 * stride is the distance from one pixel's channels to the next one's, in bytes. */
void mobilenetv1_trace(const char *layer, const uint8_t *values, int pixels, int channels, int stride);
#endif

#ifdef __cplusplus
}
#endif

#endif
