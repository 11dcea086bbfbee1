/* $title: the picture of a camera's frame. Written by mnv1deploy. */
#ifndef ${NAME}_CAMERA_H
#define ${NAME}_CAMERA_H

#include "$name.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A frame of $camera: $meaning. */
#define ${NAME}_FRAME_WIDTH $width
#define ${NAME}_FRAME_HEIGHT $height
#define ${NAME}_FRAME_STRIDE $stride /* bytes from one row to the next, if there is nothing between them */
#define ${NAME}_FRAME_BYTES $frame_bytes /* the same */
#define ${NAME}_FRAME_SCRATCH $frame_scratch /* bytes */

/* What ${name}_run takes, of a frame: $what.
 *
 * frame    rows `stride` bytes apart$planes
 * image    as ${name}_run takes it
 * scratch  ${NAME}_FRAME_SCRATCH bytes of any alignment and content; the network's will do$too_small
 *
 * The same bits as mnv1deploy's Python has of these pixels. It reads every row of the frame once, from the top, keeps
 * no state and allocates nothing. */
void ${name}_read_frame(const uint8_t *frame, int stride, uint8_t image[${NAME}_IMAGE_BYTES], void *scratch);

#ifdef __cplusplus
}
#endif

#endif
