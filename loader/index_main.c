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
         "where to write the index; default: " INDEX_FILE_NAME " in DIR, where loaders find it"},
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
        if (image_read(decoder, path, &image) != STATUS_OK) {
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

static enum status run(const struct index_options *options, const char *root, uint64_t *n_bad)
{
    char path[INDEX_MAX_PATH_BYTES];
    struct index index = {0};
    enum status status = index_build(&index, root, show_progress, NULL);

    log_status_line(NULL);
    if (status == STATUS_OK && options->verify) {
        status = image_library_start("ibot-index");
        if (status == STATUS_OK)
            status = verify(&index, n_bad);
    }
    snprintf(path, sizeof(path), "%s/%s", root, INDEX_FILE_NAME);
    if (status == STATUS_OK)
        status = index_write(&index, options->output != NULL ? options->output : path);
    if (status == STATUS_OK)
        printf("%s: %llu images in %u classes, digest %016llx\n",
               options->output != NULL ? options->output : path,
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
