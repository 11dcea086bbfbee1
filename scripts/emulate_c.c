/* Classifies the pictures in a file, raw RGB one after the other: the number of the instruction set, then a line for each
 * picture, its class and the bits of the logits in hexadecimal. */
#include "network.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    static uint8_t image[NETWORK_IMAGE_BYTES], scratch[NETWORK_SCRATCH];
    float logits[NETWORK_CLASSES];
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    int i, best;
    if (!file)
        return 1;
    printf("%d\n", network_backend());
    while (fread(image, 1, sizeof image, file) == sizeof image) {
        if (network_run(image, logits, scratch) != 0)
            return 1;
        for (i = best = 0; i < NETWORK_CLASSES; i++)
            if (logits[i] > logits[best])
                best = i;
        printf("%s", network_classes[best]);
        for (i = 0; i < NETWORK_CLASSES; i++) {
            uint32_t bits;
            memcpy(&bits, &logits[i], sizeof bits);
            printf(" %08lx", (unsigned long)bits);
        }
        printf("\n");
    }
    fclose(file);
    return 0;
}
