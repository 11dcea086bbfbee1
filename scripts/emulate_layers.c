/* In place of examples/cortex-m/main.c, of a network compiled with NETWORK_TRACE: what every layer takes of one picture.
 * Writes a line for every few rows of a layer, its name and the clock's ticks since the line before; the last is
 * "classifier". */
#include "board.h"
#include "network.h"

static uint8_t image[NETWORK_IMAGE_BYTES];
static float logits[NETWORK_CLASSES];
static uint8_t scratch[NETWORK_SCRATCH];
static uint32_t before;

static void tell(const char *layer)
{
    const uint32_t ticks = board_ticks() - before;
    board_write(layer);
    board_write(" ");
    board_write_number(ticks, 10, 1);
    board_write("\n");
    before = board_ticks();
}

void network_trace(const char *layer, const uint8_t *values, int pixels, int channels, int stride)
{
    (void)values, (void)pixels, (void)channels, (void)stride;
    tell(layer);
}

int main(void)
{
    if (!board_read(board_open("pictures.rgb"), image, sizeof image))
        return 1;
    before = board_ticks();
    if (network_run(image, logits, scratch) != 0)
        return 1;
    tell("classifier");
    return 0;
}
