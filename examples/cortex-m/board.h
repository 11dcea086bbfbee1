/* What the program has instead of an operating system: its start, a clock, and files and text of the debugger. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

/* Ticks of the processor's clock since the start. */
uint32_t board_ticks(void);

/* Bytes of stack that were in use at most since the start. */
int board_stack(void);

/* Semihosting, which debuggers and emulators offer: a file of the host's, opened for reading; negative if it cannot. */
int board_open(const char *path);

/* Whether `bytes` bytes came from the file. */
int board_read(int file, void *target, int bytes);

void board_write(const char *text);

void board_exit(int status) __attribute__((noreturn));

/* From here on in answers.c, of any board. With so many digits at least: */
void board_write_number(uint32_t number, uint32_t base, int digits);

/* A line: the class with the largest logit, and the bits of all logits in hexadecimal. */
void board_write_answer(const char *const classes[], const float logits[], int count);

/* The last line: what the last input took, the stack at most, and the number of the instruction set. */
void board_write_measures(uint32_t ticks, const char *input, int backend);

#endif
