/* Where tensors live and ops run: one small interface over host memory and an accelerator.
 * The CPU device is ops/device.c; the CUDA one is kernels/device.c. All copies and ops of a device
 * are ordered after each other (one stream); device_synchronize waits for them. */
#ifndef IBOT_OPS_DEVICE_H
#define IBOT_OPS_DEVICE_H

#include <stddef.h>

#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum device_kind { DEVICE_CPU, DEVICE_CUDA };

struct device {
    enum device_kind kind;
    int ordinal;   /* which accelerator; 0 for the CPU */
    int n_threads; /* CPU: OpenMP threads the ops use */
    void *state;   /* of the implementation */
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
