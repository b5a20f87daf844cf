/* Ranks: what the environment says, and the collective of one rank alone. */
#include "ops/collective.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANKS = 1000000 };

static enum status read_number(const char *name, int *out, bool *found)
{
    const char *text = getenv(name);
    char *end;

    *found = text != NULL && text[0] != '\0';
    if (!*found)
        return STATUS_OK;
    long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || value < 0 || value > MAX_RANKS)
        FAIL(STATUS_INVALID, "environment variable %s: got '%s', wanted a number from 0 to %d",
             name, text, MAX_RANKS);
    *out = (int)value;
    return STATUS_OK;
}

struct launcher {
    const char *rank, *world, *local, *local_world, *source;
    const char *task; /* set for started ranks only; NULL: no such variable */
};

/* Reads what one launcher sets; *found when there is a rank and a world. */
static enum status read_launcher(const struct launcher *launcher,
                                 struct collective_environment *out, bool *found)
{
    bool has_rank, has_world, has_local, has_local_world;

    *out =
        (struct collective_environment){.world = 1, .local_world = 1, .source = launcher->source};
    *found = false;
    TRY(read_number(launcher->rank, &out->rank, &has_rank));
    TRY(read_number(launcher->world, &out->world, &has_world));
    TRY(read_number(launcher->local, &out->local_rank, &has_local));
    TRY(read_number(launcher->local_world, &out->local_world, &has_local_world));
    if (out->local_world < 1)
        out->local_world = 1;
    if (has_rank != has_world && launcher->task == NULL)
        FAIL(STATUS_INVALID, "environment variable %s is set, %s is not: set both or neither",
             has_rank ? launcher->rank : launcher->world,
             has_rank ? launcher->world : launcher->rank);
    if (!has_rank || !has_world)
        return STATUS_OK;
    if (out->world < 1 || out->rank >= out->world)
        FAIL(STATUS_INVALID, "environment variable %s=%d is not below %s=%d", launcher->rank,
             out->rank, launcher->world, out->world);
    *found = true;
    return STATUS_OK;
}

enum status collective_environment_read(struct collective_environment *out)
{
    static const struct launcher launchers[] = {
        {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
         "OMPI_COMM_WORLD_LOCAL_SIZE", "Open MPI", NULL},
        {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "torchrun", NULL},
        {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE", "Slurm",
         "SLURM_STEP_ID"},
    };

    *out = (struct collective_environment){.world = 1, .local_world = 1, .source = "alone"};
    for (size_t i = 0; i < sizeof(launchers) / sizeof(launchers[0]); i++) {
        struct collective_environment seen;
        bool found;
        if (launchers[i].task != NULL && getenv(launchers[i].task) == NULL)
            continue;
        TRY(read_launcher(&launchers[i], &seen, &found));
        if (!found)
            continue;
        *out = seen;
        return STATUS_OK;
    }
    return STATUS_OK;
}

static enum status alone_all_reduce(struct collective *c, struct device *d, struct tensor *t)
{
    (void)c, (void)d, (void)t;
    return STATUS_OK;
}

static void alone_progress(struct collective *c, int64_t step, const char *doing)
{
    (void)c, (void)step, (void)doing;
}

static enum status alone_broadcast(struct collective *c, struct device *d, void *data, size_t bytes)
{
    (void)c, (void)d, (void)data, (void)bytes;
    return STATUS_OK;
}

static enum status alone_all_gather(struct collective *c, void *to, const void *from, size_t bytes)
{
    (void)c;
    if (bytes > 0)
        memcpy(to, from, bytes);
    return STATUS_OK;
}

static void alone_abort(struct collective *c, int exit_status)
{
    (void)c;
    fflush(NULL);
    _Exit(exit_status);
}

void collective_open_alone(struct collective *out)
{
    *out = (struct collective){
        .world = 1,
        .all_reduce = alone_all_reduce,
        .broadcast = alone_broadcast,
        .all_gather = alone_all_gather,
        .progress = alone_progress,
        .abort = alone_abort,
    };
}

void collective_close(struct collective *collective)
{
    if (collective != NULL && collective->close != NULL)
        collective->close(collective);
    if (collective != NULL)
        memset(collective, 0, sizeof(*collective));
}
