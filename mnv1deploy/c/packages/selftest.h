/* $title: whether a port of it is right. Written by mnv1deploy. */
#ifndef ${NAME}_SELFTEST_H
#define ${NAME}_SELFTEST_H

#include "$name.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Classifies $pictures pictures, which it draws itself, on every instruction set that this processor has, and compares the
 * logits with those that the network has to give, to the last bit.
 *
 * image            room for a picture, ${NAME}_IMAGE_BYTES
 * logits, scratch  as ${name}_run takes them
 *
 * Returns 0 if all are the same; else 1 + picture + 256 * instruction set of the first that is not. Whatever calls it
 * brings it into the program; nothing else does. */
int ${name}_selftest(uint8_t image[${NAME}_IMAGE_BYTES], float logits[${NAME}_CLASSES], void *scratch);

#ifdef __cplusplus
}
#endif

#endif
