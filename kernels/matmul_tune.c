/* The fastest algorithm for a product, by measuring. cuBLASLt guesses one from the sizes; what it
 * would guess next is often faster, by a few percent and at times by half, because the guess knows
 * neither the caches nor what else is in the step.
 *
 *   candidates ── all once ──> those within a quarter of the best ── seven rounds ──> least median
 *
 * A round is a product after the level-2 cache was swept (tuning_clock.h). Matrices are those of
 * the product that is about to run: their sizes, alignment and values are the real ones. Where it
 * adds to D it adds to memory of its own meanwhile.
 *
 * Only deterministic algorithms are considered: a sum that is split into parts is put together from
 * the workspace, in order, never in place. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda_check.h"
#include "kernels/matmul_plan.h"
#include "kernels/tuning_clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

enum { FINALISTS = 8 };

/* A candidate is preferred to the library's own choice when it takes this much less. */
static const float worth = 0.99f, near_best = 1.25f;

/* ------------------------------------------------------------------------------ names */

static const char *const type_names[] = {
    [DTYPE_F32] = "f32",
    [DTYPE_BF16] = "bf16",
    [DTYPE_F16] = "f16",
};

static const char *const epilogue_names[] = {
    [MATMUL_PLAIN] = "plain",         [MATMUL_BIAS] = "bias",
    [MATMUL_GELU_BIAS] = "gelu+bias", [MATMUL_GELU_AUX_BIAS] = "gelu+aux+bias",
    [MATMUL_DGELU] = "dgelu",
};

static void name_device(char *out, size_t size, const struct cuda_device *cuda)
{
    snprintf(out, size, "%.64s, %d multiprocessors, capability %d.%d, cuBLASLt %zu, workspace %zu",
             cuda->name, cuda->sm_count, cuda->compute_capability / 10,
             cuda->compute_capability % 10, cublasLtGetVersion(), cuda->matmul_workspace_bytes);
    for (char *c = out; *c != '\0'; c++) /* as the file wants it, whatever the driver says */
        if (*c < ' ' || *c > '~')
            *c = '?';
}

void matmul_name(char *out, size_t size, const struct matmul_key *k)
{
    snprintf(out, size,
             "%lld x %lld x %lld %c%c %s -> %s %s(%s) beta %d ld %lld %lld %lld %lld "
             "aligned %d %d %d %d %d",
             (long long)k->m, (long long)k->n, (long long)k->k, k->a_transposed ? 'T' : 'N',
             k->b_transposed ? 'T' : 'N', type_names[k->operand], type_names[k->result],
             epilogue_names[k->epilogue], type_names[k->bias_type], k->beta, (long long)k->lda,
             (long long)k->ldb, (long long)k->ldd, (long long)k->ld_aux, k->align_a, k->align_b,
             k->align_d, k->align_bias, k->align_aux);
}

/* ------------------------------------------------------------------------------ options, file */

enum status matmul_tuning_set(struct matmul_tuning *tuning, const struct cuda_device *cuda,
                              const struct device_tuning *options)
{
    matmul_tuning_release(tuning);
    tuning->mode = options->mode;
    name_device(tuning->device, sizeof(tuning->device), cuda);
    if (options->mode == DEVICE_TUNING_OFF || options->cache == NULL || options->cache[0] == '\0')
        return STATUS_OK;
    if (matmul_cache_read(&tuning->known, options->cache) != STATUS_OK) {
        log_warning("the file of matrix products is left alone: %s; delete it, or name another "
                    "one (--matmul_cache)",
                    status_message());
        return STATUS_OK;
    }
    return memory_strdup(&tuning->cache, options->cache);
}

void matmul_tuning_release(struct matmul_tuning *tuning)
{
    matmul_choices_release(&tuning->known);
    memory_free(tuning->cache);
    memset(tuning, 0, sizeof(*tuning));
}

static bool is_deterministic(const cublasLtMatmulAlgo_t *algorithm)
{
    uint32_t scheme = 0;
    size_t n = 0;

    return cublasLtMatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                                &scheme, sizeof(scheme),
                                                &n) == CUBLAS_STATUS_SUCCESS &&
           (scheme & CUBLASLT_REDUCTION_SCHEME_INPLACE) == 0;
}

/* Does the library take this algorithm, which came from a file, for the plan? */
static bool accepts(const struct cuda_device *cuda, const struct matmul_plan *plan,
                    const struct matmul_choice *choice, struct matmul_candidate *out)
{
    cublasLtMatmulHeuristicResult_t result;

    memset(&result, 0, sizeof(result));
    memcpy(&out->algorithm, choice->algorithm, sizeof(out->algorithm));
    if (cublasLtMatmulAlgoCheck(cuda->matmul, plan->product, plan->a, plan->b, plan->d, plan->d,
                                &out->algorithm, &result) != CUBLAS_STATUS_SUCCESS ||
        result.state != CUBLAS_STATUS_SUCCESS || !is_deterministic(&out->algorithm))
        return false;
    out->workspace_bytes = result.workspaceSize;
    return result.workspaceSize <= cuda->matmul_workspace_bytes;
}

enum status matmul_recall(const struct matmul_tuning *tuning, const struct cuda_device *cuda,
                          struct matmul_plan *plan)
{
    char product[MATMUL_PRODUCT_TEXT];
    struct matmul_candidate candidate;

    if (tuning->cache == NULL)
        return STATUS_OK;
    matmul_name(product, sizeof(product), &plan->key);
    const struct matmul_choice *known =
        matmul_choices_find(&tuning->known, tuning->device, product);
    if (known == NULL)
        return STATUS_OK;
    if (!accepts(cuda, plan, known, &candidate)) {
        log_warning("'%s': cuBLASLt does not take the algorithm that is kept for %s; it is chosen "
                    "anew",
                    tuning->cache, product);
        return STATUS_OK;
    }
    plan->choice = candidate;
    plan->settled = true;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ measuring */

struct measurement {
    struct cuda_device *cuda;
    const struct matmul_plan *plan;
    struct matmul m;
    const struct matmul_candidate *candidates;
    struct tuning_clock clock;
    void *own_d;
};

static enum status measurement_open(struct measurement *s, struct device *device,
                                    const struct matmul_plan *plan, const struct matmul *m)
{
    size_t d_bytes = (size_t)(m->ldd * (m->n - 1) + m->m) * dtype_size_bytes(m->result);

    *s = (struct measurement){.cuda = cuda_device_of(device), .plan = plan, .m = *m};
    TRY(tuning_clock_open(&s->clock, device));
    if (m->beta != 0.0f) {
        TRY(device->alloc(device, &s->own_d, d_bytes, "measuring matrix products"));
        CUDA_TRY(cudaMemsetAsync(s->own_d, 0, d_bytes, s->clock.stream));
        s->m.d = s->own_d;
    }
    return STATUS_OK;
}

static void measurement_close(struct measurement *s)
{
    tuning_clock_close(&s->clock);
    (void)cudaFree(s->own_d);
}

/* The product by one of the candidates, which the library may refuse. */
static enum status run_candidate(void *context, int which, bool *ran)
{
    const struct measurement *s = context;

    *ran = matmul_launch(s->cuda, s->plan, &s->m, &s->candidates[which]) == CUBLAS_STATUS_SUCCESS;
    return STATUS_OK;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* What is left of the candidates: those that run, and are not far behind the best; their order, and
 * with it the library's own choice, stays. */
static enum status sift(const struct measurement *s, const struct tuning_work *work,
                        struct matmul_candidate *candidates, int *n)
{
    float ms[MATMUL_MOST_CANDIDATES], sorted[MATMUL_MOST_CANDIDATES], unused;
    int n_run = 0, left = 0;

    for (int i = 0; i < *n; i++) {
        TRY(tuning_clock_time(&s->clock, work, i, &unused)); /* loads the kernel */
        TRY(tuning_clock_time(&s->clock, work, i, &ms[i]));
        if (ms[i] >= 0.0f)
            sorted[n_run++] = ms[i];
    }
    if (n_run == 0) {
        *n = 0;
        return STATUS_OK;
    }
    qsort(sorted, (size_t)n_run, sizeof(sorted[0]), by_value);
    float limit = near_best * sorted[0];
    if (n_run > FINALISTS && sorted[FINALISTS - 1] < limit)
        limit = sorted[FINALISTS - 1];
    for (int i = 0; i < *n; i++)
        if (ms[i] >= 0.0f && (i == 0 || ms[i] <= limit) && left <= FINALISTS)
            candidates[left++] = candidates[i];
    *n = left;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ choosing */

/* Keeps a choice in the file, or takes the one that another process has kept meanwhile. */
static enum status keep(struct matmul_tuning *tuning, const struct cuda_device *cuda,
                        struct matmul_plan *plan, struct matmul_choice *choice)
{
    struct matmul_candidate candidate;

    snprintf(choice->device, sizeof(choice->device), "%s", tuning->device);
    memcpy(choice->algorithm, &plan->choice.algorithm, sizeof(choice->algorithm));
    choice->workspace_bytes = plan->choice.workspace_bytes;
    if (tuning->cache == NULL)
        return STATUS_OK;
    if (matmul_cache_keep(tuning->cache, choice,
                          matmul_choices_find(&tuning->known, choice->device, choice->product)) !=
        STATUS_OK) {
        log_warning("choices of matrix products are not kept, so that another run may sum in "
                    "another order: %s",
                    status_message());
        memory_free(tuning->cache);
        tuning->cache = NULL;
        return STATUS_OK;
    }
    if (accepts(cuda, plan, choice, &candidate))
        plan->choice = candidate;
    return STATUS_OK;
}

static enum status choose(struct measurement *s, struct matmul_plan *plan,
                          struct matmul_candidate *candidates, int n, struct matmul_choice *choice)
{
    const struct tuning_work work = {run_candidate, s};
    float median_ms[FINALISTS + 1] = {0};
    int best = 0;

    s->candidates = candidates;
    choice->n_candidates = (uint32_t)n;
    TRY(sift(s, &work, candidates, &n));
    if (n == 0)
        FAIL(STATUS_DEVICE, "cuBLASLt runs none of the %u algorithms it offers for %s",
             choice->n_candidates, choice->product);
    TRY(tuning_clock_medians(&s->clock, &work, n, median_ms));
    for (int i = 1; i < n; i++)
        if (median_ms[i] < (best == 0 ? worth : 1.0f) * median_ms[best])
            best = i;
    plan->choice = candidates[best];
    choice->time_ns = (uint64_t)((double)median_ms[best] * 1e6);
    choice->first_ns = (uint64_t)((double)median_ms[0] * 1e6);
    return STATUS_OK;
}

enum status matmul_tune(struct matmul_tuning *tuning, struct device *device,
                        struct matmul_plan *plan, const struct matmul *m)
{
    struct matmul_candidate candidates[MATMUL_MOST_CANDIDATES];
    struct cuda_device *cuda = cuda_device_of(device);
    struct matmul_choice choice = {0};
    struct measurement s;
    int n = 0;

    /* another process may have kept one since */
    if (tuning->cache != NULL && matmul_cache_read(&tuning->known, tuning->cache) == STATUS_OK)
        TRY(matmul_recall(tuning, cuda, plan));
    if (plan->settled)
        return STATUS_OK;
    plan->settled = true;
    if (!tuning->told)
        log_info("algorithms of matrix products are measured as the products come%s%s",
                 tuning->cache != NULL ? ", and kept in " : "",
                 tuning->cache != NULL ? tuning->cache : "");
    tuning->told = true;
    matmul_name(choice.product, sizeof(choice.product), &plan->key);
    TRY(matmul_candidates(cuda, plan, candidates, MATMUL_MOST_CANDIDATES, &n));
    enum status status = measurement_open(&s, device, plan, m);
    if (status == STATUS_OK)
        status = choose(&s, plan, candidates, n, &choice);
    measurement_close(&s);
    if (status == STATUS_NO_MEMORY) {
        log_warning("the library's own choice is taken for %s: %s", choice.product,
                    status_message());
        return STATUS_OK;
    }
    TRY(status);
    log_debug("matrix product %s: %.1f us, the library's own choice %.1f us, of %u", choice.product,
              (double)choice.time_ns * 1e-3, (double)choice.first_ns * 1e-3, choice.n_candidates);
    return keep(tuning, cuda, plan, &choice);
}
