/* CPU ranks under mpirun. Large buffers go in pieces that an int can count. That all ranks get the
 * same bits is a promise of the standard for MPI_Allreduce (MPI 3.1, 5.9.6). */
#include "ops/collective.h"

#ifdef IBOT_HAVE_MPI

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { PIECE = 1 << 22 }; /* elements per call */

static enum status mpi_check(int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING];
    int length;

    if (code == MPI_SUCCESS)
        return STATUS_OK;
    MPI_Error_string(code, text, &length);
    FAIL(STATUS_DEVICE, "MPI %s: %s", what, text);
}

static enum status mpi_all_reduce(struct collective *c, struct device *device, struct tensor *t)
{
    MPI_Datatype type = t->dtype == DTYPE_F32   ? MPI_FLOAT
                        : t->dtype == DTYPE_F64 ? MPI_DOUBLE
                                                : MPI_INT;
    int64_t n = tensor_n_elements(t);

    (void)c, (void)device;
    if (t->dtype != DTYPE_F32 && t->dtype != DTYPE_F64 && t->dtype != DTYPE_I32)
        FAIL(STATUS_UNSUPPORTED, "all_reduce: dtype %d", (int)t->dtype);
    for (int64_t first = 0; first < n; first += PIECE) {
        int count = (int)(n - first < PIECE ? n - first : PIECE);
        char *at = (char *)t->data + (size_t)first * dtype_size_bytes(t->dtype);
        TRY(mpi_check(MPI_Allreduce(MPI_IN_PLACE, at, count, type, MPI_SUM, MPI_COMM_WORLD),
                      "all-reduce"));
    }
    return STATUS_OK;
}

/* mpirun watches its ranks itself. */
static void mpi_progress(struct collective *c, int64_t step, const char *doing)
{
    (void)c, (void)step, (void)doing;
}

static enum status mpi_broadcast(struct collective *c, struct device *device, void *data,
                                 size_t bytes)
{
    (void)c, (void)device;
    for (size_t first = 0; first < bytes; first += PIECE) {
        int count = (int)(bytes - first < PIECE ? bytes - first : PIECE);
        TRY(mpi_check(MPI_Bcast((char *)data + first, count, MPI_BYTE, 0, MPI_COMM_WORLD),
                      "broadcast"));
    }
    return STATUS_OK;
}

static enum status mpi_all_gather(struct collective *c, void *to, const void *from, size_t bytes)
{
    (void)c;
    if (bytes > INT32_MAX)
        FAIL(STATUS_UNSUPPORTED, "all-gather of %zu bytes from each rank; at most 2 GiB", bytes);
    return mpi_check(
        MPI_Allgather(from, (int)bytes, MPI_BYTE, to, (int)bytes, MPI_BYTE, MPI_COMM_WORLD),
        "all-gather");
}

static void mpi_abort(struct collective *c, int exit_status)
{
    (void)c;
    fflush(NULL);
    MPI_Abort(MPI_COMM_WORLD, exit_status);
    _Exit(exit_status);
}

static void mpi_close(struct collective *c)
{
    (void)c;
    MPI_Finalize();
}

enum status collective_open_mpi(struct collective *out)
{
    struct collective_environment environment;
    int provided, already;

    MPI_Initialized(&already);
    CHECK(!already, "MPI is opened once in a process");
    TRY(collective_environment_read(&environment));
    TRY(mpi_check(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "init"));
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    *out = (struct collective){
        .local_rank = environment.local_rank,
        .all_reduce = mpi_all_reduce,
        .broadcast = mpi_broadcast,
        .all_gather = mpi_all_gather,
        .progress = mpi_progress,
        .abort = mpi_abort,
        .close = mpi_close,
    };
    MPI_Comm_rank(MPI_COMM_WORLD, &out->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &out->world);
    return STATUS_OK;
}

#else

enum status collective_open_mpi(struct collective *out)
{
    (void)out;
    FAIL(STATUS_UNSUPPORTED, "this build has no MPI; install libopenmpi-dev and build again, "
                             "or run one process");
}

#endif
