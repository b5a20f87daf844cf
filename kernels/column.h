/* The CUDA column as a file of its own, libibot_cuda.so: programs load it when a CUDA device is
 * asked for, and not before, because what it is linked with (cuBLASLt, NCCL, cuDNN) costs half a
 * second and a quarter of a gigabyte at start, and is not on every machine.
 *
 *   program (kernels/load.c)                     libibot_cuda.so (kernels/column.c)
 *     dlopen, dlsym kernels_column        ───>     its table: device, ops, collective
 *     struct kernels_host: texts, log     <───     its failures and log lines
 *
 * The file has copies of its own of what it uses of proto/base and ops, all but what has state: the
 * text of a failure and the log are the program's. */
#ifndef IBOT_KERNELS_COLUMN_H
#define IBOT_KERNELS_COLUMN_H

#include "kernels/kernels.h"
#include "proto/base/log.h"

/* What the file asks of the program. */
struct kernels_host {
    enum status (*status_set)(enum status code, const char *format, ...);
    const char *(*status_message)(void);
    const char *(*status_name)(enum status code);
    void (*check_failed)(const char *file, int line, const char *condition, const char *format,
                         ...);
    void (*log_write)(enum log_level level, const char *format, ...);
};

/* What the file offers. `interface` comes first, whatever follows: the digest of the headers that
 * both sides were compiled with. */
struct kernels_column {
    char interface[65];
    enum status (*device_open)(struct device *out, int ordinal);
    enum status (*op_table)(const struct op_table **out);
    enum status (*collective_open)(struct collective *out, struct device *device,
                                   struct rank_monitor *ranks);
    enum status (*attention_by)(struct device *device, enum attention_maker maker);
};

/* The file's one symbol. `host` must live as long as the process. */
typedef const struct kernels_column *kernels_column_fn(const struct kernels_host *host);
#define KERNELS_COLUMN_SYMBOL "kernels_column"

/* Where to look, and for what; the texts are borrowed. */
struct kernels_place {
    const char *const *folders; /* NULL-terminated; relative ones from the program's, "": that */
    const char *driver;         /* library without which there is no device; NULL: none is wanted */
};

/* Loads the file of the first folder that has it; again and again gives the same. It stays until
 * the process ends. Errors: STATUS_UNSUPPORTED (no folder has it), STATUS_NOT_FOUND (the driver, or
 * a library it is linked with, is missing: which, and what has it), STATUS_MISMATCH (made from
 * other headers). */
enum status kernels_column_load(const struct kernels_column **out,
                                const struct kernels_place *place) IBOT_WARN_UNUSED;

#endif
