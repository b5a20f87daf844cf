/* Nearest rows on CUDA: products of a block of queries with a piece of the bank, whose similarities
 * are looked through at once and then written over by those of the next piece.
 *
 *   similarity [1024 queries, 8192 rows] f32     32 MiB: they stay in a cache of 50 MB and more
 *   lists      [1024 queries, 2, k] hits         the k best so far, and where the next list is made
 *
 * A hit is one number of 64 bits, greater for the better of two (its value above the complement of
 * its row), so that no two are equal and the order in which threads find them does not matter: the
 * result is the same on every call. A block looks through a query's piece of a row. What beats the
 * last of the list waits in shared memory; when much waits, it is sorted and merged into the list,
 * whose last then is a higher bar: of random rows, piece i has k / i that pass.
 *
 * Pieces are equally long (the last one begins early, and the rows that it repeats are passed
 * over): with one algorithm for all of them, equal rows of the bank have equal similarities
 * wherever they are.
 *
 * Bound: the product, 2 Q N D float32 operations on the vector units (no TF32). On an H200, 67
 * TFLOP/s at most: 0.73 s for 50,000 queries in 1.28 million rows of 384. To look through a
 * similarity takes 4 bytes of the cache, written and read once, in the time of about a tenth of
 * its product. */
#include "ops/topk.h"

#include "kernels/launch.cuh"
#include "kernels/matmul.h"
#include "kernels/op_cuda.h"
#include "kernels/value.cuh"
#include "kernels/warp.cuh"
#include "ops/check.h"

enum {
    THREADS = 256,
    PACK = 4,
    PACKS = 2, /* of a thread at a time */
    TILE = THREADS * PACK * PACKS,
    MOST_WAITING = 2 * TILE,
    MOST_QUERIES = 1024,
    MOST_COLUMNS = 8192,
    ALIGNED_ROWS = 64, /* of float32: 256 bytes, whatever their length */
};

/* Working memory; few queries at a time where the lists are long. */
static const int64_t MOST_BYTES = 256ll << 20;

typedef unsigned long long hit;

/* ------------------------------------------------------------------------------ hits */

/* Greater for greater values, the same for -0 and 0, least for NaN. */
__device__ __forceinline__ unsigned order_of(float value)
{
    unsigned bits = __float_as_uint(value);

    if (value != value)
        return 0;
    if (value == 0.0f)
        bits = 0;
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(unsigned order)
{
    if (order == 0)
        return __uint_as_float(0x7fffffffu);
    return __uint_as_float((order & 0x80000000u) != 0 ? order & 0x7fffffffu : ~order);
}

/* Never 0, which stands for no hit. */
__device__ __forceinline__ hit hit_of(float value, int row)
{
    return (hit)order_of(value) << 32 | ~(unsigned)row;
}

/* ------------------------------------------------------------------------------ lists */

/* The list of a query, the same in every thread of the block. */
struct ranking {
    hit *best, *next; /* [k], best first; where the next one is made */
    int n, k;
    hit bar; /* what is not greater has no place; 0 while the list is not full */
};

/* How many of a list, greatest first, are greater. */
__device__ __forceinline__ int count_greater(const hit *list, int n, hit than)
{
    int low = 0, high = n;

    while (low < high) {
        int middle = (low + high) / 2;
        if (list[middle] > than)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Greatest first, by a bitonic network. Room up to the next power of two is written. */
__device__ void sort_hits(hit *hits, int n)
{
    int padded = 1;

    while (padded < n)
        padded *= 2;
    for (int i = n + (int)threadIdx.x; i < padded; i += THREADS)
        hits[i] = 0;
    __syncthreads();
    for (int size = 2; size <= padded; size *= 2)
        for (int distance = size / 2; distance > 0; distance /= 2) {
            for (int i = (int)threadIdx.x; i < padded / 2; i += THREADS) {
                int low = 2 * i - (i & (distance - 1)), high = low + distance;
                hit a = hits[low], b = hits[high];
                if ((a < b) == ((low & size) == 0)) {
                    hits[low] = b;
                    hits[high] = a;
                }
            }
            __syncthreads();
        }
}

/* Merges the hits that wait, in any order, into the list. All threads of the block come here after
 * a barrier, and leave after one. */
__device__ void take(ranking &list, hit *waiting, int n)
{
    sort_hits(waiting, n);
    for (int i = (int)threadIdx.x; i < n && i < list.k; i += THREADS) {
        int place = i + count_greater(list.best, list.n, waiting[i]);
        if (place < list.k)
            list.next[place] = waiting[i];
    }
    for (int i = (int)threadIdx.x; i < list.n; i += THREADS) {
        int place = i + count_greater(waiting, n, list.best[i]);
        if (place < list.k)
            list.next[place] = list.best[i];
    }
    __syncthreads();
    hit *made = list.next;
    list.next = list.best;
    list.best = made;
    list.n = min(list.n + n, list.k);
    list.bar = list.n == list.k ? made[list.k - 1] : 0;
}

/* Appends the lane's hit to those that wait unless it is 0. The whole warp comes here. */
__device__ __forceinline__ void append(hit *waiting, int *n_waiting, hit found)
{
    unsigned lane = threadIdx.x % WARP, votes = __ballot_sync(ALL_LANES, found != 0);
    int at = 0;

    if (votes == 0)
        return;
    if (lane == 0)
        at = atomicAdd(n_waiting, __popc(votes));
    at = __shfl_sync(ALL_LANES, at, 0);
    if (found != 0)
        waiting[at + __popc(votes & ((1u << lane) - 1))] = found;
}

/* ------------------------------------------------------------------------------ kernels */

/* Offers similarity[query, skip … n) to the list of each query, a block each. Column 0 is row
 * `first` of the bank. which[query]: the one of lists[query, 2, k] that is the list, which holds
 * n_before hits. */
__global__ void __launch_bounds__(THREADS, 4)
    topk_offer(hit *lists, int *which, const float *__restrict__ similarity, int stride, int first,
               int skip, int n, int n_before, int k)
{
    SHARED(hit, waiting, MOST_WAITING);
    SHARED(int, n_waiting, 1);
    const float *row = similarity + (int64_t)blockIdx.x * stride;
    hit *both = lists + (int64_t)blockIdx.x * 2 * k;
    int now = n_before > 0 ? which[blockIdx.x] : 0, n_waits;
    ranking list = {both + (int64_t)now * k, both + (int64_t)(1 - now) * k, n_before, k, 0};

    if (n_before == k)
        list.bar = list.best[k - 1];
    if (threadIdx.x == 0)
        *n_waiting = 0;
    for (int tile = skip / PACK * PACK; tile < n; tile += TILE) {
        float value[PACKS][PACK] = {};
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int column = tile + (i * THREADS + (int)threadIdx.x) * PACK;
            if (column < n) /* rows are padded to whole packs */
                load_pack<PACK>(value[i], row + column);
        }
        __syncthreads();
        n_waits = *n_waiting;
        __syncthreads();
        if (n_waits > MOST_WAITING - TILE || (list.bar == 0 && list.n + n_waits >= k)) {
            take(list, waiting, n_waits);
            if (threadIdx.x == 0)
                *n_waiting = 0;
            __syncthreads();
        }
#pragma unroll
        for (int i = 0; i < PACKS; i++)
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                int column = tile + (i * THREADS + (int)threadIdx.x) * PACK + j;
                hit found = hit_of(value[i][j], first + column);
                bool counts = column >= skip && column < n && found > list.bar;
                append(waiting, n_waiting, counts ? found : 0);
            }
    }
    __syncthreads();
    n_waits = *n_waiting;
    if (n_waits > 0)
        take(list, waiting, n_waits);
    if (threadIdx.x == 0)
        which[blockIdx.x] = list.best != both;
}

/* Hits to values and rows. */
__global__ void __launch_bounds__(THREADS)
    topk_unpack(float *__restrict__ value, int32_t *__restrict__ index,
                const hit *__restrict__ lists, const int *__restrict__ which, int64_t n, int k)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, query = i / k;

    if (i >= n)
        return;
    hit found = lists[(2 * query + which[query]) * k + i % k];
    value[i] = value_of((unsigned)(found >> 32));
    index[i] = (int32_t) ~(unsigned)found;
}

/* ------------------------------------------------------------------------------ launchers */

/* How the work is cut. */
struct plan {
    int64_t n_queries, n_columns, stride; /* of a block of similarities */
    float *similarity;
    hit *lists;
    int *which;
};

static enum status make_plan(struct device *device, struct plan *plan, int64_t n_queries,
                             int64_t n_bank, int64_t k)
{
    int64_t n_pieces = (n_bank + MOST_COLUMNS - 1) / MOST_COLUMNS;
    int64_t columns = (n_bank + n_pieces - 1) / n_pieces;
    void *memory;

    columns = (columns + ALIGNED_ROWS - 1) / ALIGNED_ROWS * ALIGNED_ROWS;
    plan->n_columns = columns < n_bank ? columns : n_bank;
    plan->stride = (plan->n_columns + PACK - 1) / PACK * PACK;
    int64_t row_bytes = plan->stride * (int64_t)sizeof(float);
    int64_t list_bytes = 2 * k * (int64_t)sizeof(hit), bytes = row_bytes + list_bytes;
    int64_t n = MOST_BYTES / bytes;
    if (n > MOST_QUERIES)
        n = MOST_QUERIES;
    if (n > n_queries)
        n = n_queries;
    plan->n_queries = n > 0 ? n : 1;
    TRY(cuda_scratch(device, &memory,
                     static_cast<size_t>(plan->n_queries) *
                         (static_cast<size_t>(bytes) + sizeof(int))));
    plan->similarity = static_cast<float *>(memory);
    plan->lists = reinterpret_cast<hit *>(plan->similarity + plan->n_queries * plan->stride);
    plan->which = reinterpret_cast<int *>(plan->lists + plan->n_queries * 2 * k);
    return STATUS_OK;
}

/* similarity [n, columns] = query [n, D] times rows `first` … of the bank. */
static enum status multiply(struct device *device, const struct topk_args *args,
                            const struct plan *plan, int64_t query, int64_t n, int64_t first)
{
    int64_t d = args->query.shape[1];
    struct matmul product = {};

    product.m = plan->n_columns;
    product.n = n;
    product.k = d;
    product.a_transposed = true;
    product.operand = product.result = DTYPE_F32;
    product.a = data_of<float>(args->bank) + first * d;
    product.b = data_of<float>(args->query) + query * d;
    product.d = plan->similarity;
    product.lda = product.ldb = d;
    product.ldd = plan->stride;
    return matmul_run(device, &product);
}

enum status topk_cuda(struct device *device, const struct topk_args *args)
{
    int64_t n_queries = args->query.shape[0], n_bank = args->bank.shape[0];
    int64_t k = args->value.shape[1];
    struct plan plan = {};

    CHECK_F32("topk", args->query);
    CHECK_F32("topk", args->bank);
    CHECK(args->bank.shape[1] == args->query.shape[1] && n_bank <= INT32_MAX && k >= 1 &&
          k <= n_bank);
    CHECK(tensor_is_2d(&args->value, n_queries, k) && tensor_is_2d(&args->index, n_queries, k));
    if (n_queries == 0)
        return STATUS_OK;
    TRY(make_plan(device, &plan, n_queries, n_bank, k));
    for (int64_t query = 0; query < n_queries; query += plan.n_queries) {
        int64_t n = n_queries - query < plan.n_queries ? n_queries - query : plan.n_queries;
        for (int64_t seen = 0; seen < n_bank; seen += plan.n_columns) {
            int64_t last = n_bank - plan.n_columns, first = seen < last ? seen : last;
            TRY(multiply(device, args, &plan, query, n, first));
            TRY(launch(device, "topk_offer", static_cast<unsigned>(n), THREADS, 0, topk_offer,
                       plan.lists, plan.which, plan.similarity, static_cast<int>(plan.stride),
                       static_cast<int>(first), static_cast<int>(seen - first),
                       static_cast<int>(plan.n_columns), static_cast<int>(seen < k ? seen : k),
                       static_cast<int>(k)));
        }
        TRY(launch(device, "topk_unpack", grid_for(n * k, THREADS), THREADS, 0, topk_unpack,
                   data_of<float>(args->value) + query * k,
                   data_of<int32_t>(args->index) + query * k, plan.lists, plan.which, n * k,
                   static_cast<int>(k)));
    }
    return STATUS_OK;
}
