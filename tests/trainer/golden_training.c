/* golden_training FILE [--backend cpu]: replays the training steps stored in a golden file through
 * the model and compares every stored value. Any file of the layout is accepted: all
 * hyper-parameters are in its metadata. Exit 0 only when everything is within tolerance. */
#include <stdio.h>
#include <string.h>

#include "tests/trainer/golden_replay.h"

static enum status run(struct golden *g, const char *path)
{
    TRY(golden_open(g, path));
    for (int32_t k = 0; k < g->n_steps; k++)
        TRY(golden_step(g, k));
    return golden_finish(g);
}

int main(int argc, char **argv)
{
    struct golden golden;

    if (argc != 2 && !(argc == 4 && strcmp(argv[2], "--backend") == 0)) {
        fprintf(stderr, "usage: golden_training FILE [--backend cpu]\n");
        return 2;
    }
    if (argc == 4 && strcmp(argv[3], "cpu") != 0) {
        fprintf(stderr, "golden_training: backend '%s' is not in this build; cpu is\n", argv[3]);
        return 2;
    }
    enum status status = run(&golden, argv[1]);
    if (status != STATUS_OK)
        fprintf(stderr, "golden_training: %s\n", status_message());
    bool good = status == STATUS_OK && golden_report(&golden);
    golden_release(&golden);
    return good ? 0 : 1;
}
