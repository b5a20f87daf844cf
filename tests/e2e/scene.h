/* What the end-to-end tests share: a temporary folder with a small set of photographs made up for
 * the occasion, a tiny run, and what a run left behind. */
#ifndef IBOT_TESTS_E2E_SCENE_H
#define IBOT_TESTS_E2E_SCENE_H

#include <stdint.h>

#include "tests/e2e/process.h"

enum {
    SCENE_IMAGES = 48,
    SCENE_BATCH = 8,
    SCENE_EPOCHS = 3,
    SCENE_STEPS = SCENE_EPOCHS * (SCENE_IMAGES / SCENE_BATCH),
    SCENE_AHEAD = 4096 / 19, /* "0 0123456789abcdef\n" and longer ones */
    SCENE_SECONDS = 120,     /* patience with a whole run, sanitizers on a busy machine included */
};

struct scene {
    char folder[64];
    char data[96];    /* SCENE_IMAGES JPEG files in four classes */
    char recipe[96];  /* run file of the tiny run */
    char *paths[512]; /* handed out by scene_path */
    int n_paths;
};

/* cmocka set-up and tear-down of one test: *state is a struct scene. */
int scene_open(void **state);
int scene_close(void **state);

/* A path in the scene's folder; the scene's until it closes. */
const char *scene_path(struct scene *scene, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* `n` JPEG files of four classes, drawn from `seed`. */
void scene_images(const char *folder, int n, unsigned seed);

/* ibot-train with the tiny recipe, one thread, this run folder and local loaders. */
struct command scene_train(struct scene *scene, const char *run, const char *loaders);

/* Digest of the newest checkpoint of a run: weights, moments, teacher, centres. */
uint64_t scene_final_digest(struct scene *scene, const char *run);

/* Step of the newest good checkpoint. */
int64_t scene_final_step(struct scene *scene, const char *run);

/* Largest difference between two runs' newest checkpoints, tensor by tensor, relative to the
 * tensor's largest magnitude; tensors without gradient in exact arithmetic are left out. */
double scene_difference(struct scene *scene, const char *run_a, const char *run_b);

/* A FIFO at `path`, opened so that it never ends: for --log_digests and process_lines. It holds at
 * most SCENE_AHEAD lines: a trainer is no further ahead of who reads them, however slow that is. */
int scene_fifo(const char *path);

/* A whole file as text; free it. Fails the test when it is missing. */
char *scene_read(const char *path);
void scene_write(const char *path, const char *text);
int scene_exists(const char *path);
int scene_count_lines(const char *text);

#endif
