#include "tests/e2e/scene.h"

#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jpeglib.h>

#include "trainer/checkpoint.h"

static const char tiny[] = "# A run of a few seconds: every part is in it, small.\n"
                           "arch: vit_test\n"
                           "embed_dim: 32\n"
                           "depth: 2\n"
                           "num_heads: 2\n"
                           "patch_size: 8\n"
                           "out_dim: 48\n"
                           "head_hidden_dim: 40\n"
                           "bottleneck_dim: 16\n"
                           "norm_last_layer: on\n"
                           "drop_path: 0.2\n"
                           "global_crop_size: 32\n"
                           "global_crops_scale: [0.4, 1]\n"
                           "local_crops_number: 2\n"
                           "local_crop_size: 16\n"
                           "local_crops_scale: [0.1, 0.4]\n"
                           "warmup_teacher_temp_epochs: 1\n"
                           "lr: 0.01\n"
                           "warmup_epochs: 1\n"
                           "batch_size_per_gpu: 8\n"
                           "slice_size: 3\n"
                           "epochs: 3\n"
                           "threads: 1\n";

const char *scene_path(struct scene *scene, const char *format, ...)
{
    char name[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(name, sizeof(name), format, arguments);
    va_end(arguments);
    assert_true(scene->n_paths < (int)(sizeof(scene->paths) / sizeof(scene->paths[0])));
    char **out = &scene->paths[scene->n_paths++];
    assert_true(asprintf(out, "%s/%s", scene->folder, name) > 0);
    return *out;
}

/* Waves and blocks: enough to tell images apart, and to compress like a photograph. */
static void write_jpeg(const char *path, unsigned seed)
{
    int width = 40 + (int)(seed % 5) * 7, height = 36 + (int)(seed % 7) * 5;
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    JSAMPLE row[3 * 128];
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_stdio_dest(&jpeg, file);
    jpeg.image_width = (JDIMENSION)width;
    jpeg.image_height = (JDIMENSION)height;
    jpeg.input_components = 3;
    jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, 90, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++)
                row[3 * x + c] = (JSAMPLE)(128.0 + 60.0 * sin(0.1 * (seed % 11 + 1) * x + c) +
                                           50.0 * cos(0.07 * (seed % 13 + 1) * y + seed));
        JSAMPROW rows[1] = {row};
        jpeg_write_scanlines(&jpeg, rows, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    fclose(file);
}

void scene_images(const char *folder, int n, unsigned seed)
{
    char path[256];

    mkdir(folder, 0777);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof(path), "%s/class%d", folder, i % 4);
        mkdir(path, 0777);
        snprintf(path, sizeof(path), "%s/class%d/image%03d.jpg", folder, i % 4, i);
        write_jpeg(path, seed + (unsigned)i * 37);
    }
}

int scene_open(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));

    strcpy(scene->folder, "/tmp/ibot-e2e-XXXXXX");
    assert_non_null(mkdtemp(scene->folder));
    snprintf(scene->data, sizeof(scene->data), "%s/images", scene->folder);
    snprintf(scene->recipe, sizeof(scene->recipe), "%s/tiny.yaml", scene->folder);
    scene_images(scene->data, SCENE_IMAGES, 1);
    scene_write(scene->recipe, tiny);
    *state = scene;
    return 0;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info, (void)kind, (void)where;
    return remove(path);
}

int scene_close(void **state)
{
    struct scene *scene = *state;

    nftw(scene->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    for (int i = 0; i < scene->n_paths; i++)
        free(scene->paths[i]);
    free(scene);
    return 0;
}

struct command scene_train(struct scene *scene, const char *run, const char *loaders)
{
    return command_of("ibot-train", "--config", scene->recipe, "--data", scene->data, "--loaders",
                      loaders, "--output_dir", scene_path(scene, "%s", run), NULL);
}

static void open_newest(struct scene *scene, const char *run, struct checkpoint *checkpoint)
{
    if (checkpoint_open(checkpoint, scene_path(scene, "%s", run)) != STATUS_OK)
        fail_msg("%s", status_message());
}

uint64_t scene_final_digest(struct scene *scene, const char *run)
{
    struct checkpoint checkpoint;

    open_newest(scene, run, &checkpoint);
    uint64_t digest = safetensors_digest(&checkpoint.model);
    checkpoint_close(&checkpoint);
    return digest;
}

int64_t scene_final_step(struct scene *scene, const char *run)
{
    struct checkpoint checkpoint;

    open_newest(scene, run, &checkpoint);
    int64_t step = json_integer_value(json_object_get(checkpoint.json, "step"));
    checkpoint_close(&checkpoint);
    return step;
}

/* The key third of a qkv bias cancels in the softmax: what moves it is rounding, which Adam
 * magnifies. */
static double tensor_difference(const char *name, const struct tensor *a, const struct tensor *b)
{
    int64_t n = tensor_n_elements(a), third = n / 3;
    bool key = strstr(name, "attn.qkv.bias") != NULL;
    const float *x = a->data, *y = b->data;
    double largest = 0.0, error = 0.0;

    for (int64_t i = 0; i < n; i++) {
        if (key && i >= third && i < 2 * third)
            continue;
        assert_true(isfinite(x[i]) && isfinite(y[i]));
        largest = fmax(largest, fabs((double)x[i]));
        error = fmax(error, fabs((double)x[i] - (double)y[i]));
    }
    return largest > 0.0 ? error / largest : error;
}

double scene_difference(struct scene *scene, const char *run_a, const char *run_b)
{
    struct checkpoint a, b;
    double worst = 0.0;

    open_newest(scene, run_a, &a);
    open_newest(scene, run_b, &b);
    assert_int_equal(a.model.n_entries, b.model.n_entries);
    for (size_t i = 0; i < a.model.n_entries; i++) {
        const struct safetensors_entry *one = &a.model.entries[i];
        const struct safetensors_entry *other = safetensors_find(&b.model, one->name);
        assert_non_null(other);
        if (strncmp(one->name, "student.", 8) != 0 && strncmp(one->name, "teacher.", 8) != 0 &&
            strncmp(one->name, "centre.", 7) != 0)
            continue;
        double difference = tensor_difference(one->name, &one->tensor, &other->tensor);
        if (difference > worst) {
            worst = difference;
            print_message("%s: %.3g\n", one->name, difference);
        }
    }
    checkpoint_close(&a);
    checkpoint_close(&b);
    return worst;
}

int scene_fifo(const char *path)
{
    assert_int_equal(mkfifo(path, 0600), 0);
    int fifo = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    assert_true(fifo >= 0);
    assert_true(fcntl(fifo, F_SETPIPE_SZ, 4096) > 0);
    return fifo;
}

char *scene_read(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    size_t capacity = 0;

    if (file == NULL)
        fail_msg("'%s' is missing", path);
    ssize_t n = getdelim(&text, &capacity, '\0', file);
    fclose(file);
    if (n < 0) {
        free(text);
        text = calloc(1, 1);
    }
    return text;
}

void scene_write(const char *path, const char *text)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

int scene_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

int scene_count_lines(const char *text)
{
    int n = 0;

    for (; *text != '\0'; text++)
        n += *text == '\n';
    return n;
}
