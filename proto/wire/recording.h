/* Recordings: what a trainer consumed, as TFRecord files of wire messages.
 *
 *   DIR/rank00000-step000000000000.tfrecord    one file per rank and start of the trainer
 *
 *   [Recording] [Slice + payload] [Slice + payload] … [Finished]       pixels
 *   [Recording] [Slice + part hashes] …             … [Finished]       ids
 *
 * Each record is one StreamMessage of stream.proto: foreign tools read it with a TFRecord reader
 * and classes made by protoc. A file takes the place of an older one of its rank from its first
 * step on: a run that went back to a checkpoint consumed those steps again.
 *
 * A recording is foreign bytes: opening it checks every length and number, reading a slice every
 * sum and hash. A file that ends inside a record (its writer died) is taken up to there. One
 * thread's; another one reads with a handle of its own (recording_share). */
#ifndef IBOT_PROTO_WIRE_RECORDING_H
#define IBOT_PROTO_WIRE_RECORDING_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"
#include "proto/wire/message.h"

enum {
    RECORDING_MAX_FILES = 100000,
    RECORDING_MAX_SLICE = 64,              /* images in a record that a recorder writes */
    RECORDING_SLICE_BYTES = 16 << 20,      /* of pixels in it, unless one image has more */
    RECORDING_PART_HASH_TAG = 14 << 3 | 2, /* in a record, as stream.proto numbers them */
    RECORDING_PAYLOAD_TAG = 15 << 3 | 2,
};

/* A record taken apart; borrowed from its bytes. */
struct record {
    const uint8_t *head; /* a message of its own */
    size_t n_head;
    const uint8_t *part_hashes; /* 8 bytes each, little endian, unaligned */
    size_t n_part_hashes;
    const uint8_t *payload;
    size_t n_payload; /* as it says; of a record that was skimmed they are not all there */
};

/* The first n_bytes of a record of `length` bytes. Errors: STATUS_CORRUPT. */
enum status record_split(struct record *out, const uint8_t *bytes, size_t n_bytes,
                         size_t length) IBOT_WARN_UNUSED;

struct recorded_slice {
    int64_t step;
    struct lease_item lease;
    uint32_t file;
    uint64_t offset; /* of its record */
};

struct recorded_file {
    char *path;
    int32_t rank;
    int64_t first_step;
    size_t n_slices;
    bool torn, finished;
    struct tfrecord_reader *reader; /* NULL: closed for now */
};

struct recording {
    struct message_recording info; /* of the first file; all agree but for rank and first step */
    struct recorded_file *files;   /* by rank, then first step */
    size_t n_files, file_capacity;
    struct recorded_slice *slices; /* by epoch, then rank, then position */
    size_t n_slices, slice_capacity;
    int32_t parts; /* of an image */
    size_t record_bytes;
    struct message message; /* of the slice read last */
    struct record record;
    size_t current; /* its number; SIZE_MAX: none */
    int32_t n_open;
    int lock;    /* recording_lock; -1: none */
    bool shared; /* paths and slices are another one's */
};

/* A folder of files, or one file. Errors: STATUS_NOT_FOUND, STATUS_IO, STATUS_CORRUPT (file and
 * byte), STATUS_MISMATCH (files of different runs, or another version), STATUS_INVALID. */
enum status recording_open(struct recording **out, const char *path) IBOT_WARN_UNUSED;

/* One more handle on an open recording, for another thread; closed before the first one is. Errors:
 * STATUS_NO_MEMORY. */
enum status recording_share(struct recording **out,
                            const struct recording *recording) IBOT_WARN_UNUSED;

/* Reads slice i: recording->message.slice and recording->record are its. Sums and hashes are
 * checked. Errors: STATUS_CORRUPT, STATUS_IO. */
enum status recording_read(struct recording *recording, size_t i) IBOT_WARN_UNUSED;

/* The slice that has a position of an epoch, and the image's number in it; false: there is none. */
bool recording_find(const struct recording *recording, int32_t epoch, uint64_t position,
                    size_t *slice, int32_t *image);

/* Steps that rank `rank` has in one piece from its first one on. */
void recording_steps(const struct recording *recording, int32_t rank, int64_t *first, int64_t *end);

/* Digest of a step's batch, as the consumer had it; its slices are [slice, slice + n). Errors:
 * those of recording_read. */
enum status recording_digest(struct recording *recording, size_t slice, size_t n,
                             uint64_t *out) IBOT_WARN_UNUSED;

/* One hash of a record without pixels. */
uint64_t record_part_hash(const struct record *record, size_t i);

void recording_close(struct recording **recording);

/* What an image record is made of, and what a recording without pixels has a hash of. */
struct recorded_part {
    enum recorded_part_kind { RECORDED_VIEW, RECORDED_MASK, RECORDED_COLOURS } kind;
    int32_t view;
};

/* How many parts an image has: its views, their masks, the parameters of their colours when the
 * trainer applies them. */
int32_t recording_parts(const struct data_spec *spec);
struct recorded_part recording_part_of(const struct data_spec *spec, int32_t i);

/* The bytes of part i of an image record. */
void recording_part(const struct data_spec *spec, int32_t i, size_t *offset, size_t *n_bytes);

/* "rank00000-step000000000000.tfrecord" in a folder; false when it does not fit. */
bool recording_path(char *out, size_t size, const char *folder, int32_t rank, int64_t step);

/* Keeps others away from a recording: readers (shared) for as long as they have it open, a recorder
 * (alone) while it removes files that somebody may be reading. `path` is the folder or a file in
 * it. *out is a descriptor to close, or -1 where the file system has no locks. Errors:
 * STATUS_TIMEOUT (somebody else has it). */
enum status recording_lock(int *out, const char *path, bool shared) IBOT_WARN_UNUSED;

/* Whether a file ends as a recording should, and holds a slice at least. Errors: STATUS_IO. */
enum status recording_is_whole(const char *path, bool *out) IBOT_WARN_UNUSED;

/* The head of one file; *found is false when it has not even a whole one. Errors: as open. */
enum status recording_head(const char *path, struct message *out, bool *found) IBOT_WARN_UNUSED;

/* Two heads are of the same stream, but for rank and first step. Errors: STATUS_MISMATCH names
 * what differs. */
enum status recording_compare(const struct message_recording *a,
                              const struct message_recording *b) IBOT_WARN_UNUSED;

/* Names of a folder that are files of recordings, in order; free each and the array with
 * memory_free. Errors: STATUS_NOT_FOUND, STATUS_IO. */
enum status recording_list(const char *folder, char ***out, size_t *n) IBOT_WARN_UNUSED;

#endif
