/* What a program needs of the board: a console, files, and how much stack it takes. Texts and files go through the debugger
   (semihosting), which QEMU plays. */
#ifndef BOARD_H
#define BOARD_H
#include <stdint.h>

void board_print(const char *text);
void board_print_number(uint32_t number);
void board_exit(int failed) __attribute__((noreturn));

/* A file on the machine of the debugger. */
int32_t board_create(const char *name);
void board_write(int32_t file, const void *bytes, uint32_t count);

/* Bytes of the stack that a function and all that it calls change. */
uint32_t board_stack_used(void (*work)(void));
/* Instructions that a function takes. Only QEMU with `-icount shift=0` counts them, any other board measures time. */
uint32_t board_instructions(void (*work)(void));
#endif
