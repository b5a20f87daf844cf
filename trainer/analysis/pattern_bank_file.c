/* The prototypes of all tokens as a file. */
#include <stdio.h>

#include "proto/base/memory.h"
#include "trainer/analysis/patterns.h"
#include "trainer/weights/safetensors.h"

enum status pattern_bank_write(const struct pattern_bank *bank, const int64_t *counts,
                               const char *path)
{
    int32_t *numbers;
    char images[24];

    TRY(memory_alloc(&numbers, (size_t)bank->n_prototypes, sizeof(*numbers), "counts"));
    for (int32_t i = 0; i < bank->n_prototypes; i++)
        numbers[i] = counts[i] < INT32_MAX ? (int32_t)counts[i] : INT32_MAX;
    struct safetensors_item items[] = {
        {"memory_bank.index", tensor_2d(bank->index, DTYPE_I32, bank->n_images, bank->per_image)},
        {"memory_bank.value", tensor_2d(bank->value, DTYPE_F32, bank->n_images, bank->per_image)},
        {"num_per_cluster", tensor_1d(numbers, DTYPE_I32, bank->n_prototypes)},
    };
    const char *metadata[] = {"n_images", images};
    snprintf(images, sizeof(images), "%lld", (long long)bank->n_images);
    enum status status = safetensors_write(path, items, 3, metadata, 1);
    memory_free(numbers);
    return status;
}
