/* The board of examples/cortex-m/main.c on a 32-bit RISC-V processor: without a C library, by Linux's system calls. It has
 * no clock and does not watch its stack: instructions are counted in the emulator's log. */
#include "board.h"

#include <string.h>

/* Loops stay loops, and are not taken for what they define. */
#pragma GCC optimize("no-tree-loop-distribute-patterns")

enum { OPENAT = 56, READ = 63, WRITE = 64, EXIT = 93, IN_THIS_FOLDER = -100 };

int main(void);

__asm__(".globl _start\n"
        "_start:\n"
        ".option push\n"
        ".option norelax\n"
        "la gp, __global_pointer$\n"
        ".option pop\n"
        "call main\n"
        "tail board_exit\n");

static int call(int number, int first, const void *second, int third)
{
    register int a0 __asm__("a0") = first;
    register const void *a1 __asm__("a1") = second;
    register int a2 __asm__("a2") = third;
    register int a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");
    return a0;
}

void *memcpy(void *restrict target, const void *restrict source, size_t bytes)
{
    uint8_t *out = target;
    const uint8_t *in = source;
    while (bytes--)
        *out++ = *in++;
    return target;
}

void *memset(void *target, int value, size_t bytes)
{
    uint8_t *out = target;
    while (bytes--)
        *out++ = (uint8_t)value;
    return target;
}

uint32_t board_ticks(void)
{
    return 0;
}

int board_stack(void)
{
    return 0;
}

int board_open(const char *path)
{
    return call(OPENAT, IN_THIS_FOLDER, path, 0);
}

int board_read(int file, void *target, int bytes)
{
    return call(READ, file, target, bytes) == bytes;
}

void board_write(const char *text)
{
    int length = 0;
    while (text[length])
        length++;
    call(WRITE, 1, text, length);
}

void board_exit(int status)
{
    for (;;)
        call(EXIT, status, NULL, 0);
}
