/* The same on an ATmega1284P, whose `int` has 16 bits: prints logits, the most stack and the cycles of an image on the serial port,
   each as a line of 8 hexadecimal digits. */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/pgmspace.h>
#include <avr/sleep.h>
#include "net.h"

/* In flash. */
extern const uint8_t images[], images_end[];
/* Where the variables end. */
extern volatile uint8_t __heap_start[];

static uint8_t pixels[NET_HEIGHT * NET_WIDTH * NET_CHANNELS];
static int16_t logits[NET_CLASSES];
static volatile uint16_t overflows;

ISR(TIMER1_OVF_vect)
{
    overflows++;
}

static void print(uint32_t number)
{
    for (uint8_t digit = 0; digit < 8; digit++) {
        while (!(UCSR0A & (1 << UDRE0))) {
        }
        UDR0 = (uint8_t) "0123456789abcdef"[number >> 28];
        number <<= 4;
    }
    while (!(UCSR0A & (1 << UDRE0))) {
    }
    UDR0 = '\n';
}

static uint16_t stack_used(void)
{
    volatile uint8_t *const here = (volatile uint8_t *)SP;
    for (volatile uint8_t *byte = __heap_start; byte < here; byte++)
        *byte = 0xa5;
    net_classify(pixels, logits);
    volatile uint8_t *lowest = __heap_start;
    while (lowest < here && *lowest == 0xa5)
        lowest++;
    return (uint16_t)(here - lowest);
}

int main(void)
{
    UCSR0B = 1 << TXEN0;
    uint16_t stack = 0;
    for (const uint8_t *image = images; image < images_end; image += sizeof pixels) {
        memcpy_P(pixels, image, sizeof pixels);
        const uint16_t used = stack_used();
        if (stack < used)
            stack = used;
        for (uint8_t class = 0; class < NET_CLASSES; class++)
            print((uint32_t)logits[class]);
    }
    print(stack);
    /* Counts every 64 cycles. */
    TIMSK1 = 1 << TOIE1;
    TCNT1 = 0;
    TCCR1B = 1 << CS11 | 1 << CS10;
    sei();
    net_classify(pixels, logits);
    cli();
    print(((uint32_t)overflows << 16 | TCNT1) * 64);
    sleep_enable();
    sleep_cpu();
    return 0;
}
