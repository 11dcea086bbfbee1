/* Classifies a picture: ./example cat.ppm, a binary PPM (P6) of $size x $size pixels; without one, a grey square. */
#include "mobilenetv1.h"

#include <stdio.h>
#include <string.h>

static uint8_t image[MOBILENETV1_SIZE * MOBILENETV1_SIZE * 3];
static float logits[MOBILENETV1_CLASSES];
static uint8_t scratch[MOBILENETV1_SCRATCH];

static int read_ppm(const char *path)
{
    int width, height, depth, good;
    FILE *file = fopen(path, "rb");
    if (!file)
        return 0;
    good = fscanf(file, "P6 %d %d %d", &width, &height, &depth) == 3 && fgetc(file) != EOF &&
           width == MOBILENETV1_SIZE && height == MOBILENETV1_SIZE && depth == 255 &&
           fread(image, 1, sizeof image, file) == sizeof image;
    fclose(file);
    return good;
}

int main(int argc, char **argv)
{
    int i, best = 0;
    memset(image, 128, sizeof image);
    if (argc > 1 && !read_ppm(argv[1])) {
        fprintf(stderr, "%s is no binary PPM of %d x %d pixels\n", argv[1], MOBILENETV1_SIZE, MOBILENETV1_SIZE);
        return 1;
    }
    if (mobilenetv1_run(image, logits, scratch) != 0)
        return 1;
    for (i = 0; i < MOBILENETV1_CLASSES; i++) {
        printf("%s %.6f\n", mobilenetv1_classes[i], (double)logits[i]);
        if (logits[i] > logits[best])
            best = i;
    }
    printf("this is: %s\n", mobilenetv1_classes[best]);
    return 0;
}
