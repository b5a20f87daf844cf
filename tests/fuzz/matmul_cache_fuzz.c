/* Any bytes as a file of choices of matrix products. What is accepted must say the same again when
 * it is written out. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/matmul_cache.h"
#include "proto/base/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    struct matmul_choices choices = {0}, again = {0};
    char *text = NULL;
    size_t n_text = 0;

    if (matmul_choices_parse(&choices, (const char *)bytes, n_bytes) != STATUS_OK) {
        if (choices.choices != NULL || choices.n != 0)
            abort();
        return 0;
    }
    if (matmul_choices_format(&choices, &text, &n_text) != STATUS_OK ||
        matmul_choices_parse(&again, text, n_text) != STATUS_OK || again.n != choices.n)
        abort();
    for (size_t i = 0; i < choices.n; i++)
        if (memcmp(&choices.choices[i], &again.choices[i], sizeof(choices.choices[i])) != 0)
            abort();
    memory_free(text);
    matmul_choices_release(&choices);
    matmul_choices_release(&again);
    return 0;
}
