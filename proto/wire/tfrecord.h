/* TFRecord files: recordings of a stream and TensorBoard events share this framing.
 *
 *   [length u64 LE][masked crc32c of the length u32][data: length bytes][masked crc32c of data u32]
 *
 * The writer puts each record with one system call and takes back a record that did not fit, so
 * that a full disk or a crash leaves whole records, then at most one torn one. The reader trusts
 * nothing: both sums are checked, lengths are limited, and memory grows only with bytes that are
 * there. Either is one thread's at a time. */
#ifndef IBOT_PROTO_WIRE_TFRECORD_H
#define IBOT_PROTO_WIRE_TFRECORD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TFRECORD_MAX_PARTS = 1000, /* pieces of one record */
    TFRECORD_OVERHEAD_BYTES = 16,
};

struct tfrecord_writer; /* opaque: a file descriptor and its end */

/* Creates or empties the file; with `append`, writes after its last whole record: a torn one at the
 * end is cut off, anything else that is no record is an error. Errors: STATUS_IO, STATUS_CORRUPT.
 */
enum status tfrecord_writer_open(struct tfrecord_writer **out, const char *path,
                                 bool append) IBOT_WARN_UNUSED;

/* One record, made of the pieces in order. On failure the file ends where it did before. Errors:
 * STATUS_IO. */
enum status tfrecord_writer_put(struct tfrecord_writer *writer, const struct iovec *parts,
                                int n_parts) IBOT_WARN_UNUSED;

/* Waits until the disk has everything. Errors: STATUS_IO. */
enum status tfrecord_writer_sync(struct tfrecord_writer *writer) IBOT_WARN_UNUSED;

/* Has the disk begin with what was written so far, without waiting for it: a later sync then has
 * little left to wait for. Where the system cannot do that, nothing happens. */
void tfrecord_writer_begin_sync(struct tfrecord_writer *writer);

/* Bytes of the file so far. */
uint64_t tfrecord_writer_bytes(const struct tfrecord_writer *writer);

/* Takes the address and nulls it. Errors: STATUS_IO; closed all the same. */
enum status tfrecord_writer_close(struct tfrecord_writer **writer);

struct tfrecord_reader; /* opaque: a file descriptor and one record's memory */

/* Records longer than max_record_bytes are refused. Errors: STATUS_NOT_FOUND, STATUS_IO. */
enum status tfrecord_reader_open(struct tfrecord_reader **out, const char *path,
                                 size_t max_record_bytes) IBOT_WARN_UNUSED;

/* The next record, borrowed until the next call or close. Errors: STATUS_CLOSED at the end;
 * STATUS_CORRUPT (wrong sum, too long, or torn: the file ends inside it), with the offset in the
 * text, after which only a seek goes on; STATUS_IO, STATUS_NO_MEMORY. */
enum status tfrecord_reader_next(struct tfrecord_reader *reader, const uint8_t **data,
                                 size_t *n_bytes) IBOT_WARN_UNUSED;

/* The first bytes of the next record, at most max_bytes of them, and its whole length; then the
 * record is passed over, without a look at the rest of it or at its sum. For regular files. Errors:
 * as above. */
enum status tfrecord_reader_skim(struct tfrecord_reader *reader, size_t max_bytes,
                                 const uint8_t **data, size_t *n_bytes,
                                 size_t *length) IBOT_WARN_UNUSED;

/* Where the next record begins: after the last whole one. */
uint64_t tfrecord_reader_offset(const struct tfrecord_reader *reader);

/* Goes to an offset that tfrecord_reader_offset gave. Errors: STATUS_IO. */
enum status tfrecord_reader_seek(struct tfrecord_reader *reader, uint64_t offset) IBOT_WARN_UNUSED;

/* True when the last failure was a torn record: a writer may still be at it, or died in it. */
bool tfrecord_reader_torn(const struct tfrecord_reader *reader);

void tfrecord_reader_close(struct tfrecord_reader **reader);

#ifdef __cplusplus
}
#endif

#endif
