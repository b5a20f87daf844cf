/* Where tensors live and ops run: one small interface over host memory and an accelerator.
 * The CPU device is ops/device.c; the CUDA one is kernels/device.c. All copies and ops of a device
 * are ordered after each other, whatever the host does meanwhile; `synchronize` waits for them.
 *
 * Beside that order, for an accelerator (on the CPU everything is done when it returns):
 *   uploads    copy_in beside the ops: between upload_begin and upload_end
 *   branches   fork: work that follows on branch 1 runs beside branch 0 until join
 *   places     where a branch is, for another one to wait for
 *   marks      a place in the order that the host can wait for
 *   graphs     a step recorded once and launched again, without the host in between
 *
 *   copy_in and copy_out return before the copy when the host memory is pinned (alloc_host): it may
 *   be written or read again after synchronize or a mark. Of other memory they return after it. */
#ifndef IBOT_OPS_DEVICE_H
#define IBOT_OPS_DEVICE_H

#include <stddef.h>

#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum device_kind { DEVICE_CPU, DEVICE_CUDA };

enum { DEVICE_MARKS = 8, DEVICE_BRANCHES = 3, DEVICE_PLACES = 4 };

struct device_graph; /* opaque */

/* How a device chooses among several ways of computing the same. Their results differ in the order
 * of sums, so a choice is kept in a file, if one is named, and stays. */
enum device_tuning_mode {
    DEVICE_TUNING_OFF,  /* what its library thinks best */
    DEVICE_TUNING_KEPT, /* what the file has; what it has not, as OFF */
    DEVICE_TUNING_ON,   /* what the file has; the rest is measured at its first use, outside of a
                           capture, and added to the file */
};

struct device_tuning {
    enum device_tuning_mode mode;
    const char *cache; /* the file; NULL or "": none */
};

struct device {
    enum device_kind kind;
    int ordinal;   /* which accelerator; 0 for the CPU */
    int n_threads; /* CPU: OpenMP threads the ops use */
    void *state;   /* of the implementation */
    /* Bytes of its memory, free and in all; NULL: it has none of its own, but the host's. */
    enum status (*memory)(struct device *, size_t *free_bytes, size_t *total_bytes);
    enum status (*alloc)(struct device *, void **out, size_t bytes, const char *what);
    void (*free)(struct device *, void *pointer);
    /* memory the device can copy from and to without a stop (pinned); plain memory on the CPU */
    enum status (*alloc_host)(struct device *, void **out, size_t bytes, const char *what);
    void (*free_host)(struct device *, void *pointer);
    enum status (*copy_in)(struct device *, void *to, const void *from_host, size_t bytes);
    enum status (*copy_out)(struct device *, void *to_host, const void *from, size_t bytes);
    enum status (*copy)(struct device *, void *to, const void *from, size_t bytes);
    enum status (*zero)(struct device *, void *pointer, size_t bytes);
    enum status (*synchronize)(struct device *);

    /* Uploads wait for the ops queued before upload_begin (whoever read the memory before) and run
     * beside those queued after it; ops queued after upload_end wait for them. */
    enum status (*upload_begin)(struct device *);
    enum status (*upload)(struct device *, void *to, const void *from_host, size_t bytes);
    enum status (*upload_end)(struct device *);

    /* fork: branch 1 goes on from where branch 0 is. use_branch: ops and copies that follow go to
     * this branch, below DEVICE_BRANCHES. join: branch 0 waits for branch 1, and is in use. */
    enum status (*fork)(struct device *);
    void (*use_branch)(struct device *, int branch);
    enum status (*join)(struct device *);

    /* place: remembers how far the branch in use is, under a number below DEVICE_PLACES. after:
     * what follows on the branch in use waits for that place. A branch that is used within a
     * capture goes on from a place of branch 0 there, and branch 0 waits for its end before the
     * capture ends. */
    enum status (*place)(struct device *, int which);
    enum status (*after)(struct device *, int which);

    /* mark: remembers how far branch 0 is under a number below DEVICE_MARKS. wait_mark: the host
     * waits for it; returns at once for a mark that was never set. */
    enum status (*mark)(struct device *, int which);
    enum status (*wait_mark)(struct device *, int which);

    /* Between capture_begin and capture_end ops and copies are recorded, not run; what allocates or
     * waits fails. NULL on a device that has no graphs. A failure in between: capture_end gives the
     * device back, with the failure or one of its own. */
    enum status (*capture_begin)(struct device *);
    enum status (*capture_end)(struct device *, struct device_graph **out);
    enum status (*graph_launch)(struct device *, struct device_graph *);
    void (*graph_release)(struct device *, struct device_graph **);

    /* To be called before the first op; without it: OFF. NULL: there is nothing to choose. */
    enum status (*tune)(struct device *, const struct device_tuning *);

    void (*close)(struct device *);
};

/* The host as a device. n_threads 0: OpenMP's choice. */
enum status device_open_cpu(struct device *out, int n_threads) IBOT_WARN_UNUSED;

/* Releases what open made; a zeroed device is fine. */
void device_close(struct device *device);

#ifdef __cplusplus
}
#endif

#endif
