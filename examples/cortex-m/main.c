/* Classifies the pictures in pictures.rgb: raw RGB, one after the other. Writes a line for each: its class, and the
 * bits of the logits in hexadecimal. */
#include "board.h"
#include "network.h"

static uint8_t image[NETWORK_IMAGE_BYTES];
static float logits[NETWORK_CLASSES];
static uint8_t scratch[NETWORK_SCRATCH];

int main(void)
{
    uint32_t ticks = 0;
    const int file = board_open("pictures.rgb");
    if (file < 0) {
        board_write("there is no file pictures.rgb\n");
        return 1;
    }
    while (board_read(file, image, sizeof image)) {
        ticks = board_ticks();
        if (network_run(image, logits, scratch) != 0)
            return 1;
        ticks = board_ticks() - ticks;
        board_write_answer(network_classes, logits, NETWORK_CLASSES);
    }
    board_write_measures(ticks, "picture", network_backend());
    return 0;
}
