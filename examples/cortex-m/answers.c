/* Numbers, answers and measures in text, of any board. */
#include "board.h"

#include <string.h>

void board_write_number(uint32_t number, uint32_t base, int digits)
{
    char text[11], *first = text + sizeof text - 1;
    *first = 0;
    do {
        *--first = "0123456789abcdef"[number % base];
        number /= base;
    } while (number || text + sizeof text - 1 - first < digits);
    board_write(first);
}

void board_write_answer(const char *const classes[], const float logits[], int count)
{
    int i, best = 0;
    for (i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    board_write(classes[best]);
    for (i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        board_write(" ");
        board_write_number(bits, 16, 8);
    }
    board_write("\n");
}

void board_write_measures(uint32_t ticks, const char *input, int backend)
{
    board_write_number(ticks, 10, 1);
    board_write(" ticks for the last ");
    board_write(input);
    board_write(", ");
    board_write_number((uint32_t)board_stack(), 10, 1);
    board_write(" bytes of stack at most, instruction set ");
    board_write_number((uint32_t)backend, 10, 1);
    board_write("\n");
}
