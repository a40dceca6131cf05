/* Classifies the linked images, writes their logits to the file "logits", and prints what that takes: the most stack, and the
   instructions of an image. */
#include "../../examples/microcontroller/board.h"
#include "net.h"

#ifdef NET_LOGIT_SCALE
typedef int16_t logit;
#else
typedef float logit;
#endif

extern const uint8_t images[], images_end[];

static const uint8_t *pixels;
static logit logits[NET_CLASSES];

static void classify(void)
{
    net_classify(pixels, logits);
}

/* Takes a little more stack than this. */
#define KNOWN 1000

static void known(void)
{
    volatile uint8_t bytes[KNOWN];
    for (int i = 0; i < KNOWN; i++)
        bytes[i] = 1;
    (void)bytes[0];
}

static void number(const char *name, uint32_t value)
{
    board_print(name);
    board_print(" ");
    board_print_number(value);
    board_print("\n");
}

int main(void)
{
    const int32_t file = board_create("logits");
    const uint32_t measured = board_stack_used(known);
    if (measured < KNOWN || measured > KNOWN + 50) {
        number("a function of 1000 bytes of stack was measured as", measured);
        return 1;
    }
    uint32_t stack = 0;
    for (pixels = images; pixels < images_end; pixels += NET_HEIGHT * NET_WIDTH * NET_CHANNELS) {
        const uint32_t used = board_stack_used(classify);
        if (stack < used)
            stack = used;
        board_write(file, logits, sizeof logits);
    }
    pixels = images;
    number("stack", stack);
    number("instructions", board_instructions(classify));
    return 0;
}
