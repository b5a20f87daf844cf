/* TensorBoard event files: scalars and images, readable by TensorBoard and W&B while the run goes
 * on, since every event is written whole. A resumed run writes a further file into the same folder,
 * whose first event tells TensorBoard from which step on the older ones no longer count. */
#ifndef IBOT_TRAINER_EVENT_FILE_H
#define IBOT_TRAINER_EVENT_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

struct event_scalar {
    const char *tag;
    double value;
};

struct event_file; /* opaque: a record writer and its buffer; one thread's */

/* Creates events.out.tfevents.<time>.<host>.<pid>.<n> in the folder, which is made when missing.
 * `first_step`: the first step or epoch it will hold. Errors: STATUS_IO, STATUS_NO_MEMORY. */
enum status event_file_open(struct event_file **out, const char *folder,
                            int64_t first_step) IBOT_WARN_UNUSED;

/* Some scalars of one step as one event. Errors: STATUS_IO, STATUS_NO_MEMORY. */
enum status event_file_scalars(struct event_file *file, int64_t step,
                               const struct event_scalar *scalars, size_t n) IBOT_WARN_UNUSED;

/* An image, given as the bytes of a PNG file, whose header tells the size. Errors: STATUS_INVALID
 * (no PNG), STATUS_IO, STATUS_NO_MEMORY. */
enum status event_file_image(struct event_file *file, int64_t step, const char *tag,
                             const void *png, size_t n_bytes) IBOT_WARN_UNUSED;

/* The file's path; borrowed until close. */
const char *event_file_path(const struct event_file *file);

/* Takes the address and nulls it. Errors: STATUS_IO. */
enum status event_file_close(struct event_file **file);

#endif
