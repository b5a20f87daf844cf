/* Ranks on CUDA devices in a build without NCCL. */
#include "kernels/kernels.h"

enum status kernels_collective_open(struct collective *out, struct device *device,
                                    struct rank_monitor *ranks)
{
    (void)out;
    (void)device;
    (void)ranks;
    FAIL(STATUS_UNSUPPORTED, "several ranks on CUDA devices were asked for, but this build has no "
                             "NCCL: install libnccl-dev and build again, or run one process");
}
