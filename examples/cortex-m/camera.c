/* Classifies the frames in frames.raw, one after the other, of the camera that the network was exported for. Writes what
 * main.c does; the ticks are those of making the network's picture of the last frame. */
#include "board.h"
#include "network_camera.h"

#include <string.h>

static uint8_t frame[NETWORK_FRAME_BYTES], image[NETWORK_IMAGE_BYTES];
static float logits[NETWORK_CLASSES];
static uint8_t scratch[NETWORK_SCRATCH > NETWORK_FRAME_SCRATCH ? NETWORK_SCRATCH : NETWORK_FRAME_SCRATCH];

int main(void)
{
    uint32_t ticks = 0;
    int i, file = board_open("frames.raw");
    if (file < 0) {
        board_write("there is no file frames.raw\n");
        return 1;
    }
    while (board_read(file, frame, sizeof frame)) {
        int best = 0;
        ticks = board_ticks();
        network_read_frame(frame, NETWORK_FRAME_STRIDE, image, scratch);
        ticks = board_ticks() - ticks;
        if (network_run(image, logits, scratch) != 0)
            return 1;
        for (i = 1; i < NETWORK_CLASSES; i++)
            if (logits[i] > logits[best])
                best = i;
        board_write(network_classes[best]);
        for (i = 0; i < NETWORK_CLASSES; i++) {
            uint32_t bits;
            memcpy(&bits, &logits[i], sizeof bits);
            board_write(" ");
            board_write_number(bits, 16, 8);
        }
        board_write("\n");
    }
    board_write_number(ticks, 10, 1);
    board_write(" ticks for the last frame, ");
    board_write_number((uint32_t)board_stack(), 10, 1);
    board_write(" bytes of stack at most, instruction set ");
    board_write_number((uint32_t)network_backend(), 10, 1);
    board_write("\n");
    return 0;
}
