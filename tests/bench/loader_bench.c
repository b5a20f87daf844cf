/* What a core makes of a folder of images: whole samples (decode, crops, colour, masks) against
 * bare decoding by libjpeg-turbo of the same files, by turns in one run. Rates are per second of
 * processor time, so that a busy machine does not count. */
#include <pthread.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jpeglib.h>

#include "loader/view.h"
#include "proto/base/clock.h"
#include "proto/base/memory.h"
#include "proto/config/options.h"

enum { MAX_THREADS = 256, MAX_ROUNDS = 64 };

struct bench_options {
    int32_t threads, rounds, local_crops_number, epochs;
    int photometric;
    bool json;
};

#define AT(field) .offset = offsetof(struct bench_options, field)

static const char *const places[] = {"loader", "trainer", NULL};

static const struct option_spec specs[] = {
    {.name = "threads",
     .type = OPTION_INT32,
     AT(threads),
     .text = "1",
     .minimum = 1,
     .maximum = MAX_THREADS,
     .argument = "N",
     .group = "Options",
     .help = "worker threads"},
    {.name = "rounds",
     .type = OPTION_INT32,
     AT(rounds),
     .text = "5",
     .minimum = 1,
     .maximum = MAX_ROUNDS,
     .argument = "N",
     .help = "turns of each kind; the median counts"},
    {.name = "epochs",
     .type = OPTION_INT32,
     AT(epochs),
     .text = "4",
     .minimum = 1,
     .maximum = 1000,
     .argument = "N",
     .help = "times that a turn goes through all images"},
    {.name = "local_crops_number",
     .type = OPTION_INT32,
     AT(local_crops_number),
     .text = "10",
     .minimum = 0,
     .maximum = 30,
     .argument = "N",
     .help = "local crops of 96 px, beside two of 224 px"},
    {.name = "photometric",
     .type = OPTION_CHOICE,
     AT(photometric),
     .choices = places,
     .text = "loader",
     .help = "who applies jitter, grayscale, blur and solarisation"},
    {.name = "json", .type = OPTION_BOOL, AT(json), .text = "off", .help = "print one JSON object"},
};

static const struct options_program program = {
    .name = "loader_bench",
    .summary = "Time the making of samples from the images in DIR.",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .positional = "DIR",
    .min_positional = 1,
    .max_positional = 1,
};

struct file {
    uint8_t *bytes;
    size_t n_bytes;
};

struct bench {
    struct bench_options options;
    struct index index;
    struct order *order;
    struct data_spec spec;
    struct file *jpegs;
    uint32_t n_jpegs;
};

struct worker {
    const struct bench *bench;
    pthread_t thread;
    int number;
    bool decode_only;
    uint64_t n_images;
    double cpu_seconds;
    int64_t stage_ns[VIEW_STAGES];
};

static void stop_on(enum status status)
{
    if (status == STATUS_OK)
        return;
    fprintf(stderr, "loader_bench: %s\n", status_message());
    exit(status_exit_code(status));
}

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void ignore_message(j_common_ptr info)
{
    (void)info;
}

/* What Pillow and every other reader asks of the library, no more. */
static void decode_only(struct worker *worker)
{
    const struct bench *bench = worker->bench;
    struct jpeg_decompress_struct decoder;
    struct jpeg_error_mgr errors;
    static _Thread_local uint8_t line[3 * 65536];
    JSAMPROW rows[1] = {line};

    decoder.err = jpeg_std_error(&errors);
    errors.output_message = ignore_message;
    jpeg_create_decompress(&decoder);
    for (int32_t epoch = 0; epoch < bench->options.epochs; epoch++)
        for (uint32_t i = (uint32_t)worker->number; i < bench->n_jpegs;
             i += (uint32_t)bench->options.threads) {
            jpeg_mem_src(&decoder, bench->jpegs[i].bytes, bench->jpegs[i].n_bytes);
            jpeg_read_header(&decoder, TRUE);
            if (decoder.num_components == 4)
                decoder.out_color_space = JCS_CMYK;
            else
                decoder.out_color_space = JCS_RGB;
            jpeg_start_decompress(&decoder);
            if ((size_t)decoder.output_components * decoder.output_width <= sizeof(line))
                while (decoder.output_scanline < decoder.output_height)
                    jpeg_read_scanlines(&decoder, rows, 1);
            jpeg_abort_decompress(&decoder);
            worker->n_images++;
        }
    jpeg_destroy_decompress(&decoder);
}

static void make_samples(struct worker *worker)
{
    const struct bench *bench = worker->bench;
    struct view_maker maker;
    struct batch_sample sample;
    uint8_t *record;

    stop_on(view_maker_open(&maker, &bench->index, bench->order));
    stop_on(memory_alloc(&record, 1, data_spec_record_bytes(&bench->spec), "record"));
    for (int32_t epoch = 0; epoch < bench->options.epochs; epoch++)
        for (uint64_t i = (uint64_t)worker->number; i < bench->index.header->n_samples;
             i += (uint64_t)bench->options.threads) {
            stop_on(view_make(&maker, &bench->spec, epoch, i, record, &sample, NULL, NULL));
            worker->n_images++;
        }
    for (int i = 0; i < VIEW_STAGES; i++)
        worker->stage_ns[i] += maker.stage_ns[i];
    memory_free(record);
    view_maker_close(&maker);
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    double start = cpu_seconds();

    if (worker->decode_only)
        decode_only(worker);
    else
        make_samples(worker);
    worker->cpu_seconds = cpu_seconds() - start;
    return NULL;
}

/* One turn of all threads. Images per second of processor time; wall: per second. */
static double turn(const struct bench *bench, bool decode_only, double *wall,
                   double stage_ms[VIEW_STAGES])
{
    static struct worker workers[MAX_THREADS];
    uint64_t n_images = 0;
    double cpu = 0.0;
    int64_t start_ns = clock_monotonic_ns();

    for (int i = 0; i < bench->options.threads; i++) {
        workers[i] = (struct worker){.bench = bench, .number = i, .decode_only = decode_only};
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            exit(1);
    }
    for (int i = 0; i < bench->options.threads; i++) {
        pthread_join(workers[i].thread, NULL);
        n_images += workers[i].n_images;
        cpu += workers[i].cpu_seconds;
    }
    *wall = (double)n_images / (1e-9 * (double)(clock_monotonic_ns() - start_ns));
    for (int s = 0; s < VIEW_STAGES; s++) {
        int64_t ns = 0;
        for (int i = 0; i < bench->options.threads; i++)
            ns += workers[i].stage_ns[s];
        stage_ms[s] = 1e-6 * (double)ns / (double)n_images;
    }
    return (double)n_images / cpu;
}

static void read_jpegs(struct bench *bench)
{
    char path[INDEX_MAX_PATH_BYTES];
    struct image_place place;
    uint64_t n = bench->index.header->n_samples;

    stop_on(memory_alloc(&bench->jpegs, n, sizeof(*bench->jpegs), "files"));
    for (uint32_t i = 0; i < n; i++) {
        struct file *file = &bench->jpegs[bench->n_jpegs];
        stop_on(index_image(&bench->index, i, path, &place));
        FILE *stream = fopen(path, "rb");
        if (stream == NULL)
            continue;
        size_t size = bench->index.entries[i].size;
        stop_on(memory_alloc(&file->bytes, size + 1, 1, "file"));
        if (fseek(stream, (long)place.offset, SEEK_SET) != 0)
            exit(1);
        file->n_bytes = fread(file->bytes, 1, size, stream);
        fclose(stream);
        if (file->n_bytes > 2 && file->bytes[0] == 0xff && file->bytes[1] == 0xd8)
            bench->n_jpegs++;
        else
            memory_free(file->bytes);
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof(*values), compare);
    return values[n / 2];
}

static void report(const struct bench *bench, double made, double decoded, double wall,
                   const double stage_ms[VIEW_STAGES])
{
    const char *kernels = pixel_kernels_best()->name;
    bool json = bench->options.json;

    printf(json ? "{\"threads\": %d, \"images\": %llu, \"kernels\": \"%s\", "
                : "threads: %d\nimages: %llu\nkernels: %s\n",
           bench->options.threads, (unsigned long long)bench->index.header->n_samples, kernels);
    printf(json ? "\"images_per_second_per_core\": %.2f, \"images_per_second\": %.2f, "
                  "\"decode_only_per_second_per_core\": %.2f, \"share_of_decode_only\": %.3f, "
                  "\"stage_ms\": {"
                : "images_per_second_per_core: %.2f\nimages_per_second: %.2f\n"
                  "decode_only_per_second_per_core: %.2f\nshare_of_decode_only: %.3f\n"
                  "milliseconds of an image:\n",
           made, wall, decoded, made / decoded);
    for (int i = 0; i < VIEW_STAGES; i++)
        printf(json ? "%s\"%s\": %.4f" : "%s  %-9s %.4f\n", json && i > 0 ? ", " : "",
               view_stage_names[i], stage_ms[i]);
    if (json)
        printf("}}\n");
}

int main(int argc, char **argv)
{
    static struct bench bench;
    struct options options = {0};
    double made[MAX_ROUNDS], decoded[MAX_ROUNDS], walls[MAX_ROUNDS], ignored;
    double stage_ms[VIEW_STAGES], ignored_ms[VIEW_STAGES];

    stop_on(options_parse(&options, &program, &bench.options, argc, argv));
    if (options.finished)
        return 0;
    stop_on(image_library_start("loader_bench"));
    stop_on(index_build(&bench.index, options.positional[0], NULL, NULL));
    stop_on(order_open(&bench.order, (uint32_t)bench.index.header->n_samples));
    bench.spec = data_spec_default();
    bench.spec.n_local = bench.options.local_crops_number;
    bench.spec.global_scale[0] = 0.25f;
    bench.spec.global_scale[1] = 1.0f;
    bench.spec.local_scale[0] = 0.05f;
    bench.spec.local_scale[1] = 0.25f;
    bench.spec.photometric = (enum photometric_place)bench.options.photometric;
    stop_on(data_spec_check(&bench.spec));
    read_jpegs(&bench);
    for (int i = 0; i < bench.options.rounds; i++) {
        made[i] = turn(&bench, false, &walls[i], stage_ms);
        decoded[i] = turn(&bench, true, &ignored, ignored_ms);
    }
    int n = bench.options.rounds;
    report(&bench, median(made, n), median(decoded, n), median(walls, n), stage_ms);
    for (uint32_t i = 0; i < bench.n_jpegs; i++)
        memory_free(bench.jpegs[i].bytes);
    memory_free(bench.jpegs);
    order_close(&bench.order);
    index_close(&bench.index);
    options_release(&options);
    return 0;
}
