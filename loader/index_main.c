/* ibot-index: reads a data set's folders once and writes its index; --verify decodes every image.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "loader/image.h"
#include "loader/index.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/options.h"

enum { MAX_NAMED = 10 }; /* empty classes */

struct index_options {
    const char *output;
    bool verify;
};

static const struct option_spec specs[] = {
    {.name = "output",
     .type = OPTION_STRING,
     .letter = 'o',
     .offset = offsetof(struct index_options, output),
     .argument = "FILE",
     .group = "Options",
     .help =
         "where to write the index; default: " INDEX_FILE_NAME " in DIR, or in the user's cache "
         "(~/.cache/ibot) when DIR can't be written to; loaders look in both"},
    {.name = "verify",
     .type = OPTION_BOOL,
     .offset = offsetof(struct index_options, verify),
     .text = "off",
     .help = "also decode every image and list the bad ones; exit status 1 when there are any"},
};

static const struct options_program program = {
    .name = "ibot-index",
    .summary = "Index a data set: one folder per class, or a folder of images.",
    .epilogue =
        "Loaders do without an index by reading the folders at each start; with millions of "
        "images the index opens at once.\n\n  ibot-index /data/imagenet/train",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .positional = "DIR",
    .min_positional = 1,
    .max_positional = 1,
};

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
    (void)signal;
    stopped = 1;
}

static int show_progress(void *context, uint64_t n_found)
{
    char line[80];

    (void)context;
    snprintf(line, sizeof(line), "%llu images found", (unsigned long long)n_found);
    log_status_line(line);
    return stopped;
}

/* Decodes everything; prints the bad ones to stdout. */
static enum status verify(const struct index *index, uint64_t *n_bad)
{
    struct image_decoder *decoder = NULL;
    struct image image = {0};
    char path[INDEX_MAX_PATH_BYTES];
    enum status status = image_decoder_open(&decoder);

    for (uint32_t i = 0; i < index->header->n_samples && status == STATUS_OK; i++) {
        if (stopped)
            FAIL_OUT(STATUS_INTERRUPTED, "stopped after %u of %llu images", i,
                     (unsigned long long)index->header->n_samples);
        TRY_OUT(index_path(index, i, path, sizeof(path)));
        if (image_read(decoder, &(struct image_place){.path = path}, &image) != STATUS_OK) {
            printf("%s\n", status_message());
            ++*n_bad;
        }
        if (i % 500 == 0) {
            char line[120];
            snprintf(line, sizeof(line), "%u of %llu images decoded, %llu bad", i,
                     (unsigned long long)index->header->n_samples, (unsigned long long)*n_bad);
            log_status_line(line);
        }
    }
out:
    log_status_line(NULL);
    image_decoder_close(&decoder);
    image_release(&image);
    return status;
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

static enum status run(const struct index_options *options, const char *root, uint64_t *n_bad)
{
    char path[INDEX_MAX_PATH_BYTES] = "";
    struct index index = {0};
    enum status status = index_build(&index, root, show_progress, NULL);

    log_status_line(NULL);
    if (status == STATUS_OK)
        status = warn(&index, root);
    if (status == STATUS_OK && options->verify) {
        status = image_library_start("ibot-index");
        if (status == STATUS_OK)
            status = verify(&index, n_bad);
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
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    enum status status = options_parse(&options, &program, &values, argc, argv);
    if (status == STATUS_OK && !options.finished)
        status = run(&values, options.positional[0], &n_bad);
    if (status != STATUS_OK)
        log_error("%s", status_message());
    if (n_bad > 0)
        log_warning("%llu images are bad: they are listed above", (unsigned long long)n_bad);
    options_release(&options);
    return status == STATUS_OK && n_bad > 0 ? 1 : status_exit_code(status);
}
