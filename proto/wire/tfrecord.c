/* TFRecord framing over plain file descriptors: the writer gathers header, pieces and sum into one
 * writev, the reader reads ahead in a buffer that also holds the record. */
#include "proto/wire/tfrecord.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/memory.h"
#include "proto/wire/crc32c.h"

enum { HEADER_BYTES = 12, FOOTER_BYTES = 4, FIRST_READ_BYTES = 1 << 16 };

struct tfrecord_writer {
    int file;
    uint64_t end;     /* of the last whole record */
    uint64_t syncing; /* the disk has begun with what is before */
    char *path;
};

struct tfrecord_reader {
    int file;
    char *path;
    size_t max_record_bytes;
    uint64_t offset; /* in the file, of the next record */
    bool torn;
    uint8_t *bytes;  /* what was read ahead */
    size_t first, n; /* the part of it that is not used up */
    size_t capacity;
};

static void put_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t get_u64(const uint8_t *at)
{
    return get_u32(at) | (uint64_t)get_u32(at + 4) << 32;
}

/* The end of the last whole record of a file to append to. */
static enum status find_end(const char *path, uint64_t *end)
{
    struct tfrecord_reader *reader = NULL;
    const uint8_t *data;
    size_t n_bytes;
    enum status status;

    TRY(tfrecord_reader_open(&reader, path, SIZE_MAX));
    do
        status = tfrecord_reader_next(reader, &data, &n_bytes);
    while (status == STATUS_OK);
    if (status == STATUS_CLOSED || tfrecord_reader_torn(reader))
        status = STATUS_OK;
    *end = tfrecord_reader_offset(reader);
    tfrecord_reader_close(&reader);
    return status;
}

enum status tfrecord_writer_open(struct tfrecord_writer **out, const char *path, bool append)
{
    struct tfrecord_writer *writer = NULL;
    enum status status = STATUS_OK;

    TRY(memory_alloc(&writer, 1, sizeof(*writer), "record writer"));
    writer->file = -1;
    TRY_OUT(memory_strdup(&writer->path, path));
    writer->file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (append ? 0 : O_TRUNC), 0644);
    if (writer->file < 0)
        FAIL_OUT(STATUS_IO, "'%s': %s", path, strerror(errno));
    if (append) {
        TRY_OUT(find_end(path, &writer->end));
        if (ftruncate(writer->file, (off_t)writer->end) != 0 ||
            lseek(writer->file, 0, SEEK_END) < 0)
            FAIL_OUT(STATUS_IO, "'%s': %s", path, strerror(errno));
    }
    *out = writer;
    writer = NULL;
out:
    if (writer != NULL)
        (void)!tfrecord_writer_close(&writer); /* the first failure is the one to tell */
    return status;
}

/* Writes all pieces, whatever the system call takes at a time. `parts` is used up. */
static enum status write_all(struct tfrecord_writer *writer, struct iovec *parts, int n_parts)
{
    while (n_parts > 0) {
        ssize_t n = writev(writer->file, parts, n_parts);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            FAIL(STATUS_IO, "'%s': writing a record: %s", writer->path, strerror(errno));
        size_t left = (size_t)n;
        while (n_parts > 0 && left >= parts->iov_len) {
            left -= parts->iov_len;
            parts++;
            n_parts--;
        }
        if (n_parts > 0) {
            parts->iov_base = (char *)parts->iov_base + left;
            parts->iov_len -= left;
        }
    }
    return STATUS_OK;
}

enum status tfrecord_writer_put(struct tfrecord_writer *writer, const struct iovec *parts,
                                int n_parts)
{
    struct iovec all[TFRECORD_MAX_PARTS + 2];
    uint8_t header[HEADER_BYTES], footer[FOOTER_BYTES];
    uint64_t length = 0;
    uint32_t crc = 0;

    CHECK(n_parts >= 0 && n_parts <= TFRECORD_MAX_PARTS, "%d pieces in a record", n_parts);
    for (int i = 0; i < n_parts; i++) {
        all[i + 1] = parts[i];
        length += parts[i].iov_len;
        crc = crc32c(crc, parts[i].iov_base, parts[i].iov_len);
    }
    put_u32(header, (uint32_t)length);
    put_u32(header + 4, (uint32_t)(length >> 32));
    put_u32(header + 8, crc32c_mask(crc32c(0, header, 8)));
    put_u32(footer, crc32c_mask(crc));
    all[0] = (struct iovec){header, HEADER_BYTES};
    all[n_parts + 1] = (struct iovec){footer, FOOTER_BYTES};

    enum status status = write_all(writer, all, n_parts + 2);
    if (status != STATUS_OK) {
        /* A pipe cannot take anything back, and need not. */
        if (ftruncate(writer->file, (off_t)writer->end) == 0)
            (void)lseek(writer->file, (off_t)writer->end, SEEK_SET);
        return status;
    }
    writer->end += length + TFRECORD_OVERHEAD_BYTES;
    return STATUS_OK;
}

enum status tfrecord_writer_sync(struct tfrecord_writer *writer)
{
    if (fsync(writer->file) != 0 && errno != EINVAL) /* EINVAL: a pipe */
        FAIL(STATUS_IO, "'%s': %s", writer->path, strerror(errno));
    return STATUS_OK;
}

void tfrecord_writer_begin_sync(struct tfrecord_writer *writer)
{
    off_t n_bytes = (off_t)(writer->end - writer->syncing);

    if (n_bytes > 0)
        (void)!sync_file_range(writer->file, (off_t)writer->syncing, n_bytes,
                               SYNC_FILE_RANGE_WRITE);
    writer->syncing = writer->end;
}

uint64_t tfrecord_writer_bytes(const struct tfrecord_writer *writer)
{
    return writer->end;
}

enum status tfrecord_writer_close(struct tfrecord_writer **writer)
{
    enum status status = STATUS_OK;

    if (writer == NULL || *writer == NULL)
        return STATUS_OK;
    if ((*writer)->file >= 0 && close((*writer)->file) != 0)
        status = status_set(STATUS_IO, "'%s': %s", (*writer)->path, strerror(errno));
    memory_free((*writer)->path);
    memory_free(*writer);
    *writer = NULL;
    return status;
}

enum status tfrecord_reader_open(struct tfrecord_reader **out, const char *path,
                                 size_t max_record_bytes)
{
    struct tfrecord_reader *reader = NULL;
    enum status status = STATUS_OK;
    struct stat info;

    TRY(memory_alloc(&reader, 1, sizeof(*reader), "record reader"));
    reader->file = -1;
    reader->max_record_bytes = max_record_bytes;
    TRY_OUT(memory_strdup(&reader->path, path));
    reader->file = open(path, O_RDONLY | O_CLOEXEC);
    if (reader->file < 0)
        FAIL_OUT(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "'%s': %s", path, strerror(errno));
    if (fstat(reader->file, &info) == 0 && S_ISDIR(info.st_mode))
        FAIL_OUT(STATUS_IO, "'%s' is a folder; wanted a file of records", path);
    *out = reader;
    reader = NULL;
out:
    tfrecord_reader_close(&reader);
    return status;
}

/* Reads until `wanted` bytes are there or the file ends; a little ahead, since what is there beyond
 * them has to be moved. */
static enum status fill(struct tfrecord_reader *reader, size_t wanted)
{
    while (reader->n < wanted) {
        /* Twice what is there already: a wrong length cannot ask for memory the file does not fill.
         */
        size_t room = reader->n < FIRST_READ_BYTES ? FIRST_READ_BYTES : 2 * reader->n;
        if (reader->first > 0) {
            memmove(reader->bytes, reader->bytes + reader->first, reader->n);
            reader->first = 0;
        }
        TRY(memory_grow(&reader->bytes, &reader->capacity, room, 1, "record"));
        size_t most = wanted - reader->n + FIRST_READ_BYTES;
        most = most < reader->capacity - reader->n ? most : reader->capacity - reader->n;
        ssize_t n = read(reader->file, reader->bytes + reader->n, most);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            FAIL(STATUS_IO, "'%s': %s", reader->path, strerror(errno));
        if (n == 0)
            return STATUS_OK;
        reader->n += (size_t)n;
    }
    return STATUS_OK;
}

static enum status torn(struct tfrecord_reader *reader, size_t wanted)
{
    reader->torn = true;
    FAIL(STATUS_CORRUPT, "'%s': the file ends inside the record at byte %llu: got %zu bytes of %zu",
         reader->path, (unsigned long long)reader->offset, reader->n, wanted);
}

/* The frame of the next record: checks its header, says how long it is with all around it. */
static enum status read_header(struct tfrecord_reader *reader, size_t *whole)
{
    unsigned long long offset = reader->offset;

    reader->torn = false;
    TRY(fill(reader, HEADER_BYTES));
    if (reader->n == 0)
        FAIL(STATUS_CLOSED, "'%s': no more records", reader->path);
    if (reader->n < HEADER_BYTES)
        return torn(reader, HEADER_BYTES);
    const uint8_t *header = reader->bytes + reader->first;
    uint64_t length = get_u64(header);
    if (get_u32(header + 8) != crc32c_mask(crc32c(0, header, 8)))
        FAIL(STATUS_CORRUPT, "'%s': the length of the record at byte %llu does not match its sum",
             reader->path, offset);
    if (length > reader->max_record_bytes || length > SIZE_MAX / 4)
        FAIL(STATUS_CORRUPT,
             "'%s': the record at byte %llu has %llu bytes; at most %zu are allowed", reader->path,
             offset, (unsigned long long)length, reader->max_record_bytes);
    *whole = (size_t)length + TFRECORD_OVERHEAD_BYTES;
    return STATUS_OK;
}

/* The record is used up. */
static void step_over(struct tfrecord_reader *reader, size_t whole)
{
    reader->first += whole;
    reader->n -= whole;
    reader->offset += whole;
}

enum status tfrecord_reader_next(struct tfrecord_reader *reader, const uint8_t **data,
                                 size_t *n_bytes)
{
    size_t whole = 0;

    TRY(read_header(reader, &whole));
    size_t length = whole - TFRECORD_OVERHEAD_BYTES;
    TRY(fill(reader, whole));
    if (reader->n < whole)
        return torn(reader, whole);
    const uint8_t *record = reader->bytes + reader->first + HEADER_BYTES;
    if (get_u32(record + length) != crc32c_mask(crc32c(0, record, length)))
        FAIL(STATUS_CORRUPT, "'%s': the data of the record at byte %llu does not match its sum",
             reader->path, (unsigned long long)reader->offset);
    step_over(reader, whole);
    *data = record;
    *n_bytes = length;
    return STATUS_OK;
}

enum status tfrecord_reader_skim(struct tfrecord_reader *reader, size_t max_bytes,
                                 const uint8_t **data, size_t *n_bytes, size_t *length)
{
    struct stat info;
    size_t whole = 0;

    TRY(read_header(reader, &whole));
    *length = whole - TFRECORD_OVERHEAD_BYTES;
    *n_bytes = *length < max_bytes ? *length : max_bytes;
    TRY(fill(reader, *n_bytes + HEADER_BYTES));
    if (fstat(reader->file, &info) != 0)
        FAIL(STATUS_IO, "'%s': %s", reader->path, strerror(errno));
    if ((uint64_t)info.st_size < reader->offset + whole || reader->n < *n_bytes + HEADER_BYTES)
        return torn(reader, whole);
    *data = reader->bytes + reader->first + HEADER_BYTES;
    if (reader->n >= whole) {
        step_over(reader, whole);
        return STATUS_OK;
    }
    if (lseek(reader->file, (off_t)(reader->offset + whole), SEEK_SET) < 0)
        FAIL(STATUS_IO, "'%s': going to byte %llu: %s", reader->path,
             (unsigned long long)(reader->offset + whole), strerror(errno));
    reader->offset += whole;
    reader->n = 0; /* the bytes stay where they are until the next read */
    reader->first = 0;
    return STATUS_OK;
}

uint64_t tfrecord_reader_offset(const struct tfrecord_reader *reader)
{
    return reader->offset;
}

enum status tfrecord_reader_seek(struct tfrecord_reader *reader, uint64_t offset)
{
    if (lseek(reader->file, (off_t)offset, SEEK_SET) < 0)
        FAIL(STATUS_IO, "'%s': going to byte %llu: %s", reader->path, (unsigned long long)offset,
             strerror(errno));
    reader->offset = offset;
    reader->first = reader->n = 0;
    reader->torn = false;
    return STATUS_OK;
}

bool tfrecord_reader_torn(const struct tfrecord_reader *reader)
{
    return reader->torn;
}

void tfrecord_reader_close(struct tfrecord_reader **reader)
{
    if (reader == NULL || *reader == NULL)
        return;
    if ((*reader)->file >= 0)
        close((*reader)->file);
    memory_free((*reader)->path);
    memory_free((*reader)->bytes);
    memory_free(*reader);
    *reader = NULL;
}
