#include "trainer/analysis/patterns.h"

#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"

enum status pattern_bank_open(struct pattern_bank *out, int64_t n_images, int32_t per_image,
                              int32_t n_prototypes)
{
    struct pattern_bank bank = {
        .n_images = n_images, .per_image = per_image, .n_prototypes = n_prototypes};
    size_t n = (size_t)n_images * (size_t)per_image;

    memset(out, 0, sizeof(*out));
    TRY(memory_alloc(&bank.index, n, sizeof(*bank.index), "prototypes of all tokens"));
    enum status status = memory_alloc(&bank.value, n, sizeof(*bank.value), "logits of all tokens");
    if (status != STATUS_OK)
        pattern_bank_release(&bank);
    *out = bank;
    return status;
}

void pattern_bank_release(struct pattern_bank *bank)
{
    memory_free(bank->index);
    memory_free(bank->value);
    memset(bank, 0, sizeof(*bank));
}

void pattern_counts(int64_t *counts, const struct pattern_bank *bank)
{
    memset(counts, 0, (size_t)bank->n_prototypes * sizeof(*counts));
    for (int64_t i = 0; i < bank->n_images * bank->per_image; i++)
        counts[bank->index[i]]++;
}

int32_t pattern_rank(int32_t *ranked, int32_t n_wanted, const int64_t *counts, int32_t n)
{
    int32_t n_ranked = 0;

    while (n_ranked < n_wanted) {
        int32_t best = -1;
        for (int32_t i = 0; i < n; i++) {
            /* after the one ranked last: smaller, or as large and further on */
            int32_t last = n_ranked > 0 ? ranked[n_ranked - 1] : -1;
            bool after =
                last < 0 || counts[i] < counts[last] || (counts[i] == counts[last] && i > last);
            if (counts[i] > 0 && after && (best < 0 || counts[i] > counts[best]))
                best = i;
        }
        if (best < 0)
            break;
        ranked[n_ranked++] = best;
    }
    return n_ranked;
}

static int place_compare(const void *left, const void *right)
{
    const struct pattern_place *a = left, *b = right;

    if (a->value != b->value)
        return a->value > b->value ? -1 : 1;
    return (a->image > b->image) - (a->image < b->image);
}

/* The original multiplies the others' logits by 0 instead of leaving them out, so that they win
 * over members whose logits are negative. */
enum status pattern_best(struct pattern_place **out, int64_t *n, const struct pattern_bank *bank,
                         int32_t cluster)
{
    struct pattern_place *places;
    int64_t n_places = 0;

    TRY(memory_alloc_unset(&places, (size_t)bank->n_images, sizeof(*places), "patterns"));
    for (int64_t i = 0; i < bank->n_images; i++) {
        const int32_t *index = bank->index + i * bank->per_image;
        const float *value = bank->value + i * bank->per_image;
        int32_t best = -1;
        for (int32_t t = 0; t < bank->per_image; t++)
            if (index[t] == cluster && (best < 0 || value[t] > value[best]))
                best = t;
        if (best >= 0)
            places[n_places++] = (struct pattern_place){i, best, value[best]};
    }
    if (n_places > 1)
        qsort(places, (size_t)n_places, sizeof(*places), place_compare);
    *out = places;
    *n = n_places;
    return STATUS_OK;
}
