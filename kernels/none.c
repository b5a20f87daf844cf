/* The answers of a build without an accelerator. */
#include "kernels/kernels.h"

#define NO_COLUMN                                                                                  \
    "this build has no CUDA kernels, all work is done on the CPU; choose the device 'cpu'"

enum status kernels_device_open(struct device *out, int ordinal)
{
    (void)out;
    FAIL(STATUS_UNSUPPORTED, "CUDA device %d was asked for, but " NO_COLUMN, ordinal);
}

enum status kernels_op_table(const struct op_table **out)
{
    (void)out;
    FAIL(STATUS_UNSUPPORTED, "the CUDA ops were asked for, but " NO_COLUMN);
}

enum status kernels_collective_open(struct collective *out, struct device *device)
{
    (void)out;
    (void)device;
    FAIL(STATUS_UNSUPPORTED, "ranks on CUDA devices were asked for, but " NO_COLUMN);
}
