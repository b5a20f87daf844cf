/* TensorBoard events: protobuf-c messages built on the stack, packed into one buffer that is kept,
 * and put as records. */
#include "trainer/event_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/memory.h"
#include "proto/event.pb-c.h"
#include "proto/wire/tfrecord.h"

enum { MAX_SCALARS = 64, MAX_FILES = 10000 };

struct event_file {
    struct tfrecord_writer *writer;
    uint8_t *buffer;
    size_t capacity;
    char path[4096];
};

static enum status put_event(struct event_file *file, Ibot__Event *event)
{
    event->wall_time = clock_wall_seconds();
    size_t n_bytes = ibot__event__get_packed_size(event);
    TRY(memory_grow(&file->buffer, &file->capacity, n_bytes, 1, "event"));
    struct iovec part = {file->buffer, ibot__event__pack(event, file->buffer)};
    return tfrecord_writer_put(file->writer, &part, 1);
}

/* A name that no other file has, this process's or another's with the same number. */
static enum status choose_path(struct event_file *file, const char *folder)
{
    char host[256] = "localhost";

    if (gethostname(host, sizeof(host) - 1) != 0)
        strcpy(host, "localhost");
    for (int n = 0; n < MAX_FILES; n++) {
        int length =
            snprintf(file->path, sizeof(file->path), "%s/events.out.tfevents.%010lld.%s.%d.%d",
                     folder, (long long)clock_wall_seconds(), host, (int)getpid(), n);
        if (length >= (int)sizeof(file->path))
            FAIL(STATUS_IO, "'%s': the path is too long", folder);
        int created = open(file->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (created >= 0) {
            close(created);
            return STATUS_OK;
        }
        if (errno != EEXIST)
            FAIL(STATUS_IO, "'%s': %s", file->path, strerror(errno));
    }
    FAIL(STATUS_IO, "'%s' has no free name for an event file", folder);
}

enum status event_file_open(struct event_file **out, const char *folder, int64_t first_step)
{
    Ibot__Event version = IBOT__EVENT__INIT, start = IBOT__EVENT__INIT;
    Ibot__SessionLog session = IBOT__SESSION_LOG__INIT;
    struct event_file *file = NULL;
    enum status status = STATUS_OK;

    TRY_OUT(memory_alloc(&file, 1, sizeof(*file), "event file"));
    if (mkdir(folder, 0755) != 0 && errno != EEXIST)
        FAIL_OUT(STATUS_IO, "'%s': %s", folder, strerror(errno));
    TRY_OUT(choose_path(file, folder));
    TRY_OUT(tfrecord_writer_open(&file->writer, file->path, false));
    version.what_case = IBOT__EVENT__WHAT_FILE_VERSION;
    version.file_version = (char[]){"brain.Event:2"};
    TRY_OUT(put_event(file, &version));
    if (first_step > 0) {
        session.status = IBOT__SESSION_LOG__SESSION_STATUS__START;
        start.step = first_step;
        start.what_case = IBOT__EVENT__WHAT_SESSION_LOG;
        start.session_log = &session;
        TRY_OUT(put_event(file, &start));
    }
    *out = file;
    file = NULL;
out:
    if (file != NULL)
        (void)event_file_close(&file); /* the first failure is the one to tell */
    return status;
}

static enum status put_summary(struct event_file *file, int64_t step,
                               Ibot__Summary__Value *const *values, size_t n)
{
    Ibot__Event event = IBOT__EVENT__INIT;
    Ibot__Summary summary = IBOT__SUMMARY__INIT;

    summary.value = (Ibot__Summary__Value **)values;
    summary.n_value = n;
    event.step = step;
    event.what_case = IBOT__EVENT__WHAT_SUMMARY;
    event.summary = &summary;
    return put_event(file, &event);
}

enum status event_file_scalars(struct event_file *file, int64_t step,
                               const struct event_scalar *scalars, size_t n)
{
    Ibot__Summary__Value values[MAX_SCALARS], *pointers[MAX_SCALARS];

    CHECK(n <= MAX_SCALARS, "%zu scalars in an event", n);
    for (size_t i = 0; i < n; i++) {
        values[i] = (Ibot__Summary__Value)IBOT__SUMMARY__VALUE__INIT;
        values[i].tag = (char *)scalars[i].tag;
        values[i].value_case = IBOT__SUMMARY__VALUE__VALUE_SIMPLE_VALUE;
        values[i].simple_value = (float)scalars[i].value;
        pointers[i] = &values[i];
    }
    return put_summary(file, step, pointers, n);
}

static int32_t get_be32(const uint8_t *at)
{
    return (int32_t)((uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3]);
}

/* Size and channels from the header chunk of a PNG file. */
static enum status png_header(Ibot__Summary__Image *image, const uint8_t *png, size_t n_bytes)
{
    static const uint8_t signature[16] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n',
                                          0,    0,   0,   13,  'I',  'H',  'D',  'R'};
    static const int32_t channels[7] = {[0] = 1, [2] = 3, [3] = 3, [4] = 2, [6] = 4};

    if (n_bytes < 26 || memcmp(png, signature, sizeof(signature)) != 0)
        FAIL(STATUS_INVALID, "an image for an event file is not a PNG (%zu bytes)", n_bytes);
    image->width = get_be32(png + 16);
    image->height = get_be32(png + 20);
    image->colorspace = png[25] < 7 ? channels[png[25]] : 0;
    if (image->width <= 0 || image->height <= 0 || image->colorspace == 0)
        FAIL(STATUS_INVALID, "a PNG of %d x %d pixels and colour type %d", image->width,
             image->height, png[25]);
    return STATUS_OK;
}

enum status event_file_image(struct event_file *file, int64_t step, const char *tag,
                             const void *png, size_t n_bytes)
{
    Ibot__Summary__Image image = IBOT__SUMMARY__IMAGE__INIT;
    Ibot__Summary__Value value = IBOT__SUMMARY__VALUE__INIT, *pointer = &value;

    TRY(png_header(&image, png, n_bytes));
    image.encoded_image_string = (ProtobufCBinaryData){n_bytes, (uint8_t *)png};
    value.tag = (char *)tag;
    value.value_case = IBOT__SUMMARY__VALUE__VALUE_IMAGE;
    value.image = &image;
    return put_summary(file, step, &pointer, 1);
}

const char *event_file_path(const struct event_file *file)
{
    return file->path;
}

enum status event_file_close(struct event_file **file)
{
    if (file == NULL || *file == NULL)
        return STATUS_OK;
    enum status status = tfrecord_writer_close(&(*file)->writer);
    memory_free((*file)->buffer);
    memory_free(*file);
    *file = NULL;
    return status;
}
