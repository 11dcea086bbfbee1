/* Classifies the pictures in a file, raw RGB one after the other: a line for each, its class and the bits of the
 * logits in hexadecimal. */
#include "mobilenetv1.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    static uint8_t image[MOBILENETV1_SIZE * MOBILENETV1_SIZE * 3], scratch[MOBILENETV1_SCRATCH];
    float logits[MOBILENETV1_CLASSES];
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    int i, best;
    if (!file)
        return 1;
    while (fread(image, 1, sizeof image, file) == sizeof image) {
        if (mobilenetv1_run(image, logits, scratch) != 0)
            return 1;
        for (i = best = 0; i < MOBILENETV1_CLASSES; i++)
            if (logits[i] > logits[best])
                best = i;
        printf("%s", mobilenetv1_classes[best]);
        for (i = 0; i < MOBILENETV1_CLASSES; i++) {
            uint32_t bits;
            memcpy(&bits, &logits[i], sizeof bits);
            printf(" %08lx", (unsigned long)bits);
        }
        printf("\n");
    }
    fclose(file);
    return 0;
}
