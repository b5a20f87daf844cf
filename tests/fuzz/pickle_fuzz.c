/* Any bytes as a pickle: run, every value looked at, printed, released. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/weights/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static unsigned sum;

/* A text is as long as it says, and ends with a NUL. */
static void look(const struct pickle_value *value, int depth)
{
    int64_t integer;
    double real;

    if (value->kind == PICKLE_STRING || value->kind == PICKLE_BYTES)
        for (size_t i = 0; i <= value->string.length; i++)
            sum += (unsigned char)value->string.text[i];
    sum += pickle_integer(value, &integer) + pickle_number(value, &real);
    sum += (unsigned)strlen(pickle_kind_name(value->kind));
    if (value->kind == PICKLE_TENSOR) {
        const struct pickle_tensor *tensor = value->tensor;
        int64_t last = tensor->offset;
        for (int32_t i = 0; i < tensor->rank; i++)
            last += tensor->n_elements > 0 ? (tensor->shape[i] - 1) * tensor->stride[i] : 0;
        if (tensor->n_elements > 0 && last >= tensor->storage->storage.n_elements)
            abort();
    }
    if (depth > 3 || value->kind < PICKLE_TUPLE || value->kind > PICKLE_NAMESPACE)
        return;
    for (size_t i = 0; i < value->sequence.n && i < 64; i++)
        look(value->sequence.items[i], depth + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    struct pickle pickle;
    char text[512];

    if (pickle_load(&pickle, bytes, n_bytes, "fuzz") != STATUS_OK)
        return 0;
    if (pickle.n_bytes > n_bytes)
        abort();
    look(pickle.root, 0);
    sum += (unsigned)strlen(pickle_print(pickle.root, text, sizeof(text)));
    sum += pickle_find(pickle.root, "model") != NULL;
    for (size_t i = 0; i < pickle.n_storages; i++)
        if (pickle.storages[i]->storage.index != i)
            abort();
    pickle_release(&pickle);
    return 0;
}
