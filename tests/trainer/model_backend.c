#include "tests/trainer/model_backend.h"

#include <stdio.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tests/support/queued_device.h"

enum { SKIPPED = 77 };

int model_backend_choose(struct model_backend *out, int argc, char **argv)
{
    struct device device;

    *out = (struct model_backend){.name = argc > 1 ? argv[1] : "cpu", .ops = &op_table_cpu};
    if (argc > 2 && strncmp(argv[2], "bf16", 4) == 0)
        out->precision = PRECISION_BF16;
    if (argc > 2 && strcmp(argv[2], "bf16_stream") == 0)
        out->stream = PRECISION_BF16;
    if (strcmp(out->name, "queued") == 0)
        out->ops = &op_table_queued;
    if (strncmp(out->name, "cuda", 4) != 0)
        return 0;
    if (kernels_op_table(&out->ops) != STATUS_OK || strcmp(out->ops->name, out->name) != 0 ||
        kernels_device_open(&device, 0) != STATUS_OK) {
        printf("skipped: no device for '%s'\n", out->name);
        return SKIPPED;
    }
    device_close(&device);
    return 0;
}

enum status model_backend_open(const struct model_backend *backend, struct device *out)
{
    if (strcmp(backend->name, "cpu") == 0)
        return device_open_cpu(out, 2);
    return strcmp(backend->name, "queued") == 0 ? queued_device_open(out, 2)
                                                : kernels_device_open(out, 0);
}
