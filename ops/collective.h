/* What ranks do together. Three implementations: alone (ops/collective.c), MPI for CPU ranks
 * (ops/collective_mpi.c, when built with MPI), NCCL (kernels/collective.c). Every rank makes the
 * same calls in the same order. Sums are in a fixed order: the same bits on every rank. */
#ifndef IBOT_OPS_COLLECTIVE_H
#define IBOT_OPS_COLLECTIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct collective {
    int rank, world; /* 0, 1 when alone */
    int local_rank;  /* on this machine */
    void *state;     /* of the implementation */
    bool ending;     /* all ranks know that the run ends: nobody waits for one that leaves */
    /* Sum over ranks, in place; f32, f64 or i32, in device memory. */
    enum status (*all_reduce)(struct collective *, struct device *, struct tensor *);
    /* Rank 0's bytes to every rank; device memory. */
    enum status (*broadcast)(struct collective *, struct device *, void *data, size_t bytes);
    /* bytes_each from every rank, in rank order, to `to` (world * bytes_each); host memory. */
    enum status (*all_gather)(struct collective *, void *to, const void *from, size_t bytes_each);
    /* Says how far this rank is, to whoever watches for a late one: the step, and what it is about
     * to do ("waits for data"; a constant string). */
    void (*progress)(struct collective *, int64_t step, const char *doing);
    /* Ends every rank at once, with this exit status (a rank met an error the others can't see). */
    void (*abort)(struct collective *, int exit_status);
    void (*close)(struct collective *);
};

/* What the environment says about ranks, the first that is there:
 *   OMPI_COMM_WORLD_{RANK,SIZE,LOCAL_RANK,LOCAL_SIZE} (mpirun), RANK, WORLD_SIZE, LOCAL_RANK,
 *   LOCAL_WORLD_SIZE (torchrun), SLURM_{PROCID,NTASKS,LOCALID,NTASKS_PER_NODE} (srun: with
 *   SLURM_STEP_ID, which a batch script does not have; it has the others, but is one process); else
 *   alone.
 * Errors: STATUS_INVALID: not a number, a rank beyond the world, half of a pair. */
struct collective_environment {
    int rank, world, local_rank;
    int local_world;    /* ranks on this machine, as far as the launcher says; at least 1 */
    const char *source; /* "torchrun", "Open MPI", "Slurm" or "alone" */
};
enum status collective_environment_read(struct collective_environment *out) IBOT_WARN_UNUSED;

void collective_open_alone(struct collective *out);

/* MPI_Init and MPI_COMM_WORLD, once in a process. Errors: STATUS_UNSUPPORTED when built without
 * MPI, STATUS_INVALID, STATUS_DEVICE. */
enum status collective_open_mpi(struct collective *out) IBOT_WARN_UNUSED;

void collective_close(struct collective *collective);

#ifdef __cplusplus
}
#endif

#endif
