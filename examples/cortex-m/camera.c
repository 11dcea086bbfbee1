/* Classifies the frames in frames.raw, one after the other, of the camera that the network was exported for. Writes what
 * main.c does; the ticks are those of making the network's picture of the last frame. */
#include "board.h"
#include "network_camera.h"

static uint8_t frame[NETWORK_FRAME_BYTES], image[NETWORK_IMAGE_BYTES];
static float logits[NETWORK_CLASSES];
static uint8_t scratch[NETWORK_SCRATCH > NETWORK_FRAME_SCRATCH ? NETWORK_SCRATCH : NETWORK_FRAME_SCRATCH];

int main(void)
{
    uint32_t ticks = 0;
    const int file = board_open("frames.raw");
    if (file < 0) {
        board_write("there is no file frames.raw\n");
        return 1;
    }
    while (board_read(file, frame, sizeof frame)) {
        ticks = board_ticks();
        network_read_frame(frame, NETWORK_FRAME_STRIDE, image, scratch);
        ticks = board_ticks() - ticks;
        if (network_run(image, logits, scratch) != 0)
            return 1;
        board_write_answer(network_classes, logits, NETWORK_CLASSES);
    }
    board_write_measures(ticks, "frame", network_backend());
    return 0;
}
