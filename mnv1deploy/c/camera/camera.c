/* $title: the picture of a camera's frame. Written by mnv1deploy.
 *
 * Frames of $camera: $meaning.
 * $what.
 */
#include "${name}_camera.h"

#define HEIGHT $height /* of the whole frame */
#define LEFT $left /* where the part begins that is read */
#define TOP $top
#define COLUMNS $columns /* of that part */
#define COLOURS $read_colours /* what is resized: 3 is RGB, 1 is luma */
#define SWAPPED $swapped
#define LIMITED $limited /* luma is 16 to 235 */

$resize$converters/* ---- The tables ------------------------------------------------------------------------------------------------- */

$tables

static const Resize sizes = {${NAME}_SIZE, COLOURS, $held, across, down, weights};

void ${name}_read_frame(const uint8_t *frame, int stride, uint8_t image[${NAME}_IMAGE_BYTES], void *scratch)
{
    uint8_t *rows = (uint8_t *)scratch;
    Frame source;
    source.pixels = frame;
    source.stride = stride;
    source.line = rows + $held * ${NAME}_SIZE * COLOURS;
    resize(&sizes, read_row, &source, rows, image);
#if COLOURS < ${NAME}_COLOURS
    {
        int i; /* from behind, where there is room */
        for (i = ${NAME}_SIZE * ${NAME}_SIZE - 1; i >= 0; i--)
            image[3 * i] = image[3 * i + 1] = image[3 * i + 2] = image[i];
    }
#endif
}
