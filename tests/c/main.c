/* Reads images from standard input until it ends, and writes the logits of each as they lie in memory. */
#include <stdio.h>
#include "net.h"

#ifdef NET_LOGIT_SCALE
typedef int16_t logit;
#else
typedef float logit;
#endif

int main(void)
{
    static uint8_t pixels[NET_HEIGHT * NET_WIDTH * NET_CHANNELS];
    static logit logits[NET_CLASSES];
    while (fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels) {
        net_classify(pixels, logits);
        fwrite(logits, sizeof logits[0], NET_CLASSES, stdout);
    }
    return 0;
}
