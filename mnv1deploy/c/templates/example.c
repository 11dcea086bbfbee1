/* Classifies a picture: ./example cat.ppm, a binary $ppm of $size x $size pixels; without one, a grey square. */
#include "$name.h"

#include <stdio.h>
#include <string.h>

static uint8_t image[${NAME}_IMAGE_BYTES];
static float logits[${NAME}_CLASSES];
static uint8_t scratch[${NAME}_SCRATCH];

static int read_ppm(const char *path)
{
    int width, height, depth, good;
    FILE *file = fopen(path, "rb");
    if (!file)
        return 0;
    good = fscanf(file, "$magic %d %d %d", &width, &height, &depth) == 3 && fgetc(file) != EOF &&
           width == ${NAME}_SIZE && height == ${NAME}_SIZE && depth == 255 &&
           fread(image, 1, sizeof image, file) == sizeof image;
    fclose(file);
    return good;
}

int main(int argc, char **argv)
{
    int i, best = 0;
    memset(image, 128, sizeof image);
    if (argc > 1 && !read_ppm(argv[1])) {
        fprintf(stderr, "%s is no binary $ppm of %d x %d pixels\n", argv[1], ${NAME}_SIZE, ${NAME}_SIZE);
        return 1;
    }
    if (${name}_run(image, logits, scratch) != 0)
        return 1;
    for (i = 0; i < ${NAME}_CLASSES; i++) {
        printf("%s %.6f\n", ${name}_classes[i], (double)logits[i]);
        if (logits[i] > logits[best])
            best = i;
    }
    printf("this is: %s\n", ${name}_classes[best]);
    return 0;
}
