/* A stored training run, step by step: the model is opened as the file says, its steps are made
 * with the file's crops and masks, and every value that the file has is compared. */
#ifndef IBOT_TESTS_TRAINER_GOLDEN_REPLAY_H
#define IBOT_TESTS_TRAINER_GOLDEN_REPLAY_H

#include "ops/collective.h"
#include "ops/op_table.h"
#include "trainer/model/ibot.h"
#include "trainer/train/schedule.h"
#include "trainer/weights/safetensors.h"

struct worst {
    const char *category;
    double error; /* as a share of its tolerance */
    double relative;
    char name[256];
    int64_t n_tensors;
};

enum { N_CATEGORIES = 7 };

/* What computes, and how near it must come: a tolerance of float32 on the CPU is multiplied by the
 * category's slack. */
struct golden_backend {
    const struct op_table *ops;
    enum status (*open)(struct device *);
    enum ibot_precision precision, residual_stream;
    bool record_steps, skip_dropped;
    double slack[N_CATEGORIES];
};

struct golden {
    struct safetensors file;
    struct ibot_options options;
    struct schedule schedule;
    int32_t n_steps;
    double slack[N_CATEGORIES];
    struct device device;
    struct collective collective;
    struct ibot *ibot;
    struct tensor on_device[2]; /* global and local crops */
    struct worst worst[N_CATEGORIES];
    bool *used; /* of each tensor of the file: it was read */
    uint8_t *masks, *keep_globals, *keep_locals;
    float *globals, *locals, *values;
};

/* Opens file and model, loads the initial weights, compares the schedules. Release in any case.
 * backend NULL: the CPU. */
enum status golden_open(struct golden *golden, const char *path,
                        const struct golden_backend *backend) IBOT_WARN_UNUSED;

/* Makes step k and compares what it gave. */
enum status golden_step(struct golden *golden, int32_t k) IBOT_WARN_UNUSED;

/* Compares the weights after the last step; every tensor of the file must have been compared. */
enum status golden_finish(struct golden *golden) IBOT_WARN_UNUSED;

/* Prints the worst of each category; whether all are within tolerance. */
bool golden_report(const struct golden *golden);
void golden_release(struct golden *golden);

#endif
