/* What a Python session calls: a batch in one call, the scratch in the thread's own memory. Not part of an export. */
#include "$name.h"

const int session_shape[] = {${NAME}_SIZE, ${NAME}_COLOURS, ${NAME}_CLASSES, ${NAME}_BACKENDS};

int session_run(int backend, const uint8_t *images, int count, float *logits)
{
    static __thread uint8_t scratch[${NAME}_SCRATCH] __attribute__((aligned(64)));
    int result = 0;
    for (; count > 0 && result == 0; count--) {
        result = ${name}_run_on(backend, images, logits, scratch);
        images += ${NAME}_IMAGE_BYTES;
        logits += ${NAME}_CLASSES;
    }
    return result;
}
