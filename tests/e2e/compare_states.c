/* compare_states A B LIMIT: compares two checkpoints' weights and centres tensor by tensor; the
 * largest difference must stay below LIMIT of each tensor's largest magnitude. Moments and the key
 * third of qkv biases are left out: there Adam divides rounding noise by rounding noise. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/weights/safetensors.h"

static double difference(const struct safetensors_entry *a, const struct safetensors_entry *b)
{
    const float *x = a->tensor.data, *y = b->tensor.data;
    int64_t n = tensor_n_elements(&a->tensor);
    bool key = strstr(a->name, "attn.qkv.bias") != NULL;
    double largest = 0.0, error = 0.0;

    for (int64_t i = 0; i < n; i++) {
        if (key && i >= n / 3 && i < 2 * n / 3)
            continue;
        largest = fmax(largest, fabs((double)x[i]));
        error = fmax(error, fabs((double)x[i] - (double)y[i]));
    }
    return largest > 0.0 ? error / largest : error;
}

int main(int argc, char **argv)
{
    struct safetensors a = {0}, b = {0};
    double worst = 0.0;
    const char *name = "";
    int n = 0;

    if (argc != 4)
        return 2;
    double limit = strtod(argv[3], NULL);
    if (safetensors_open(&a, argv[1]) != STATUS_OK || safetensors_open(&b, argv[2]) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        return 1;
    }
    for (size_t i = 0; i < a.n_entries; i++) {
        const struct safetensors_entry *other = safetensors_find(&b, a.entries[i].name);
        if (strncmp(a.entries[i].name, "moment", 6) == 0 ||
            strncmp(a.entries[i].name, "epoch.", 6) == 0)
            continue;
        if (other == NULL || other->n_bytes != a.entries[i].n_bytes) {
            fprintf(stderr, "'%s' is not in both\n", a.entries[i].name);
            return 1;
        }
        double d = difference(&a.entries[i], other);
        n++;
        if (d >= worst) {
            worst = d;
            name = a.entries[i].name;
        }
    }
    printf("%d tensors, worst %.2e of its largest magnitude: %s\n", n, worst, name);
    return n > 0 && worst <= limit ? 0 : 1;
}
