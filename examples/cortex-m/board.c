/* Start-up, clock and semihosting of any Cortex-M. */
#include "board.h"

#include <string.h>

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYSTICK_CONTROL REGISTER(0xE000E010)
#define SYSTICK_RELOAD REGISTER(0xE000E014)
#define SYSTICK_VALUE REGISTER(0xE000E018)
#define COPROCESSOR_ACCESS REGISTER(0xE000ED88) /* from the Cortex-M4 on */

#define SYSTICK_PERIOD 0x1000000u /* 24 bits, counting down */
#define UNUSED_STACK 0x5AA5C33Cu

/* From the linker script. */
extern uint32_t stack_bottom[], stack_top[], data_start[], data_end[], data_source[], bss_start[], bss_end[];

int main(void);

static volatile uint32_t periods;

static void systick(void)
{
    periods++;
}

static void fault(void)
{
    board_write("fault\n");
    board_exit(2);
}

void reset(void)
{
    uint32_t *word, *here = __builtin_frame_address(0);
#ifdef __ARM_FP
    COPROCESSOR_ACCESS |= 0xFu << 20; /* floating-point unit and vectors */
    __asm__ volatile("dsb\n\tisb");
#endif
    memcpy(data_start, data_source, (size_t)((char *)data_end - (char *)data_start));
    memset(bss_start, 0, (size_t)((char *)bss_end - (char *)bss_start));
    for (word = stack_bottom; word < here - 32; word++)
        *word = UNUSED_STACK;
    SYSTICK_RELOAD = SYSTICK_PERIOD - 1;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 7; /* the processor's clock, with interrupt */
    board_exit(main());
}

/* What the processor reads first: where the stack begins, then whom to call for what. */
typedef struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} Vectors;

extern const Vectors vectors;
const Vectors vectors __attribute__((section(".vectors"), used)) = {
    stack_top,
    {reset, fault, fault, fault, fault, fault, NULL, NULL, NULL, NULL, fault, fault, NULL, fault, systick},
};

uint32_t board_ticks(void)
{
    uint32_t before, value;
    do {
        before = periods;
        value = SYSTICK_VALUE;
    } while (before != periods);
    /* the interrupt comes when it reaches 0, which is also where it begins; the next tick loads PERIOD - 1 */
    return before * SYSTICK_PERIOD + (value ? SYSTICK_PERIOD - value : 0);
}

int board_stack(void)
{
    const uint32_t *word = stack_bottom;
    while (*word == UNUSED_STACK)
        word++;
    return (int)((stack_top - word) * 4);
}

/* The debugger sees the breakpoint, and does what r0 and r1 say. */
static int semihosting(int operation, const void *arguments)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

int board_open(const char *path)
{
    const uint32_t arguments[] = {(uint32_t)path, 1, strlen(path)}; /* 1: "rb" */
    return semihosting(0x01, arguments);
}

int board_read(int file, void *target, int bytes)
{
    const uint32_t arguments[] = {(uint32_t)file, (uint32_t)target, (uint32_t)bytes};
    return semihosting(0x06, arguments) == 0; /* how many are missing */
}

void board_write(const char *text)
{
    semihosting(0x04, text);
}

void board_exit(int status)
{
    const uint32_t arguments[] = {0x20026, (uint32_t)status}; /* the program has ended */
    for (;;)
        semihosting(0x20, arguments);
}
