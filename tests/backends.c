/* Runs every instruction set on buffers of exactly the right size on the heap, where a sanitizer sees a byte too far,
 * and at odd addresses, where it sees alignment that is undefined. Returns 0 if all agree. */
#include "network.h"

#include <stdlib.h>
#include <string.h>

int main(void)
{
    const size_t size = NETWORK_IMAGE_BYTES;
    float first[NETWORK_CLASSES], logits[NETWORK_CLASSES];
    uint8_t *image = malloc(size + 1), *scratch = malloc(NETWORK_SCRATCH + 1);
    int backend, result = image && scratch ? 0 : 1;
    size_t i;
    for (i = 0; i <= size; i++)
        image[i] = (uint8_t)(i * 7 / 3);
    for (backend = 0; backend < NETWORK_BACKENDS && !result; backend++) {
        if (!network_has(backend))
            continue;
        result = network_run_on(backend, image + 1, backend ? logits : first, scratch + 1);
        if (backend && memcmp(logits, first, sizeof first))
            result = 2;
    }
    if (network_run_on(-1, image, logits, scratch) != -1)
        result = 3;
    free(image);
    free(scratch);
    return result;
}
