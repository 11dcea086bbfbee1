/* What a Python session calls: a batch in one call, the scratch in the thread's own memory. Not part of an export. */
#include <mobilenetv1.h> /* not the template beside this file */

int session_run(int backend, const uint8_t *images, int count, float *logits)
{
    static __thread uint8_t scratch[MOBILENETV1_SCRATCH] __attribute__((aligned(64)));
    int result = 0;
    for (; count > 0 && result == 0; count--) {
        result = mobilenetv1_run_on(backend, images, logits, scratch);
        images += MOBILENETV1_SIZE * MOBILENETV1_SIZE * 3;
        logits += MOBILENETV1_CLASSES;
    }
    return result;
}
