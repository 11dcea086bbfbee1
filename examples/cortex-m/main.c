/* Classifies the pictures in pictures.rgb: raw RGB, one after the other. Writes a line for each: its class, and the
 * bits of the logits in hexadecimal. */
#include "board.h"
#include "network.h"

#include <string.h>

static uint8_t image[NETWORK_IMAGE_BYTES];
static float logits[NETWORK_CLASSES];
static uint8_t scratch[NETWORK_SCRATCH];

int main(void)
{
    uint32_t ticks = 0;
    int i, file = board_open("pictures.rgb");
    if (file < 0) {
        board_write("there is no file pictures.rgb\n");
        return 1;
    }
    while (board_read(file, image, sizeof image)) {
        int best = 0;
        ticks = board_ticks();
        if (network_run(image, logits, scratch) != 0)
            return 1;
        ticks = board_ticks() - ticks;
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
    board_write(" ticks for the last picture, ");
    board_write_number((uint32_t)board_stack(), 10, 1);
    board_write(" bytes of stack at most, instruction set ");
    board_write_number((uint32_t)network_backend(), 10, 1);
    board_write("\n");
    return 0;
}
