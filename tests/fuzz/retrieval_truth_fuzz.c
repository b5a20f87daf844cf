/* Any bytes as the ground truth of a data set: every list is walked. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/eval/retrieval_truth.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    struct retrieval_truth t;

    if (retrieval_truth_parse(&t, bytes, n_bytes, "fuzz") != STATUS_OK)
        return 0;
    for (int32_t i = 0; i < t.n_images; i++)
        if (strlen(t.names[i]) > n_bytes)
            abort();
    for (int32_t q = 0; q < t.n_queries; q++) {
        if (strlen(t.query_names[q]) > n_bytes)
            abort();
        for (int list = 0; list < RETRIEVAL_LISTS; list++)
            for (int32_t i = 0; i < t.queries[q].n[list]; i++)
                if (t.queries[q].images[list][i] < 0 || t.queries[q].images[list][i] >= t.n_images)
                    abort();
        if (t.queries[q].box.left < 0 || t.queries[q].box.width < 0)
            abort();
    }
    retrieval_truth_close(&t);
    return 0;
}
