#include "board.h"
#include <stddef.h>

/* The linker's: where sections begin and end. */
extern uint32_t data_source[], data_begin[], data_end[], bss_begin[], bss_end[], stack_top[];

int main(void);
void reset(void);

static uint32_t debugger(uint32_t call, const void *argument)
{
    register uint32_t r0 __asm__("r0") = call;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void board_exit(int failed)
{
    /* Any other reason than "the application ended" is a failure. */
    debugger(0x18, (const void *)(failed ? 0x20023u : 0x20026u));
    for (;;) {
    }
}

int32_t board_create(const char *name)
{
    uint32_t length = 0;
    while (name[length] != '\0')
        length++;
    const uint32_t arguments[3] = {(uint32_t)name, 5 /* "wb" */, length};
    return (int32_t)debugger(0x01, arguments);
}

void board_write(int32_t file, const void *bytes, uint32_t count)
{
    const uint32_t arguments[3] = {(uint32_t)file, (uint32_t)bytes, count};
    if (file < 0 || debugger(0x05, arguments) != 0)
        board_exit(1);
}

void board_print(const char *text)
{
    static int32_t console = -1;
    if (console < 0)
        console = board_create(":tt");
    uint32_t length = 0;
    while (text[length] != '\0')
        length++;
    board_write(console, text, length);
}

void board_print_number(uint32_t number)
{
    char digits[11];
    char *text = digits + sizeof digits - 1;
    *text = '\0';
    do {
        *--text = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    board_print(text);
}

uint32_t board_stack_used(void (*work)(void))
{
    const uint32_t paint = 0x5ca1ab1e;
    volatile uint32_t *here;
    __asm__ volatile("mov %0, sp" : "=r"(here));
    for (volatile uint32_t *word = bss_end; word < here; word++)
        *word = paint;
    work();
    volatile uint32_t *lowest = bss_end;
    while (lowest < here && *lowest == paint)
        lowest++;
    if (lowest == bss_end) {
        board_print("the stack has met the variables\n");
        board_exit(1);
    }
    return (uint32_t)(here - lowest) * 4;
}

/* Rounds of two instructions. */
static void loop(void)
{
    uint32_t rounds = 100000;
    __asm__ volatile(".syntax unified\n1: subs %0, %0, #1\n bne 1b" : "+l"(rounds) : : "cc");
}

static uint32_t ticks(void (*work)(void))
{
    volatile uint32_t *const systick = (volatile uint32_t *)0xe000e010u;
    systick[1] = 0xffffff;
    systick[2] = 0;
    systick[0] = 5; /* on, with the clock of the processor */
    work();
    const uint32_t left = systick[2];
    systick[0] = 0;
    return 0xffffff - left;
}

uint32_t board_instructions(void (*work)(void))
{
    const uint32_t unit = ticks(loop);
    /* 32 bits are enough for 4000 million instructions. */
    return (uint32_t)((uint64_t)ticks(work) * 200000 / unit);
}

void reset(void)
{
#ifdef __ARM_FP
    /* Switches the floating-point unit on. */
    *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20;
    __asm__ volatile("dsb\n isb");
#endif
    /* Volatile: a compiler would make them calls of a library. */
    volatile const uint32_t *from = data_source;
    for (volatile uint32_t *word = data_begin; word < data_end; word++)
        *word = *from++;
    for (volatile uint32_t *word = bss_begin; word < bss_end; word++)
        *word = 0;
    board_exit(main());
}

static void fault(void)
{
    board_print("a fault\n");
    board_exit(1);
}

/* Where the processor begins, and what it calls for faults. Interrupts stay off. */
__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} vectors = {
    stack_top,
    {reset, fault, fault, fault, fault, fault, NULL, NULL, NULL, NULL, fault, fault, NULL, fault, fault},
};
