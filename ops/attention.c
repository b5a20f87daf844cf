/* Self-attention on the CPU: every (sequence, head) is one task with its own L x L block; products
 * through CBLAS, which stays single-threaded inside a parallel region. The backward computes the
 * probabilities again from the saved log-sum-exp: L x L is never kept. */
#include "ops/attention.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>

#include "ops/check.h"
#include "ops/cpu_scratch.h"
#include "ops/softmax_row.h"
#include "ops/vector_math.h"

/* One (sequence, head): where its parts start in the packed buffers. */
struct attention_task {
    int64_t length, head_dim, width; /* L, Dh, D */
    int64_t qkv_offset, out_offset;  /* of the first token's head part */
    int64_t lse_offset;              /* of its [L] */
};

static int64_t longest(const struct attention_group *groups, int32_t n_groups)
{
    int64_t length = 0;
    for (int32_t i = 0; i < n_groups; i++)
        length = groups[i].length > length ? groups[i].length : length;
    return length;
}

static struct attention_task task_at(const struct attention_group *group, int64_t index,
                                     int32_t n_heads, int64_t width)
{
    int64_t sequence = index / n_heads, head = index % n_heads;
    int64_t row = group->first_row + sequence * group->length, head_dim = width / n_heads;

    return (struct attention_task){
        .length = group->length,
        .head_dim = head_dim,
        .width = width,
        .qkv_offset = row * 3 * width + head * head_dim,
        .out_offset = row * width + head * head_dim,
        .lse_offset = row * n_heads + head * group->length,
    };
}

/* scores [L, L] = q k^T / sqrt(Dh) */
static void scores_of(const struct attention_task *task, const float *qkv, float *scores)
{
    int length = (int)task->length, stride = (int)(3 * task->width);
    const float *q = qkv + task->qkv_offset;

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, length, length, (int)task->head_dim,
                1.0f / sqrtf((float)task->head_dim), q, stride, q + task->width, stride, 0.0f,
                scores, length);
}

static void check_shapes(const struct tensor *qkv, int32_t n_heads,
                         const struct attention_group *groups, int32_t n_groups)
{
    CHECK(qkv->rank == 2 && n_heads > 0 && qkv->shape[1] % (3 * n_heads) == 0);
    CHECK(n_groups >= 0 && n_groups <= ATTENTION_MAX_GROUPS);
    for (int32_t i = 0; i < n_groups; i++)
        CHECK(groups[i].first_row >= 0 && groups[i].n_sequences >= 0 &&
              (groups[i].length > 0 || groups[i].n_sequences == 0) &&
              groups[i].first_row + groups[i].n_sequences * groups[i].length <= qkv->shape[0]);
}

enum status attention_forward_cpu(struct device *device, const struct attention_args *args)
{
    int64_t n_tokens = args->qkv.shape[0], width = args->qkv.shape[1] / 3;
    int64_t length = longest(args->groups, args->n_groups);
    const float *qkv = args->qkv.data;
    float *out = args->out.data, *lse = args->lse.data, *scratch;

    CHECK_F32("attention", args->qkv);
    CHECK_F32("attention", args->out);
    check_shapes(&args->qkv, args->n_heads, args->groups, args->n_groups);
    CHECK(tensor_is_2d(&args->out, n_tokens, width));
    CHECK(lse == NULL || tensor_is_2d(&args->lse, n_tokens, args->n_heads));
    TRY(cpu_scratch(device, &scratch,
                    (size_t)(length * length) * sizeof(float) * (size_t)device->n_threads));
    for (int32_t g = 0; g < args->n_groups; g++) {
        const struct attention_group *group = &args->groups[g];
        int64_t n_tasks = group->n_sequences * args->n_heads;
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
        for (int64_t index = 0; index < n_tasks; index++) {
            struct attention_task task = task_at(group, index, args->n_heads, width);
            float *p = scratch + omp_get_thread_num() * length * length;
            scores_of(&task, qkv, p);
            for (int64_t i = 0; i < task.length; i++) {
                float row_lse = softmax_row(p + i * task.length, task.length);
                if (lse != NULL)
                    lse[task.lse_offset + i] = row_lse;
            }
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)task.length,
                        (int)task.head_dim, (int)task.length, 1.0f, p, (int)task.length,
                        qkv + task.qkv_offset + 2 * width, (int)(3 * width), 0.0f,
                        out + task.out_offset, (int)width);
        }
    }
    return STATUS_OK;
}

/* p = exp(s - lse), ds = p * (dp - <dO, O>) / sqrt(Dh), row by row; s and dp in place. */
static void score_gradients(const struct attention_task *task, const float *out, const float *d_out,
                            const float *lse, float *p, float *ds)
{
    float scale = 1.0f / sqrtf((float)task->head_dim);

    for (int64_t i = 0; i < task->length; i++) {
        const float *o = out + task->out_offset + i * task->width;
        const float *d_o = d_out + task->out_offset + i * task->width;
        float *p_row = p + i * task->length, *ds_row = ds + i * task->length;
        float dot = 0.0f, row_lse = lse[task->lse_offset + i];
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < task->head_dim; j++)
            dot += o[j] * d_o[j];
        for (int64_t j = 0; j < task->length; j++) {
            p_row[j] = vector_exp(p_row[j] - row_lse);
            ds_row[j] = scale * p_row[j] * (ds_row[j] - dot);
        }
    }
}

static void backward_task(const struct attention_task *task,
                          const struct attention_backward_args *args, float *p, float *ds)
{
    const float *q = (const float *)args->qkv.data + task->qkv_offset;
    const float *d_o = (const float *)args->d_out.data + task->out_offset;
    float *d_q = (float *)args->d_qkv.data + task->qkv_offset;
    int length = (int)task->length, head_dim = (int)task->head_dim, width = (int)task->width;

    scores_of(task, args->qkv.data, p);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, length, length, head_dim, 1.0f, d_o, width,
                q + 2 * width, 3 * width, 0.0f, ds, length);
    score_gradients(task, args->out.data, args->d_out.data, args->lse.data, p, ds);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, length, head_dim, length, 1.0f, ds,
                length, q + width, 3 * width, 0.0f, d_q, 3 * width);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, length, head_dim, length, 1.0f, ds, length,
                q, 3 * width, 0.0f, d_q + width, 3 * width);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, length, head_dim, length, 1.0f, p, length,
                d_o, width, 0.0f, d_q + 2 * width, 3 * width);
}

enum status attention_backward_cpu(struct device *device,
                                   const struct attention_backward_args *args)
{
    int64_t n_tokens = args->qkv.shape[0], width = args->qkv.shape[1] / 3;
    int64_t length = longest(args->groups, args->n_groups), block = length * length;
    float *scratch;

    CHECK_F32("attention_backward", args->d_out);
    CHECK_F32("attention_backward", args->qkv);
    CHECK_F32("attention_backward", args->out);
    CHECK_F32("attention_backward", args->d_qkv);
    check_shapes(&args->qkv, args->n_heads, args->groups, args->n_groups);
    CHECK(args->lse.data != NULL && tensor_is_2d(&args->lse, n_tokens, args->n_heads));
    CHECK(tensor_is_2d(&args->d_qkv, n_tokens, 3 * width));
    CHECK(tensor_is_2d(&args->out, n_tokens, width) && tensor_is_2d(&args->d_out, n_tokens, width));
    TRY(cpu_scratch(device, &scratch,
                    (size_t)(2 * block) * sizeof(float) * (size_t)device->n_threads));
    for (int32_t g = 0; g < args->n_groups; g++) {
        const struct attention_group *group = &args->groups[g];
        int64_t n_tasks = group->n_sequences * args->n_heads;
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
        for (int64_t index = 0; index < n_tasks; index++) {
            struct attention_task task = task_at(group, index, args->n_heads, width);
            float *p = scratch + omp_get_thread_num() * 2 * block;
            backward_task(&task, args, p, p + block);
        }
    }
    return STATUS_OK;
}

enum status attention_map_cpu(struct device *device, const struct attention_map_args *args)
{
    int64_t width = args->qkv.shape[1] / 3;
    int64_t length = args->group.length, n_tasks = args->group.n_sequences * args->n_heads;
    float *map = args->map.data;

    CHECK_F32("attention_map", args->qkv);
    check_shapes(&args->qkv, args->n_heads, &args->group, 1);
    CHECK(tensor_n_elements(&args->map) == n_tasks * length * length);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t index = 0; index < n_tasks; index++) {
        struct attention_task task = task_at(&args->group, index, args->n_heads, width);
        float *p = map + index * length * length;
        scores_of(&task, args->qkv.data, p);
        for (int64_t i = 0; i < length; i++)
            (void)softmax_row(p + i * length, length);
    }
    return STATUS_OK;
}
