/* Runs every instruction set on buffers of exactly the right size on the heap, where a sanitizer sees a byte too far,
 * and at odd addresses, where it sees alignment that is undefined; then its rows in another order, by several workers.
 * Returns 0 if all agree. */
#include "network.h"

#include <stdlib.h>
#include <string.h>

enum { WORKERS = 3 };

/* From the last task to the first, by workers in turn; context counts the calls. */
static void backwards(void *context, int tasks, network_task *task, void *work)
{
    int i;
    for (i = tasks - 1; i >= 0; i--)
        task(work, i, i % WORKERS);
    ++*(int *)context;
}

int main(void)
{
    const size_t size = NETWORK_IMAGE_BYTES;
    float first[NETWORK_CLASSES], logits[NETWORK_CLASSES];
    uint8_t *image = malloc(size + 1), *scratch = malloc(NETWORK_SCRATCH + 1);
    uint8_t *shared = malloc(NETWORK_PARALLEL_SCRATCH(WORKERS) + 1);
    int backend, calls = 0, result = image && scratch && shared ? 0 : 1;
    size_t i;
    for (i = 0; i <= size; i++)
        image[i] = (uint8_t)(i * 7 / 3);
    for (backend = 0; backend < NETWORK_BACKENDS && !result; backend++) {
        if (!network_has(backend))
            continue;
        result = network_run_on(backend, image + 1, backend ? logits : first, scratch + 1);
        if (backend && memcmp(logits, first, sizeof first))
            result = 2;
        memset(logits, 0, sizeof logits);
        if (network_run_parallel_on(backend, image + 1, logits, shared + 1, backwards, &calls) || !calls ||
            memcmp(logits, first, sizeof first))
            result = 4;
    }
    if (network_run_on(-1, image, logits, scratch) != -1 ||
        network_run_parallel_on(NETWORK_BACKENDS, image, logits, shared, backwards, &calls) != -1)
        result = 3;
    free(shared);
    free(image);
    free(scratch);
    return result;
}
