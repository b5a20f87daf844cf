/* collective_ranks BACKEND N [abort]: one of N ranks, started by mpirun (cpu) or by run_ranks.
 * Every rank checks what the others sent. Exit status 0 when all is right on all, 77 where the
 * backend is not in this build or has no device. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "ops/collective.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/rng.h"

/* What a rank has to say, the same on every run. */
static double value_of(int rank, int64_t i)
{
    struct rng rng = rng_open(
        (struct rng_key){.seed = (uint64_t)rank, .sample = (uint32_t)i, .purpose = RNG_TEST});
    return rng_range(&rng, -1.0, 1.0);
}

static enum status same_bits(struct collective *c, const void *data, size_t bytes, const char *what)
{
    uint64_t mine = hash_bytes(data, bytes), all[64];

    TRY(c->all_gather(c, all, &mine, sizeof(mine)));
    for (int r = 0; r < c->world; r++)
        if (all[r] != all[0])
            FAIL(STATUS_MISMATCH, "%s: rank %d has other bits than rank 0", what, r);
    return STATUS_OK;
}

static double element(const void *data, enum dtype dtype, int64_t i)
{
    return dtype == DTYPE_F32   ? (double)((const float *)data)[i]
           : dtype == DTYPE_F64 ? ((const double *)data)[i]
                                : (double)((const int32_t *)data)[i];
}

/* To the device and back around what the ranks do. */
static enum status upload(struct device *device, void **out, const void *from, size_t bytes)
{
    TRY(device->alloc(device, out, bytes, "values"));
    TRY(device->copy_in(device, *out, from, bytes));
    return device->synchronize(device);
}

static enum status download(struct device *device, void *to, void *from, size_t bytes)
{
    TRY(device->copy_out(device, to, from, bytes));
    TRY(device->synchronize(device));
    device->free(device, from);
    return STATUS_OK;
}

/* A sum of n elements: as close to the exact one as the type allows, and equal on all ranks. */
static enum status check_sum(struct collective *c, struct device *device, enum dtype dtype,
                             int64_t n)
{
    struct tensor t = {.dtype = dtype, .rank = 1, .shape = {n}};
    size_t bytes = (size_t)n * dtype_size_bytes(dtype);
    void *values;
    enum status status;

    TRY(memory_alloc(&values, (size_t)n, dtype_size_bytes(dtype), "sum"));
    for (int64_t i = 0; i < n; i++) {
        double value = value_of(c->rank, i % 4099);
        if (dtype == DTYPE_F32)
            ((float *)values)[i] = (float)value;
        else if (dtype == DTYPE_F64)
            ((double *)values)[i] = value;
        else
            ((int32_t *)values)[i] = (int32_t)(value * 1e6);
    }
    TRY_OUT(upload(device, &t.data, values, bytes));
    TRY_OUT(c->all_reduce(c, device, &t));
    TRY_OUT(download(device, values, t.data, bytes));
    for (int64_t i = 0; i < n; i += 1 + n / 5000) {
        double want = 0.0, got = element(values, dtype, i);
        for (int r = 0; r < c->world; r++) {
            double value = value_of(r, i % 4099);
            want += dtype == DTYPE_I32   ? (double)(int32_t)(value * 1e6)
                    : dtype == DTYPE_F32 ? (double)(float)value
                                         : value;
        }
        double limit = dtype == DTYPE_F32 ? 1e-6 : dtype == DTYPE_F64 ? 1e-14 : 0.0;
        if (!(fabs(got - want) <= limit * c->world))
            FAIL_OUT(STATUS_MISMATCH,
                     "sum of %lld of dtype %d: element %lld is %.17g, wanted %.17g", (long long)n,
                     (int)dtype, (long long)i, got, want);
    }
    TRY_OUT(same_bits(c, values, bytes, "sum"));
out:
    memory_free(values);
    return status;
}

/* On a branch beside the device's own work, as the gradients' buckets go. */
static enum status sum_on_branch(struct collective *c, struct device *device, struct tensor *t)
{
    TRY(device->fork(device));
    device->use_branch(device, 1);
    enum status status = c->all_reduce(c, device, t);
    device->use_branch(device, 0);
    TRY(status);
    return device->join(device);
}

/* Recorded once and launched again and again: each time all is multiplied by the number of ranks. A
 * sum that is not recorded comes before, in between and after. */
static enum status check_recorded(struct collective *c, struct device *device)
{
    enum { N = 1000 };
    struct tensor t = {.dtype = DTYPE_F32, .rank = 1, .shape = {N}};
    struct device_graph *graph = NULL;
    float values[N];
    double want = 1.0;
    enum status status;

    for (int i = 0; i < N; i++)
        values[i] = 1.0f;
    TRY(upload(device, &t.data, values, sizeof(values)));
    TRY_OUT(sum_on_branch(c, device, &t));
    TRY_OUT(device->capture_begin(device));
    status = sum_on_branch(c, device, &t);
    if (status == STATUS_OK)
        status = c->all_reduce(c, device, &t);
    enum status ended = device->capture_end(device, &graph);
    TRY_OUT(status);
    TRY_OUT(ended);
    TRY_OUT(device->graph_launch(device, graph));
    TRY_OUT(sum_on_branch(c, device, &t));
    for (int i = 0; i < 2; i++)
        TRY_OUT(device->graph_launch(device, graph));
    TRY_OUT(sum_on_branch(c, device, &t));
    for (int i = 0; i < 9; i++)
        want *= c->world;
    TRY_OUT(download(device, values, t.data, sizeof(values)));
    t.data = NULL;
    for (int i = 0; i < N; i++)
        if ((double)values[i] != want)
            FAIL_OUT(STATUS_MISMATCH, "recorded sums: element %d is %g, wanted %g", i,
                     (double)values[i], want);
out:
    device->graph_release(device, &graph);
    device->free(device, t.data);
    return status;
}

static enum status check_broadcast(struct collective *c, struct device *device, size_t bytes)
{
    unsigned char *data;
    void *on_device;
    enum status status;

    TRY(memory_alloc(&data, bytes, 1, "broadcast"));
    memset(data, c->rank + 1, bytes);
    TRY_OUT(upload(device, &on_device, data, bytes));
    TRY_OUT(c->broadcast(c, device, on_device, bytes));
    TRY_OUT(download(device, data, on_device, bytes));
    for (size_t i = 0; i < bytes; i++)
        if (data[i] != 1)
            FAIL_OUT(STATUS_MISMATCH, "broadcast of %zu: byte %zu is %d, wanted 1", bytes, i,
                     data[i]);
out:
    memory_free(data);
    return status;
}

static enum status check_gather(struct collective *c)
{
    int32_t mine[3] = {c->rank, -c->rank, 7}, all[3 * 64];

    TRY(c->all_gather(c, all, mine, sizeof(mine)));
    for (int r = 0; r < c->world; r++)
        if (all[3 * r] != r || all[3 * r + 1] != -r || all[3 * r + 2] != 7)
            FAIL(STATUS_MISMATCH, "gather: place %d holds %d %d %d", r, all[3 * r], all[3 * r + 1],
                 all[3 * r + 2]);
    return STATUS_OK;
}

/* More than hosts tell each other directly. */
static enum status check_large_gather(struct collective *c)
{
    enum { BYTES = 1100000 };
    unsigned char *mine = NULL, *all = NULL;
    enum status status;

    TRY_OUT(memory_alloc(&mine, BYTES, 1, "gather"));
    TRY_OUT(memory_alloc(&all, (size_t)c->world * BYTES, 1, "gather"));
    for (size_t i = 0; i < BYTES; i++)
        mine[i] = (unsigned char)(i % 251 + (size_t)c->rank);
    TRY_OUT(c->all_gather(c, all, mine, BYTES));
    for (size_t i = 0; i < (size_t)c->world * BYTES; i++)
        if (all[i] != (unsigned char)(i % BYTES % 251 + i / BYTES))
            FAIL_OUT(STATUS_MISMATCH, "gather of %d bytes: byte %zu is %d", BYTES, i, all[i]);
out:
    memory_free(mine);
    memory_free(all);
    return status;
}

/* Hosts agree while a collective of their devices can't end, since one has not begun it. */
static enum status check_gather_beside(struct collective *c, struct device *device)
{
    float one = 1.0f;
    struct tensor t = {.dtype = DTYPE_F32, .rank = 1, .shape = {1}};
    enum status status;

    TRY(upload(device, &t.data, &one, sizeof(one)));
    if (c->rank != 0)
        TRY_OUT(c->all_reduce(c, device, &t));
    TRY_OUT(check_gather(c));
    if (c->rank == 0)
        TRY_OUT(c->all_reduce(c, device, &t));
    TRY_OUT(download(device, &one, t.data, sizeof(one)));
    t.data = NULL;
    if (one != (float)c->world)
        FAIL_OUT(STATUS_MISMATCH, "a sum around a gather: %g", (double)one);
out:
    device->free(device, t.data);
    return status;
}

static enum status check_all(struct collective *c, struct device *device, int wanted_world)
{
    bool cpu = device->kind == DEVICE_CPU; /* whose calls are cut in pieces of 1 << 22 */
    const int64_t sizes[] = {1, 3, 1000, 65537, (1 << (cpu ? 22 : 18)) + 5};
    struct tensor bytes = {.dtype = DTYPE_U8, .rank = 1, .shape = {0}};

    if (c->world != wanted_world || c->rank < 0 || c->rank >= c->world || c->world > 64)
        FAIL(STATUS_MISMATCH, "rank %d of %d, wanted %d ranks", c->rank, c->world, wanted_world);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        TRY(check_sum(c, device, DTYPE_F32, sizes[i]));
        TRY(check_sum(c, device, DTYPE_F64, sizes[i]));
        TRY(check_sum(c, device, DTYPE_I32, sizes[i]));
    }
    if (c->all_reduce(c, device, &bytes) != STATUS_UNSUPPORTED)
        FAIL(STATUS_MISMATCH, "a sum of bytes was not refused");
    TRY(check_broadcast(c, device, 0));
    TRY(check_broadcast(c, device, 1));
    TRY(check_broadcast(c, device, (cpu ? 5 << 20 : 600000) + 3));
    if (!cpu) {
        TRY(check_recorded(c, device));
        TRY(check_gather_beside(c, device));
    }
    TRY(check_gather(c));
    return check_large_gather(c);
}

static enum status open_backend(const char *backend, struct device *device,
                                struct rank_monitor **ranks, struct collective *collective)
{
    struct rank_monitor_options options;
    struct collective_environment environment;
    const struct op_table *table;

    if (strcmp(backend, "cpu") == 0) {
        TRY(device_open_cpu(device, 1));
        return collective_open_mpi(collective);
    }
    TRY(kernels_op_table(&table));
    if (strcmp(backend, table->name) != 0)
        FAIL(STATUS_UNSUPPORTED, "backend '%s' is not in this build", backend);
    TRY(collective_environment_read(&environment));
    TRY(kernels_device_open(device, environment.local_rank));
    TRY(rank_monitor_options_read(&options, &environment));
    TRY(rank_monitor_open(ranks, &options));
    return kernels_collective_open(collective, device, *ranks);
}

int main(int argc, char **argv)
{
    struct collective collective = {0};
    struct rank_monitor *ranks = NULL;
    struct device device = {0};
    bool aborts = argc == 4;
    int world = argc == 3 || aborts ? atoi(argv[2]) : 0;

    if (world < 1) {
        fprintf(stderr, "usage: %s BACKEND N [abort]\n", argv[0]);
        return 2;
    }
    enum status status = open_backend(argv[1], &device, &ranks, &collective);
    if (status == STATUS_UNSUPPORTED || (status == STATUS_NOT_FOUND && device.state == NULL)) {
        printf("skipped: %s\n", status_message());
        return 77;
    }
    /* one rank leaves, the others wait for ever: they must end, too */
    if (status == STATUS_OK && aborts && collective.rank == world - 1) {
        (void)status_set(STATUS_DEVICE, "this rank gives up");
        collective.abort(&collective, 5);
    }
    if (status == STATUS_OK)
        status = aborts ? check_gather(&collective) : check_all(&collective, &device, world);
    if (status != STATUS_OK)
        fprintf(stderr, "rank %d: %s\n", collective.rank, status_message());
    if (status != STATUS_OK && collective.state != NULL) /* the others may be elsewhere in it */
        collective.abort(&collective, 1);
    collective_close(&collective);
    rank_monitor_close(&ranks);
    device_close(&device);
    return status == STATUS_OK ? 0 : 1;
}
