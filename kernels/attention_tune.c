/* Who is the fastest for attention of a shape, by measuring all as algorithms of matrix products
 * are measured (matmul_tune.c), and kept in the same file: the own kernels, the former own ones
 * where there are newer, cuDNN.
 *
 * Where nothing is measured, cuDNN takes sequences of more than 64 tokens: its tiles have 64 x 128
 * scores, of which 37 tokens use a sixth and 197 tokens three fifths. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attention_choice.h"
#include "kernels/cuda_check.h"
#include "kernels/matmul_plan.h"
#include "proto/base/log.h"

enum { LONGEST_OF_OWN = 64, ROUNDS = 7, OWN_EDITION = 2 };
enum maker { OWN, CUDNN, FORMER, N_MAKERS }; /* as the file has them, an algorithm's first byte */

static const enum attention_verdict verdicts[N_MAKERS] = {
    [OWN] = ATTENTION_LEFT,
    [CUDNN] = ATTENTION_TAKEN,
    [FORMER] = ATTENTION_LEFT_TO_FORMER,
};

/* Others than the own are taken when they need this much less. */
static const float worth = 0.99f;

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

/* ------------------------------------------------------------------------------ measuring */

struct measurement {
    cudaStream_t stream;
    cudaEvent_t start, end;
    void *sweep; /* twice the level-2 cache */
    size_t sweep_bytes;
};

static enum status measurement_open(struct measurement *m, struct device *device)
{
    int cache_bytes = 0;

    *m = (struct measurement){.stream = cuda_stream(device)};
    CUDA_TRY(cudaDeviceSynchronize());
    CUDA_TRY(cudaEventCreate(&m->start));
    CUDA_TRY(cudaEventCreate(&m->end));
    CUDA_TRY(cudaDeviceGetAttribute(&cache_bytes, cudaDevAttrL2CacheSize,
                                    cuda_device_of(device)->ordinal));
    m->sweep_bytes = 2 * (size_t)cache_bytes;
    return device->alloc(device, &m->sweep, m->sweep_bytes, "measuring attention");
}

static void measurement_close(struct measurement *m)
{
    (void)cudaFree(m->sweep);
    if (m->start != NULL)
        (void)cudaEventDestroy(m->start);
    if (m->end != NULL)
        (void)cudaEventDestroy(m->end);
}

static enum status time_one(const struct measurement *m, struct device *device,
                            const struct attention_call *call,
                            const struct attention_cudnn_plan *plan, enum maker maker, float *ms)
{
    CUDA_TRY(cudaMemsetAsync(m->sweep, 0, m->sweep_bytes, m->stream));
    CUDA_TRY(cudaEventRecord(m->start, m->stream));
    TRY(maker == CUDNN ? attention_by_plan(device, call, plan)
                       : attention_by_own(device, call, maker == FORMER));
    CUDA_TRY(cudaEventRecord(m->end, m->stream));
    CUDA_TRY(cudaEventSynchronize(m->end));
    CUDA_TRY(cudaEventElapsedTime(ms, m->start, m->end));
    return STATUS_OK;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Medians, all in turns: whatever slows the chip slows all. The first round warms up. Who is not
 * there takes for ever. */
static enum status measure(const struct measurement *m, struct device *device,
                           const struct attention_call *call,
                           const struct attention_cudnn_plan *plan, float median_ms[N_MAKERS])
{
    const int n_makers = attention_has_former(device, call) ? N_MAKERS : FORMER;
    float ms[N_MAKERS][ROUNDS];

    for (int round = 0; round < ROUNDS; round++)
        ms[FORMER][round] = INFINITY;
    for (int round = -1; round < ROUNDS; round++)
        for (int maker = 0; maker < n_makers; maker++)
            TRY(time_one(m, device, call, plan, (enum maker)maker,
                         &ms[maker][round < 0 ? 0 : round]));
    for (int maker = 0; maker < N_MAKERS; maker++) {
        qsort(ms[maker], ROUNDS, sizeof(ms[maker][0]), by_value);
        median_ms[maker] = ms[maker][ROUNDS / 2];
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ choosing */

static bool recall(const struct matmul_tuning *tuning, struct attention_cudnn_plan *plan,
                   const char *name)
{
    const struct matmul_choice *known =
        tuning->cache != NULL ? matmul_choices_find(&tuning->known, tuning->device, name) : NULL;

    if (known == NULL || known->algorithm[0] >= N_MAKERS)
        return false;
    plan->verdict = verdicts[known->algorithm[0]];
    return true;
}

/* Keeps the choice, or takes the one that another process has kept meanwhile. */
static void keep(struct matmul_tuning *tuning, struct attention_cudnn_plan *plan,
                 const float ms[N_MAKERS], const char *name)
{
    enum maker best = ms[CUDNN] < ms[FORMER] ? CUDNN : FORMER;
    if (ms[best] >= worth * ms[OWN])
        best = OWN;
    struct matmul_choice choice = {.algorithm = {(uint8_t)best},
                                   .time_ns = (uint64_t)((double)ms[best] * 1e6),
                                   .first_ns = (uint64_t)((double)ms[OWN] * 1e6),
                                   .n_candidates = isinf(ms[FORMER]) ? FORMER : N_MAKERS};

    snprintf(choice.device, sizeof(choice.device), "%s", tuning->device);
    snprintf(choice.product, sizeof(choice.product), "%s", name);
    plan->verdict = verdicts[best];
    log_debug("%s: own kernels %.1f us, former ones %.1f us, cuDNN %.1f us", name,
              (double)ms[OWN] * 1e3, (double)ms[FORMER] * 1e3, (double)ms[CUDNN] * 1e3);
    if (tuning->cache == NULL)
        return;
    if (matmul_cache_keep(tuning->cache, &choice, NULL) != STATUS_OK)
        log_warning("who computes %s is not kept, so that another run may do it otherwise: %s",
                    name, status_message());
    else if (choice.algorithm[0] < N_MAKERS)
        plan->verdict = verdicts[choice.algorithm[0]];
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
    struct matmul_tuning *tuning;
    struct measurement m;
    char name[MATMUL_PRODUCT_TEXT];
    float ms[N_MAKERS];

    TRY(matmul_tuning_of(device, &tuning));
    name_attention(name, sizeof(name), plan);
    if (tuning->mode != DEVICE_TUNING_OFF && recall(tuning, plan, name))
        return STATUS_OK;
    if (cuda_device_of(device)->capturing) {
        plan->verdict = guess(call);
        return STATUS_OK;
    }
    if (tuning->mode != DEVICE_TUNING_ON) {
        plan->verdict = guess(call);
        if (plan->verdict == ATTENTION_TAKEN && !runs(device, call, plan, name))
            plan->verdict = ATTENTION_LEFT;
        return STATUS_OK;
    }
    /* another process may have kept one since */
    if (tuning->cache != NULL && matmul_cache_read(&tuning->known, tuning->cache) == STATUS_OK &&
        recall(tuning, plan, name))
        return STATUS_OK;
    if (!runs(device, call, plan, name)) {
        plan->verdict = ATTENTION_LEFT;
        return STATUS_OK;
    }
    enum status status = measurement_open(&m, device);
    if (status == STATUS_OK)
        status = measure(&m, device, call, plan, ms);
    measurement_close(&m);
    TRY(status);
    keep(tuning, plan, ms, name);
    return STATUS_OK;
}
