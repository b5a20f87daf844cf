/* Gradients summed over ranks while the backward goes on. The backward comes through the flat array
 * from its end to its beginning; what it has left behind is summed in buckets, on a branch of its
 * own, in the same order on every rank.
 *
 *   | embedding | block 0 | block 1 | … | last block | norm | head |
 *                        <────────────────────────── reached
 *
 * Gradients of weights that are made on a branch of their own are waited for by the sums alone.
 */
#include "trainer/model/ibot_internal.h"

enum { BUCKET_BYTES = 32 << 20 };

static int64_t bucket_elements(const struct ibot *ibot)
{
    int64_t bytes = ibot->options.bucket_bytes;
    return (bytes > 0 ? bytes : BUCKET_BYTES) / (int64_t)sizeof(float);
}

/* Sums what lies between `first` and what was summed before. */
static enum status sum_from(struct ibot *ibot, int64_t first)
{
    struct device *device = ibot->device;
    struct collective *ranks = ibot->collective;
    struct tensor bucket = vector(ibot->gradients + first, ibot->summed_from - first);

    if (bucket.shape[0] == 0)
        return STATUS_OK;
    ibot->summed_from = first;
    TRY(device->fork(device));
    device->use_branch(device, 1);
    enum status status =
        block_gradients_follow(device, backbone_gradients(&ibot->student.backbone), 1);
    if (status == STATUS_OK)
        status = ranks->all_reduce(ranks, device, &bucket);
    device->use_branch(device, 0);
    return status;
}

static enum status reached(void *context, const float *from)
{
    struct ibot *ibot = context;
    int64_t first = from - ibot->gradients;

    CHECK(first >= 0 && first <= ibot->summed_from, "the backward went past %lld, summed from %lld",
          (long long)first, (long long)ibot->summed_from);
    return ibot->summed_from - first >= bucket_elements(ibot) ? sum_from(ibot, first) : STATUS_OK;
}

struct gradient_watch ibot_reduce_begin(struct ibot *ibot)
{
    ibot->summed_from = ibot->student.table.n_elements;
    return (struct gradient_watch){reached, ibot};
}

enum status ibot_reduce_end(struct ibot *ibot)
{
    TRY(sum_from(ibot, 0));
    return ibot->device->join(ibot->device);
}
