/* Steps that a device records once and launches again. A part of a step that is made of the same
 * calls each time is run as it is the first time it comes (plans are made, working memory grows),
 * recorded the second time, and only launched from then on. What the calls read may change, their
 * arguments may not: all that differs is in ibot_staging.c's block, or in the key. Micro-batches
 * that leave out what stochastic depth drops have other arguments each time: they are never
 * recorded. */
#include <stdio.h>
#include <string.h>

#include "trainer/model/ibot_internal.h"

static bool same(const struct step_key *a, const struct step_key *b)
{
    return a->update == b->update && a->n_patch_rows == b->n_patch_rows && a->masked == b->masked &&
           a->last == b->last && a->summed == b->summed && a->n_micro == b->n_micro;
}

/* The part's entry; a new one while there is room, else NULL. */
static struct step_graph *find(struct ibot *ibot, const struct step_key *key)
{
    for (int32_t i = 0; i < ibot->n_graphs; i++)
        if (same(&ibot->graphs[i].key, key))
            return &ibot->graphs[i];
    if (ibot->n_graphs == MAX_STEP_GRAPHS)
        return NULL;
    ibot->graphs[ibot->n_graphs] = (struct step_graph){.key = *key};
    return &ibot->graphs[ibot->n_graphs++];
}

static enum status record(struct ibot *ibot, struct step_graph *graph,
                          enum status (*queue)(struct ibot *, const struct step_key *))
{
    struct device *device = ibot->device;
    char reason[512];

    TRY(device->capture_begin(device));
    enum status status = queue(ibot, &graph->key);
    snprintf(reason, sizeof(reason), "%s", status != STATUS_OK ? status_message() : "");
    enum status ended = device->capture_end(device, &graph->graph);
    if (status == STATUS_OK)
        return ended;
    if (ended == STATUS_OK)
        device->graph_release(device, &graph->graph);
    FAIL(status, "while a step was recorded (--cuda_graph off runs it without): %s", reason);
}

enum status ibot_run_part(struct ibot *ibot, const struct step_key *key,
                          enum status (*queue)(struct ibot *, const struct step_key *))
{
    bool differs = ibot->skips_dropped && !key->update;
    struct step_graph *graph = ibot->records && !differs ? find(ibot, key) : NULL;

    if (graph == NULL || graph->n_runs++ == 0)
        return queue(ibot, key);
    if (graph->graph == NULL)
        TRY(record(ibot, graph, queue));
    return ibot->device->graph_launch(ibot->device, graph->graph);
}

void ibot_release_graphs(struct ibot *ibot)
{
    for (int32_t i = 0; i < ibot->n_graphs; i++)
        if (ibot->graphs[i].graph != NULL)
            ibot->device->graph_release(ibot->device, &ibot->graphs[i].graph);
    ibot->n_graphs = 0;
}
