/* golden_official FILE EPOCH [CHECKPOINT]: the stored training run again, but after EPOCH epochs it
 * is written as a whole checkpoint of the original, read back into a new model, and goes on there:
 * whatever follows must still be what the original computed. With CHECKPOINT, what the original
 * wrote after the last step must hold the state that we end with: weights, moments, centres, steps.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"
#include "tests/trainer/golden_replay.h"
#include "trainer/official_checkpoint.h"

/* What the export asks of the options of a run. */
static void describe(const struct golden *g, struct checkpoint_option options[3])
{
    static const char *const optimizers[] = {"adamw", "sgd", "lars"};

    options[0] = (struct checkpoint_option){.name = "norm_last_layer"};
    options[1] = (struct checkpoint_option){.name = "freeze_last_layer"};
    options[2] = (struct checkpoint_option){.name = "optimizer"};
    snprintf(options[0].text, sizeof(options[0].text), "%s",
             g->options.head.fixed_gains ? "true" : "false");
    snprintf(options[1].text, sizeof(options[1].text), "%d", g->schedule.freeze_last_layer);
    snprintf(options[2].text, sizeof(options[2].text), "%s", optimizers[g->options.optimizer]);
}

/* Saves, exports, and puts what comes back into a new model in the place of the old. */
static enum status hand_over(struct golden *g, int32_t step, const char *folder)
{
    struct checkpoint_state state = {
        .step = step, .steps_per_epoch = g->schedule.steps_per_epoch, .world = 1};
    int64_t frozen = g->schedule.freeze_last_layer * g->schedule.steps_per_epoch;
    struct checkpoint_option options[3];
    struct official_checkpoint official = {0};
    struct checkpoint checkpoint = {0};
    struct state_counts counts;
    struct official_steps steps;
    struct ibot *next = NULL;
    char path[256];
    enum status status;

    describe(g, options);
    snprintf(path, sizeof(path), "%s/checkpoint.pth", folder);
    TRY_OUT(checkpoint_save(folder, g->ibot, &g->device, &state, options, 3));
    TRY_OUT(checkpoint_open(&checkpoint, folder));
    TRY_OUT(official_export(&checkpoint, path));
    TRY_OUT(official_checkpoint_open(&official, path));
    TRY_OUT(ibot_open(&next, &g->device, &op_table_cpu, &g->collective, &g->options));
    TRY_OUT(official_restore(&official, next, &g->device, g->options.head.fixed_gains, &counts,
                             &steps));
    bool adam = g->options.optimizer == OPTIMIZER_ADAMW;
    if (official.epoch * g->schedule.steps_per_epoch != step || steps.known != adam ||
        (adam &&
         (steps.ordinary != step || steps.last_layer != (step > frozen ? step - frozen : 0))))
        FAIL_OUT(STATUS_MISMATCH, "after %d steps: epoch %lld, %lld and %lld steps came back", step,
                 (long long)official.epoch, (long long)steps.ordinary, (long long)steps.last_layer);
    printf("handed over after step %d: %zu tensors\n", step, counts.n_loaded);
    ibot_close(&g->ibot);
    g->ibot = next;
    next = NULL;
out:
    ibot_close(&next);
    official_checkpoint_close(&official);
    checkpoint_close(&checkpoint);
    return status;
}

/* Values n whose difference counts: not the key third of a qkv bias, which is rounding noise. */
static double worst_of(const char *name, const float *a, const float *b, int64_t n)
{
    bool key = strstr(name, "attn.qkv.bias") != NULL;
    double largest = 0.0, error = 0.0;

    for (int64_t i = 0; i < n; i++) {
        if (key && i >= n / 3 && i < 2 * n / 3)
            continue;
        largest = fmax(largest, fabs((double)b[i]));
        error = fmax(error, fabs((double)a[i] - (double)b[i]));
    }
    return largest > 0.0 ? error / largest : error;
}

/* Our state after the last step beside the original's own checkpoint. */
static enum status compare_with_official(struct golden *g, const char *path)
{
    struct official_checkpoint official = {0};
    struct state_counts counts;
    struct official_steps steps;
    struct ibot *theirs = NULL;
    double worst = 0.0;
    size_t n_compared = 0;
    enum status status;

    TRY_OUT(official_checkpoint_open(&official, path));
    TRY_OUT(ibot_open(&theirs, &g->device, &op_table_cpu, &g->collective, &g->options));
    TRY_OUT(official_restore(&official, theirs, &g->device, g->options.head.fixed_gains, &counts,
                             &steps));
    if (steps.ordinary != g->n_steps || official.epoch != g->schedule.epochs)
        FAIL_OUT(STATUS_MISMATCH, "'%s' is of epoch %lld and step %lld", path,
                 (long long)official.epoch, (long long)steps.ordinary);
    for (size_t i = 0; i < ibot_n_state(theirs); i++) {
        struct ibot_state_entry a, b;
        ibot_state(g->ibot, i, &a);
        ibot_state(theirs, i, &b);
        double error = worst_of(a.name, a.tensor.data, b.tensor.data, tensor_n_elements(&a.tensor));
        bool direction = strstr(a.name, "weight_v") != NULL;
        if (!(error <= (direction ? 1e-4 : 1e-5)))
            FAIL_OUT(STATUS_MISMATCH, "'%s' differs from the original's by %.2e", a.name, error);
        worst = direction ? worst : fmax(worst, error);
        n_compared++;
    }
    printf("the original's checkpoint: %zu tensors the same, worst %.2e\n", n_compared, worst);
out:
    ibot_close(&theirs);
    official_checkpoint_close(&official);
    return status;
}

static enum status run(struct golden *g, char **argv, const char *folder)
{
    int32_t at;

    TRY(golden_open(g, argv[1], NULL));
    at = (int32_t)(atoi(argv[2]) * g->schedule.steps_per_epoch);
    if (at < 1 || at >= g->n_steps)
        FAIL(STATUS_INVALID, "epoch %s is not within the run", argv[2]);
    for (int32_t k = 0; k < g->n_steps; k++) {
        if (k == at)
            TRY(hand_over(g, k, folder));
        TRY(golden_step(g, k));
    }
    TRY(golden_finish(g));
    return argv[3] != NULL ? compare_with_official(g, argv[3]) : STATUS_OK;
}

int main(int argc, char **argv)
{
    char folder[] = "/tmp/ibot-official-XXXXXX", command[64];
    struct golden golden = {0};

    if (argc < 3 || argc > 4 || mkdtemp(folder) == NULL) {
        fprintf(stderr, "usage: golden_official FILE EPOCH [CHECKPOINT]\n");
        return 2;
    }
    enum status status = run(&golden, argv, folder);
    if (status != STATUS_OK)
        fprintf(stderr, "golden_official: %s\n", status_message());
    bool good = status == STATUS_OK && golden_report(&golden);
    golden_release(&golden);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command) == 0 && good ? 0 : 1;
}
