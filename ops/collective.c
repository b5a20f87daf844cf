/* Ranks: what the environment says, and the collective of one rank alone. */
#include "ops/collective.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum status read_number(const char *name, int *out, bool *found)
{
    const char *text = getenv(name);
    char *end;

    *found = text != NULL && text[0] != '\0';
    if (!*found)
        return STATUS_OK;
    long value = strtol(text, &end, 10);
    if (*end != '\0' || value < 0 || value > 1000000)
        FAIL(STATUS_INVALID, "environment variable %s: got '%s', wanted a number from 0", name,
             text);
    *out = (int)value;
    return STATUS_OK;
}

enum status collective_environment_read(struct collective_environment *out)
{
    static const struct {
        const char *rank, *world, *local, *source;
    } sources[] = {
        {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "Open MPI"},
        {"RANK", "WORLD_SIZE", "LOCAL_RANK", "torchrun"},
        {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "Slurm"},
    };

    *out = (struct collective_environment){.world = 1, .source = "alone"};
    for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
        struct collective_environment seen = {.world = 1, .source = sources[i].source};
        bool has_rank, has_world, has_local;
        TRY(read_number(sources[i].rank, &seen.rank, &has_rank));
        TRY(read_number(sources[i].world, &seen.world, &has_world));
        TRY(read_number(sources[i].local, &seen.local_rank, &has_local));
        if (!has_rank || !has_world)
            continue;
        if (seen.world < 1 || seen.rank >= seen.world)
            FAIL(STATUS_INVALID, "%s=%d is not below %s=%d", sources[i].rank, seen.rank,
                 sources[i].world, seen.world);
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

static enum status alone_barrier(struct collective *c)
{
    (void)c;
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
        .barrier = alone_barrier,
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
