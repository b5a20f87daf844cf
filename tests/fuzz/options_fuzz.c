/* Any bytes as a run file. What is accepted must come back the same from its own dump. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/config/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

struct values {
    bool flag;
    int32_t small;
    int64_t large;
    float single;
    double precise;
    const char *text;
    int gait;
    float ratios[4];
    int32_t n_ratios;
    const char *names[4];
    int32_t n_names;
};

#define AT(field) offsetof(struct values, field)

static const char *const gaits[] = {"walk", "run", "vit_small", NULL};

static const struct option_spec specs[] = {
    {.name = "flag", .type = OPTION_BOOL, .offset = AT(flag), .text = "on", .group = "All"},
    {.name = "small", .type = OPTION_INT32, .offset = AT(small), .text = "5", .maximum = 9},
    {.name = "large", .type = OPTION_INT64, .offset = AT(large), .text = "-5"},
    {.name = "single", .type = OPTION_FLOAT, .offset = AT(single), .text = "0.1"},
    {.name = "precise", .type = OPTION_DOUBLE, .offset = AT(precise), .text = "0.1"},
    {.name = "text", .alias = "t", .type = OPTION_STRING, .offset = AT(text)},
    {.name = "gait", .type = OPTION_CHOICE, .offset = AT(gait), .choices = gaits, .text = "run"},
    {.name = "ratios",
     .type = OPTION_FLOAT_LIST,
     .offset = AT(ratios),
     .count_offset = AT(n_ratios),
     .capacity = 4,
     .maximum = 1},
    {.name = "names",
     .type = OPTION_STRING_LIST,
     .offset = AT(names),
     .count_offset = AT(n_names),
     .capacity = 4},
};

static const struct options_program program = {
    .name = "fuzz", .specs = specs, .n_specs = sizeof(specs) / sizeof(specs[0]), .run_file = true};

static enum status parse(struct options *options, struct values *values, const void *bytes,
                         size_t n_bytes)
{
    char path[64];
    int descriptor = memfd_create("run.yaml", MFD_CLOEXEC);

    if (descriptor < 0 || write(descriptor, bytes, n_bytes) != (ssize_t)n_bytes)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
    enum status status = options_parse_file(options, &program, values, path);
    close(descriptor);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    struct options options, again;
    struct values values, values_again;
    char *dump = NULL;
    size_t dump_bytes = 0;

    if (parse(&options, &values, bytes, n_bytes) != STATUS_OK)
        return 0;
    FILE *stream = open_memstream(&dump, &dump_bytes);
    if (stream == NULL || options_dump(&options, stream) != STATUS_OK || fclose(stream) != 0)
        abort();
    if (parse(&again, &values_again, dump, dump_bytes) != STATUS_OK) {
        fprintf(stderr, "%s\n%s\n", status_message(), dump);
        abort();
    }
    if (options_digest(&options) != options_digest(&again))
        abort();
    free(dump);
    options_release(&options);
    options_release(&again);
    return 0;
}
