/* Tests the port: says whether the answers are right. */
#include "${name}_selftest.h"

#include <stdio.h>

static uint8_t image[${NAME}_IMAGE_BYTES], scratch[${NAME}_SCRATCH];
static float logits[${NAME}_CLASSES];

int main(void)
{
    const int failed = ${name}_selftest(image, logits, scratch);
    printf("%s\n", failed ? "the answers are wrong" : "the answers are right, to the last bit");
    return failed;
}
