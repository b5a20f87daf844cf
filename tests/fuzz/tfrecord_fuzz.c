/* Any bytes as a file of records: read to the end, then appended to, which must leave the same
 * whole records and the new one. Each record is also taken for a TensorBoard event. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/base/hash.h"
#include "proto/event.pb-c.h"
#include "proto/wire/tfrecord.h"

enum { MAX_RECORD_BYTES = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

/* Hash and number of the records before the end or the first wrong one. */
static enum status read_all(const char *path, uint64_t *digest, int *n, bool *torn)
{
    struct tfrecord_reader *reader;
    const uint8_t *data;
    size_t n_bytes;
    enum status status;

    *digest = 0;
    *n = 0;
    if (tfrecord_reader_open(&reader, path, MAX_RECORD_BYTES) != STATUS_OK)
        abort();
    while ((status = tfrecord_reader_next(reader, &data, &n_bytes)) == STATUS_OK) {
        *digest = hash_bytes_seeded(data, n_bytes, *digest);
        ++*n;
        Ibot__Event *event = ibot__event__unpack(NULL, n_bytes, data);
        if (event != NULL)
            ibot__event__free_unpacked(event, NULL);
    }
    if (status != STATUS_CLOSED && status != STATUS_CORRUPT)
        abort();
    *torn = tfrecord_reader_torn(reader);
    tfrecord_reader_close(&reader);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    struct tfrecord_writer *writer;
    struct iovec part = {(char[]){"new"}, 3};
    uint64_t digest, digest_again;
    int n, n_again;
    bool torn, torn_again;
    char path[64];
    int descriptor = memfd_create("records", MFD_CLOEXEC);

    if (descriptor < 0 || write(descriptor, bytes, n_bytes) != (ssize_t)n_bytes)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
    enum status status = read_all(path, &digest, &n, &torn);
    if (status == STATUS_CLOSED || torn) {
        if (tfrecord_writer_open(&writer, path, true) != STATUS_OK ||
            tfrecord_writer_put(writer, &part, 1) != STATUS_OK ||
            tfrecord_writer_close(&writer) != STATUS_OK)
            abort();
        if (read_all(path, &digest_again, &n_again, &torn_again) != STATUS_CLOSED ||
            n_again != n + 1 || digest_again != hash_bytes_seeded("new", 3, digest))
            abort();
    }
    close(descriptor);
    return 0;
}
