/* ibot-index: reads a data set's folders once and writes its index; --verify decodes every image.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "loader/image.h"
#include "loader/index.h"
#include "proto/base/clock.h"
#include "proto/base/cpus.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/options.h"
#include "proto/config/stop.h"

enum { MAX_NAMED = 10 /* empty classes */, MAX_THREADS = 1024, PROGRESS_MS = 200 };

struct index_options {
    const char *output;
    bool verify;
    int32_t threads;
};

static const struct option_spec specs[] = {
    {.name = "output",
     .type = OPTION_STRING,
     .letter = 'o',
     .offset = offsetof(struct index_options, output),
     .argument = "FILE",
     .group = "Options",
     .help =
         "where to write the index; default: " INDEX_FILE_NAME " in a folder, DATA" INDEX_FILE_NAME
         " beside a file, or in the user's cache (~/.cache/ibot) where that can't be written; "
         "loaders look in both"},
    {.name = "verify",
     .type = OPTION_BOOL,
     .offset = offsetof(struct index_options, verify),
     .text = "off",
     .help = "also decode every image and list the bad ones; exit status 1 when there are any. "
             "Damaged ones that a decoder repairs, and that are used, are listed too"},
    {.name = "threads",
     .type = OPTION_INT32,
     .offset = offsetof(struct index_options, threads),
     .text = "0",
     .minimum = 0,
     .maximum = MAX_THREADS,
     .help = "threads that --verify decodes with; 0: one per core"},
};

static const struct options_program program = {
    .name = "ibot-index",
    .summary = "Index a data set, so that loaders open it at once.",
    .epilogue =
        "DATA is one of\n"
        "  a folder with a folder of images for each class\n"
        "  a folder of images\n"
        "  a tar archive, or a folder of them, read without unpacking: WebDataset shards (classes "
        "from .cls files), ILSVRC2012_img_train.tar as downloaded, archives of class folders\n"
        "  a text file with the path of an image in each line, and perhaps a class number behind "
        "it\n\n"
        "Loaders do without an index by reading all that at each start; with millions of images "
        "the index opens at once.\n\n"
        "  ibot-index /data/imagenet/train\n"
        "  ibot-index --verify /data/ILSVRC2012_img_train.tar",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .positional = "DATA",
    .min_positional = 1,
    .max_positional = 1,
};

/* context: the flag of stop_on_signals. */
static int show_progress(void *context, uint64_t n_found)
{
    const atomic_int *stop = context;
    char line[80];

    snprintf(line, sizeof(line), "%llu images found", (unsigned long long)n_found);
    log_status_line(line);
    return atomic_load(stop);
}

/* What the threads of --verify share. */
struct verification {
    const struct index *index;
    const atomic_int *stop;
    atomic_uint_fast64_t next, n_done, n_bad, n_repaired;
    atomic_int n_running, n_failed;
};

/* Says what was decoded in spite of damage. */
static void tell_repaired(const struct image_place *place, uint32_t n_repairs)
{
    bool part = place->name != NULL && place->name[0] != '\0';

    printf("image '%s'%s%s%s: damaged in %u places, repaired and used\n",
           part ? place->name : place->path, part ? " in '" : "", part ? place->path : "",
           part ? "'" : "", n_repairs);
}

/* One thread: takes images by turns, prints the bad ones to stdout. */
static enum status verify_images(struct verification *v)
{
    struct image_decoder *decoder = NULL;
    struct image image = {0};
    char path[INDEX_MAX_PATH_BYTES];
    struct image_place place;
    uint64_t n = v->index->header->n_samples, i;
    enum status status = image_decoder_open(&decoder);

    while (status == STATUS_OK && atomic_load(v->stop) == 0 &&
           (i = atomic_fetch_add(&v->next, 1)) < n) {
        TRY_OUT(index_image(v->index, (uint32_t)i, path, &place));
        status = image_read(decoder, &place, &image);
        if (status == STATUS_NO_MEMORY)
            break;
        if (status != STATUS_OK) {
            printf("%s\n", status_message());
            atomic_fetch_add(&v->n_bad, 1);
        } else if (image_decoder_repairs(decoder) > 0) {
            tell_repaired(&place, image_decoder_repairs(decoder));
            atomic_fetch_add(&v->n_repaired, 1);
        }
        status = STATUS_OK;
        atomic_fetch_add(&v->n_done, 1);
    }
out:
    image_decoder_close(&decoder);
    image_release(&image);
    return status;
}

static void *verify_main(void *argument)
{
    struct verification *v = argument;

    if (verify_images(v) != STATUS_OK) { /* no memory */
        log_error("%s", status_message());
        atomic_fetch_add(&v->n_failed, 1);
    }
    atomic_fetch_sub(&v->n_running, 1);
    return NULL;
}

static void show_verification(const struct verification *v, int64_t start_ns)
{
    uint64_t n_done = atomic_load(&v->n_done), n = v->index->header->n_samples;
    double seconds = 1e-9 * (double)(clock_monotonic_ns() - start_ns);
    double rate = (double)n_done / (seconds > 0.0 ? seconds : 1.0);
    char line[160];

    snprintf(line, sizeof(line),
             "%llu of %llu images decoded, %llu bad, %.0f a second, %.0f s left",
             (unsigned long long)n_done, (unsigned long long)n,
             (unsigned long long)atomic_load(&v->n_bad), rate,
             rate > 0.0 ? (double)(n - n_done) / rate : 0.0);
    log_status_line(line);
}

/* Decodes everything. */
static enum status verify(const struct index *index, int32_t n_threads, uint64_t *n_bad,
                          const atomic_int *stop)
{
    struct verification v = {.index = index, .stop = stop};
    pthread_t threads[MAX_THREADS];
    int32_t n_started = 0;
    int64_t start_ns = clock_monotonic_ns();

    if (n_threads == 0)
        n_threads = cpus_usable() < MAX_THREADS ? cpus_usable() : MAX_THREADS;
    for (; n_started < n_threads; n_started++) {
        atomic_fetch_add(&v.n_running, 1);
        if (pthread_create(&threads[n_started], NULL, verify_main, &v) != 0) {
            atomic_fetch_sub(&v.n_running, 1);
            break;
        }
    }
    while (atomic_load(&v.n_running) > 0) {
        show_verification(&v, start_ns);
        struct timespec wait = {0, PROGRESS_MS * 1000000};
        nanosleep(&wait, NULL);
    }
    for (int32_t i = 0; i < n_started; i++)
        pthread_join(threads[i], NULL);
    log_status_line(NULL);
    *n_bad = atomic_load(&v.n_bad);
    if (atomic_load(&v.n_repaired) > 0)
        log_info("damaged images, used as their decoder repairs them: %llu",
                 (unsigned long long)atomic_load(&v.n_repaired));
    if (n_started == 0)
        FAIL(STATUS_NO_MEMORY, "no thread could be started");
    if (atomic_load(&v.n_failed) == n_started)
        FAIL(STATUS_NO_MEMORY, "no thread could verify to the end: the reasons are above");
    if (atomic_load(stop) != 0)
        FAIL(STATUS_INTERRUPTED, "stopped after %llu of %llu images",
             (unsigned long long)atomic_load(&v.n_done),
             (unsigned long long)index->header->n_samples);
    return STATUS_OK;
}

/* What a user should know about the folders. */
static enum status warn(const struct index *index, const char *root)
{
    uint32_t n_classes = index->header->n_classes, n_empty = 0;
    uint64_t *counts;

    TRY(memory_alloc(&counts, n_classes, sizeof(*counts), "class counts"));
    index_class_counts(index, counts);
    for (uint32_t i = 0; i < n_classes; i++)
        if (counts[i] == 0 && ++n_empty <= MAX_NAMED)
            log_warning("class '%s' has no images", index_class_name(index, i));
    memory_free(counts);
    if (n_empty > MAX_NAMED)
        log_warning("%u classes in all have no images", n_empty);
    if (index->n_ignored > 0)
        log_warning("%llu images beside the class folders of '%s' are ignored",
                    (unsigned long long)index->n_ignored, root);
    return STATUS_OK;
}

/* To the place asked for; by default into the data set, or else the cache. */
static enum status write_index(const struct index *index, const char *root, const char *output,
                               char *path, size_t size)
{
    if (output != NULL) {
        snprintf(path, size, "%s", output);
        return index_write(index, output);
    }
    TRY(index_place(root, false, path, size));
    if (index_write(index, path) == STATUS_OK)
        return STATUS_OK;
    log_warning("%s", status_message());
    TRY(index_place(root, true, path, size));
    return index_write_below(index, path);
}

static enum status run(const struct index_options *options, const char *root, uint64_t *n_bad,
                       const atomic_int *stop)
{
    char path[INDEX_MAX_PATH_BYTES] = "";
    struct index index = {0};
    enum status status = index_build(&index, root, show_progress, (void *)(uintptr_t)stop);

    log_status_line(NULL);
    if (status == STATUS_OK)
        status = warn(&index, root);
    if (status == STATUS_OK && options->verify) {
        status = image_library_start("ibot-index");
        if (status == STATUS_OK)
            status = verify(&index, options->threads, n_bad, stop);
    }
    if (status == STATUS_OK)
        status = write_index(&index, root, options->output, path, sizeof(path));
    if (status == STATUS_OK)
        printf("%s: %llu images in %u classes, digest %016llx\n", path,
               (unsigned long long)index.header->n_samples, index.header->n_classes,
               (unsigned long long)index.header->digest);
    index_close(&index);
    return status;
}

int main(int argc, char **argv)
{
    struct index_options values;
    struct options options = {0};
    uint64_t n_bad = 0;

    log_start("ibot-index", LOG_INFO);
    const atomic_int *stop = stop_on_signals();
    enum status status = options_parse(&options, &program, &values, argc, argv);
    if (status == STATUS_OK && !options.finished)
        status = run(&values, options.positional[0], &n_bad, stop);
    if (status != STATUS_OK)
        log_error("%s", status_message());
    if (n_bad > 0)
        log_warning("%llu images are bad: they are listed above", (unsigned long long)n_bad);
    options_release(&options);
    return status == STATUS_OK && n_bad > 0 ? 1 : status_exit_code(status);
}
