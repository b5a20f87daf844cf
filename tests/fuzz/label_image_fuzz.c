/* Images of labels: any bytes; what is read has as many labels as it says. */
#include "trainer/eval/label_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    struct label_image image;
    volatile uint8_t sum = 0;

    if (label_image_decode(&image, bytes, n_bytes) == STATUS_OK)
        for (int64_t i = 0; i < (int64_t)image.width * image.height; i++)
            sum = (uint8_t)(sum + image.labels[i]);
    label_image_release(&image);
    return 0;
}
