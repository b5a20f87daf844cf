/* CPU: own ops, MPI between ranks. CUDA: what kernels/ offers. */
#include "trainer/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "ops/rank_monitor.h"

void backend_start_process(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") != NULL || getenv("GOMP_SPINCOUNT") != NULL)
        return;
    setenv("OMP_WAIT_POLICY", "passive", 1);
    execv("/proc/self/exe", argv); /* where it fails, all that is lost is speed */
}

/* ------------------------------------------------------------------------------ ranks */

static bool stops(void *context)
{
    const atomic_int *stop = context;
    return stop != NULL && atomic_load(stop) != 0;
}

enum status backend_meet(struct backend *out, enum backend_kind kind, const atomic_int *stop)
{
    struct collective_environment environment;
    struct rank_monitor_options options;

    TRY(collective_environment_read(&environment));
    if (environment.world == 1 || kind != BACKEND_CUDA)
        return STATUS_OK;
    TRY(rank_monitor_options_read(&options, &environment));
    options.stops = stops;
    options.context = (void *)(uintptr_t)stop;
    return rank_monitor_open(&out->ranks, &options);
}

/* Of a process whose options are wrong: nobody knows yet what its ranks were to compute with. */
static bool has_a_launcher_that_tells(void)
{
    struct collective_environment environment;

    return collective_environment_read(&environment) != STATUS_OK ||
           strcmp(environment.source, "Open MPI") == 0;
}

void backend_fail(struct backend *backend, const char *text)
{
    if (backend->ranks == NULL && (backend->collective.world > 0 || has_a_launcher_that_tells() ||
                                   backend_meet(backend, BACKEND_CUDA, NULL) != STATUS_OK))
        return;
    if (backend->ranks != NULL)
        rank_monitor_fail(backend->ranks, text);
    rank_monitor_close(&backend->ranks);
}

void backend_leave(struct backend *backend, bool accelerated, enum status status)
{
    struct collective *ranks = &backend->collective;

    if (status == STATUS_OK || ranks->ending)
        return;
    if (ranks->world > 1)
        ranks->abort(ranks, status_exit_code(status));
    if (accelerated)
        backend_fail(backend, status_message());
}

const char *backend_log_name(const char *program)
{
    static char name[64];
    struct collective_environment ranks;

    snprintf(name, sizeof(name), "%s", program);
    if (collective_environment_read(&ranks) == STATUS_OK && ranks.world > 1)
        snprintf(name, sizeof(name), "%s rank %d", program, ranks.rank);
    return name;
}

static enum status open_collective(struct backend *backend, enum backend_kind kind)
{
    struct collective_environment environment;

    TRY(collective_environment_read(&environment));
    if (environment.world == 1) {
        collective_open_alone(&backend->collective);
        return STATUS_OK;
    }
    if (kind == BACKEND_CUDA)
        return kernels_collective_open(&backend->collective, &backend->device, backend->ranks);
    TRY(collective_open_mpi(&backend->collective));
    if (backend->collective.world != environment.world)
        FAIL(STATUS_INVALID,
             "the environment says %d ranks (%s), MPI says %d: start CPU ranks with mpirun, or one "
             "process without these variables; others start ranks with GPUs (--backend cuda)",
             environment.world, environment.source, backend->collective.world);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ tuning */

/* "": it does not fit. */
static void append(char *path, size_t size, const char *name)
{
    size_t n = strlen(path);

    if (n == 0 || snprintf(path + n, size - n, "/%s", name) >= (int)(size - n))
        path[0] = '\0';
}

static void append_folder(char *path, size_t size, const char *name)
{
    append(path, size, name);
    if (path[0] != '\0')
        (void)mkdir(path, 0700); /* what can't be made shows when the file is written */
}

void backend_tuning_file(char *out, size_t size)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    bool named = cache != NULL && cache[0] == '/'; /* others are to be ignored, says XDG */

    snprintf(out, size, "%s", named ? cache : home != NULL ? home : "");
    if (strlen(named ? cache : home != NULL ? home : "") >= size)
        out[0] = '\0';
    if (named && out[0] != '\0')
        (void)mkdir(out, 0700);
    else
        append_folder(out, size, ".cache");
    append_folder(out, size, "ibot");
    append(out, size, "matrix_products");
}

/* ------------------------------------------------------------------------------ life */

enum status backend_open(struct backend *out, enum backend_kind kind, int n_threads,
                         const struct device_tuning *tuning)
{
    enum status status = STATUS_OK;

    if (kind == BACKEND_CUDA) {
        struct collective_environment environment;
        TRY(collective_environment_read(&environment));
        if (out->ranks == NULL)
            TRY(backend_meet(out, kind, NULL));
        TRY(kernels_op_table(&out->ops));
        TRY(kernels_device_open(&out->device, environment.local_rank));
    } else {
        out->ops = &op_table_cpu;
        TRY(device_open_cpu(&out->device, n_threads));
    }
    if (tuning != NULL && out->device.tune != NULL)
        status = out->device.tune(&out->device, tuning);
    if (status == STATUS_OK)
        status = open_collective(out, kind);
    return status;
}

enum status backend_attention_by(struct backend *backend, int maker)
{
    if (backend->device.kind == DEVICE_CPU)
        return STATUS_OK;
    return kernels_attention_by(&backend->device, (enum attention_maker)maker);
}

void backend_close(struct backend *backend)
{
    if (backend == NULL)
        return;
    collective_close(&backend->collective);
    device_close(&backend->device);
    rank_monitor_close(&backend->ranks);
    memset(backend, 0, sizeof(*backend));
}
