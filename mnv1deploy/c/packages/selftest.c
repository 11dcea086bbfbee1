/* $title: whether a port of it is right. Written by mnv1deploy. */
#include "${name}_selftest.h"

#include <string.h>

/* The bits of the logits, from the network's integers alone. */
static const uint32_t expected[$pictures][${NAME}_CLASSES] = {
$expected
};

/* Picture 0 is noise. In the others neighbouring pixels differ by a little noise: they are coarser and coarser. */
static void draw(uint8_t *image, int picture)
{
    uint32_t state = 1;
    int i;
    for (i = 0; i < ${NAME}_IMAGE_BYTES; i++) {
        state = state * 1664525u + 1013904223u;
        image[i] = (uint8_t)(state >> 24);
        if (picture > 0 && i >= ${NAME}_COLOURS)
            image[i] = (uint8_t)(image[i - ${NAME}_COLOURS] + (image[i] >> (3 + picture)));
    }
}

int ${name}_selftest(uint8_t image[${NAME}_IMAGE_BYTES], float logits[${NAME}_CLASSES], void *scratch)
{
    int picture, backend;
    for (picture = 0; picture < $pictures; picture++) {
        draw(image, picture);
        for (backend = 0; backend < ${NAME}_BACKENDS; backend++) {
            if (!${name}_has(backend))
                continue;
            ${name}_run_on(backend, image, logits, scratch);
            if (memcmp(logits, expected[picture], sizeof expected[picture]) != 0)
                return 1 + picture + 256 * backend;
        }
    }
    return 0;
}
