/* How long a large index takes to be written and opened, checks and all: class folders as those of
 * ImageNet, or one image after another in archives.
 *
 *   index_bench [millions of images [folder for the file]] */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "loader/index_internal.h"
#include "proto/base/clock.h"

static void stop_on(enum status status)
{
    if (status == STATUS_OK)
        return;
    fprintf(stderr, "index_bench: %s\n", status_message());
    exit(1);
}

static double seconds_since(int64_t start_ns)
{
    return 1e-9 * (double)(clock_monotonic_ns() - start_ns);
}

static void fill(struct index_builder *builder, uint64_t n, bool archives)
{
    enum { PER_CLASS = 1300 };
    char text[64];
    uint64_t nothing, archive = 0;

    stop_on(index_add_string(builder, "", &nothing));
    for (uint64_t i = 0; i < n; i++) {
        unsigned class = (unsigned)(i / PER_CLASS), number = (unsigned)(i % PER_CLASS);
        struct index_entry entry = {.size = 110000, .label = class};
        if (number == 0) {
            snprintf(text, sizeof(text), "n%08u%s", class, archives ? ".tar" : "");
            stop_on(index_add_class(builder, text));
            stop_on(index_add_folder(builder, text, 1));
            archive = builder->folders[builder->n_folders - 1].path;
        }
        if (archives) {
            snprintf(text, sizeof(text), "n%08u_%u.JPEG", class, number);
            entry.path = archive;
            stop_on(index_add_string(builder, text, &entry.name));
        } else {
            snprintf(text, sizeof(text), "n%08u/n%08u_%u.JPEG", class, class, number);
            stop_on(index_add_string(builder, text, &entry.path));
        }
        stop_on(index_add_entry(builder, &entry));
    }
}

int main(int argc, char **argv)
{
    uint64_t n = (uint64_t)(argc > 1 ? atof(argv[1]) * 1e6 : 14e6);
    char path[512];

    snprintf(path, sizeof(path), "%s/index_bench-%d", argc > 2 ? argv[2] : "/tmp", (int)getpid());
    for (int archives = 0; archives < 2; archives++) {
        struct index_builder builder = {.root = "/nowhere"};
        struct index index = {0};
        fill(&builder, n, archives != 0);
        int64_t start_ns = clock_monotonic_ns();
        stop_on(index_lay_out(&builder, &index));
        stop_on(index_write(&index, path));
        double write_seconds = seconds_since(start_ns);
        size_t n_bytes = index.map_bytes;
        index_close(&index);
        index_builder_release(&builder);
        start_ns = clock_monotonic_ns();
        stop_on(index_open(&index, path, "/nowhere"));
        printf("%s: %.1f million images, %.0f MB: written in %.2f s, opened in %.2f s\n",
               archives != 0 ? "archives" : "folders", 1e-6 * (double)n, 1e-6 * (double)n_bytes,
               write_seconds, seconds_since(start_ns));
        index_close(&index);
        unlink(path);
    }
    return 0;
}
