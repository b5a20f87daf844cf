/* Masks in .npy files: any bytes; what is read is 0 or 1. */
#include <stdlib.h>

#include "trainer/eval/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    enum { SIDE = 4 };
    uint8_t mask[SIDE * SIDE];

    if (npy_mask(mask, SIDE, bytes, n_bytes, "fuzz") == STATUS_OK)
        for (int i = 0; i < SIDE * SIDE; i++)
            if (mask[i] > 1)
                abort();
    return 0;
}
