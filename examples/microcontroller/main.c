/* Classifies the pictures that are linked into it. */
#include "board.h"
#include "digits.h"
#include "pictures.h"

static const uint8_t *pixels;
static int16_t logits[DIGITS_CLASSES];

static void classify(void)
{
    digits_classify(pixels, logits);
}

int main(void)
{
    static const char *const names[] = DIGITS_CLASS_NAMES;
    uint32_t stack = 0;
    for (int i = 0; i < PICTURE_COUNT; i++) {
        pixels = pictures[i];
        const uint32_t used = board_stack_used(classify);
        if (stack < used)
            stack = used;
        int best = 0;
        for (int class = 1; class < DIGITS_CLASSES; class++) {
            if (logits[best] < logits[class])
                best = class;
        }
        board_print(picture_names[i]);
        board_print(": ");
        board_print(names[best]);
        board_print("\n");
    }
    board_print("RAM: ");
    board_print_number(DIGITS_ARENA_BYTES);
    board_print(" bytes for the network, ");
    board_print_number(stack);
    board_print(" of stack\n");
    return 0;
}
