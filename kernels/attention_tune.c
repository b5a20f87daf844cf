/* Who is the fastest for attention of a shape, by measuring all (tuned_way.h): the own kernels,
 * cuDNN, the former own ones where there are newer.
 *
 * Where nothing is measured, cuDNN takes sequences of more than 64 tokens: its tiles have 64 x 128
 * scores, of which 37 tokens use a sixth and 197 tokens three fifths. */
#include <stdio.h>

#include "kernels/attention_choice.h"
#include "kernels/tuned_way.h"
#include "proto/base/log.h"

enum { LONGEST_OF_OWN = 64, OWN_EDITION = 2 };
enum maker { OWN, CUDNN, FORMER, N_MAKERS }; /* as the file has them, an algorithm's first byte */

static const enum attention_verdict verdicts[N_MAKERS] = {
    [OWN] = ATTENTION_LEFT,
    [CUDNN] = ATTENTION_TAKEN,
    [FORMER] = ATTENTION_LEFT_TO_FORMER,
};

static void name_attention(char *out, size_t size, const struct attention_cudnn_plan *plan)
{
    static const char *const kinds[] = {
        [ATTENTION_CUDNN_FORWARD] = "forward",
        [ATTENTION_CUDNN_FORWARD_STATS] = "forward with sums",
        [ATTENTION_CUDNN_BACKWARD] = "backward",
    };

    snprintf(out, size, "attention %s, %lld x %lld x %lld x %lld, own %d, cuDNN %zu engine %lld",
             kinds[plan->kind], (long long)plan->shape.n_sequences, (long long)plan->shape.length,
             (long long)plan->shape.n_heads, (long long)plan->shape.head_dim, OWN_EDITION,
             attention_cudnn_version(), (long long)plan->engine);
}

/* ------------------------------------------------------------------------------ choosing */

struct trial {
    struct device *device;
    const struct attention_call *call;
    const struct attention_cudnn_plan *plan;
};

static enum status run_maker(void *context, int which, bool *ran)
{
    const struct trial *t = context;

    (void)ran;
    return which == CUDNN ? attention_by_plan(t->device, t->call, t->plan)
                          : attention_by_own(t->device, t->call, which == FORMER);
}

/* By length, where nothing is measured. */
static enum attention_verdict guess(const struct attention_call *call)
{
    return call->group.length > LONGEST_OF_OWN ? ATTENTION_TAKEN : ATTENTION_LEFT;
}

/* Runs the plan once, which may fail where making it did not: for want of memory, or in the
 * library. Then the own kernels are taken. */
static bool runs(struct device *device, const struct attention_call *call,
                 const struct attention_cudnn_plan *plan, const char *name)
{
    if (attention_by_plan(device, call, plan) == STATUS_OK)
        return true;
    log_warning("the own kernels are taken for %s, because cuDNN's fail: %s", name,
                status_message());
    return false;
}

enum status attention_settle(struct device *device, const struct attention_call *call,
                             struct attention_cudnn_plan *plan)
{
    static const char *const names[] = {[OWN] = "own", [CUDNN] = "cuDNN", [FORMER] = "former own"};
    struct matmul_tuning *tuning;
    char name[MATMUL_PRODUCT_TEXT];
    struct trial trial = {device, call, plan};
    const struct tuned_ways ways = {
        name, names, attention_has_former(device, call) ? N_MAKERS : FORMER, {run_maker, &trial}};
    int maker = OWN;

    TRY(matmul_tuning_of(device, &tuning));
    name_attention(name, sizeof(name), plan);
    if (tuned_way_recall(tuning, &ways, &maker)) {
        plan->verdict = verdicts[maker];
        return STATUS_OK;
    }
    plan->verdict = guess(call);
    if (cuda_device_of(device)->capturing)
        return STATUS_OK;
    bool measured = tuning->mode == DEVICE_TUNING_ON;
    if ((measured || plan->verdict == ATTENTION_TAKEN) && !runs(device, call, plan, name)) {
        plan->verdict = ATTENTION_LEFT;
        return STATUS_OK;
    }
    if (!measured)
        return STATUS_OK;
    TRY(tuned_way_measure(tuning, device, &ways, &maker));
    plan->verdict = verdicts[maker];
    return STATUS_OK;
}
