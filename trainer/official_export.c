/* Writing the original's checkpoints. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/official_checkpoint.h"
#include "trainer/weights/weight_export.h"

struct exporter {
    const struct checkpoint *checkpoint;
    struct checkpoint_state state;
    struct weight_file file;
    struct pth_writer writer;
    struct weight_export student, teacher;
    struct weight_record *moments; /* three for each parameter: step, first, second */
    float *steps;
    struct weight_record centres[2];
    const char *optimizer;
    bool fixed_gains;
};

static const char *option(const struct exporter *e, const char *name, const char *otherwise)
{
    const char *text = checkpoint_option(e->checkpoint, name);
    return text != NULL ? text : otherwise;
}

static bool option_is_on(const struct exporter *e, const char *name)
{
    return strcmp(option(e, name, "false"), "true") == 0;
}

/* ------------------------------------------------------------------------------ networks */

/* Batches that each use of a batch norm has seen: two uses in each pass of a step; the student
 * makes a pass over the local crops of its own. */
static int64_t tracked_batches(const struct exporter *e, bool student)
{
    int64_t passes = student && atoi(option(e, "local_crops_number", "0")) > 0 ? 2 : 1;

    return 2 * passes * e->state.step * atoi(option(e, "accumulation_steps", "1"));
}

static enum status collect(struct exporter *e, const char *group, struct weight_export *out)
{
    bool student = strcmp(group, "student") == 0;
    bool batch_norm = weight_file_find(&e->file, group, "head.mlp.1.running_mean") != NULL;
    const char *prefix = student || batch_norm ? "module." : "";
    char name[WEIGHT_MAX_NAME];

    for (size_t i = 0; i < e->file.n_entries; i++) {
        const struct weight_entry *entry = &e->file.entries[i];
        if (strcmp(entry->group, group) != 0)
            continue;
        snprintf(name, sizeof(name), "%s%s", prefix, entry->name);
        TRY(weight_export_add(out, &e->file, entry, name));
        TRY(weight_export_add_index(out, entry, name));
    }
    if (batch_norm) {
        snprintf(name, sizeof(name), "%shead.mlp.1.num_batches_tracked", prefix);
        TRY(weight_export_add_number(out, tracked_batches(e, student), name));
    }
    return weight_export_add_head_aliases(out, prefix);
}

static void write_network(struct exporter *e, const char *key, const struct weight_export *network)
{
    pth_text(&e->writer, key);
    pth_begin_state_dict(&e->writer);
    for (size_t i = 0; i < network->n; i++) {
        pth_text(&e->writer, network->records[i].name);
        pth_tensor(&e->writer, &network->records[i]);
    }
    pth_end_dict(&e->writer);
}

/* ------------------------------------------------------------------------------ optimizer */

/* A parameter that the optimizer moves: not a fixed gain, not a statistic. */
static bool is_moved(const struct exporter *e, const struct weight_entry *entry)
{
    size_t n = strlen(entry->name);
    bool gain = n >= 9 && strcmp(entry->name + n - 9, ".weight_g") == 0;

    return strcmp(entry->group, "student") == 0 && strstr(entry->name, "running_") == NULL &&
           !(gain && e->fixed_gains);
}

/* Steps that Adam took with a parameter. */
static int64_t steps_of(const struct exporter *e, const struct weight_entry *entry)
{
    const struct checkpoint_state *s = &e->state;
    int64_t frozen = atoll(option(e, "freeze_last_layer", "0")) * s->steps_per_epoch;
    bool last_layer = strstr(entry->name, "last_layer") != NULL;
    int64_t step = last_layer ? (s->step > frozen ? s->step - frozen : 0) - s->last_layer_lag
                              : s->step - s->optimizer_lag;

    return step > 0 ? step : 0;
}

static enum status write_moment(struct exporter *e, const char *key, const char *group,
                                const struct weight_entry *parameter, struct weight_record *record)
{
    const struct weight_entry *entry = weight_file_find(&e->file, group, parameter->name);

    if (entry == NULL)
        FAIL(STATUS_CORRUPT, "'%s' has no tensor '%s.%s'", e->file.path, group, parameter->name);
    *record = weight_file_record(&e->file, entry, key);
    pth_text(&e->writer, key);
    pth_tensor(&e->writer, record);
    return STATUS_OK;
}

static enum status write_parameter_state(struct exporter *e, const struct weight_entry *parameter,
                                         int64_t number)
{
    struct weight_record *records = &e->moments[3 * number];
    int64_t steps = steps_of(e, parameter);
    bool adam = strcmp(e->optimizer, "adamw") == 0;

    if (steps == 0)
        return STATUS_OK; /* as in the original: state comes with the first step */
    pth_integer(&e->writer, number);
    pth_begin_dict(&e->writer);
    if (adam) {
        e->steps[number] = (float)steps;
        records[0] = (struct weight_record){.dtype = WEIGHT_F32, .data = &e->steps[number]};
        pth_text(&e->writer, "step");
        pth_tensor(&e->writer, &records[0]);
    }
    TRY(write_moment(e,
                     adam                               ? "exp_avg"
                     : strcmp(e->optimizer, "sgd") == 0 ? "momentum_buffer"
                                                        : "mu",
                     "moment1", parameter, &records[1]));
    if (adam)
        TRY(write_moment(e, "exp_avg_sq", "moment2", parameter, &records[2]));
    pth_end_dict(&e->writer);
    return STATUS_OK;
}

/* Hyper-parameters of a group. The original sets rate and decay anew before each step, from its
 * schedules; here are the options that these start from. */
static void write_group_values(struct exporter *e, bool undecayed)
{
    struct pth_writer *w = &e->writer;

    pth_text(w, "lr");
    pth_real(w, strtod(option(e, "lr", "0"), NULL));
    pth_text(w, "weight_decay");
    pth_real(w, undecayed ? 0.0 : strtod(option(e, "weight_decay", "0"), NULL));
    if (strcmp(e->optimizer, "adamw") == 0) {
        pth_text(w, "betas");
        pth_begin_tuple(w);
        pth_real(w, 0.9);
        pth_real(w, 0.999);
        pth_end_tuple(w);
        pth_text(w, "eps");
        pth_real(w, 1e-8);
        pth_text(w, "amsgrad");
        pth_truth(w, false);
    } else {
        pth_text(w, "momentum");
        pth_real(w, 0.9);
    }
    if (strcmp(e->optimizer, "sgd") == 0) {
        pth_text(w, "dampening");
        pth_integer(w, 0);
        pth_text(w, "nesterov");
        pth_truth(w, false);
    }
    if (strcmp(e->optimizer, "lars") == 0) {
        pth_text(w, "eta");
        pth_real(w, 0.001);
        pth_text(w, "weight_decay_filter");
        pth_none(w);
        pth_text(w, "lars_adaptation_filter");
        pth_none(w);
    }
}

static enum status write_optimizer(struct exporter *e)
{
    struct pth_writer *w = &e->writer;
    int64_t number = 0, sizes[2] = {0, 0};

    TRY(memory_alloc(&e->moments, 3 * e->file.n_entries, sizeof(*e->moments), "moments"));
    TRY(memory_alloc(&e->steps, e->file.n_entries, sizeof(*e->steps), "steps"));
    pth_text(w, "optimizer");
    pth_begin_dict(w);
    pth_text(w, "state");
    pth_begin_dict(w);
    for (int undecayed = 0; undecayed < 2; undecayed++)
        for (size_t i = 0; i < e->file.n_entries; i++) {
            const struct weight_entry *entry = &e->file.entries[i];
            if (!is_moved(e, entry) ||
                official_is_undecayed(entry->name, entry->rank) != (undecayed == 1))
                continue;
            TRY(write_parameter_state(e, entry, number++));
            sizes[undecayed]++;
        }
    pth_end_dict(w);
    pth_text(w, "param_groups");
    pth_begin_list(w);
    for (int undecayed = 0; undecayed < 2; undecayed++) {
        pth_begin_dict(w);
        write_group_values(e, undecayed == 1);
        pth_text(w, "params");
        pth_begin_list(w);
        for (int64_t i = 0; i < sizes[undecayed]; i++)
            pth_integer(w, (undecayed == 1 ? sizes[0] : 0) + i);
        pth_end_list(w);
        pth_end_dict(w);
    }
    pth_end_list(w);
    pth_end_dict(w);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ the rest */

/* An option's text as the value that Python's parser would have made of it. */
static void write_value(struct pth_writer *w, const char *text)
{
    size_t n_words = 0;
    bool numbers = text[0] != '\0';
    char *end;

    for (const char *at = text; *at != '\0'; at = end) {
        strtod(at, &end);
        if (end == at || (*end != ' ' && *end != '\0')) {
            numbers = false;
            break;
        }
        n_words++;
        end += *end == ' ';
    }
    if (!numbers) {
        if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)
            pth_truth(w, text[0] == 't');
        else if (text[0] == '\0')
            pth_none(w);
        else
            pth_text(w, text);
        return;
    }
    if (n_words > 1)
        pth_begin_list(w);
    for (const char *at = text; *at != '\0'; at = end) {
        double value = strtod(at, &end);
        if (strcspn(at, ".eEnN") < (size_t)(end - at))
            pth_real(w, value);
        else
            pth_integer(w, strtoll(at, NULL, 10));
        end += *end == ' ';
    }
    if (n_words > 1)
        pth_end_list(w);
}

static void write_args(struct exporter *e)
{
    const char *name;
    json_t *value;

    pth_text(&e->writer, "args");
    pth_begin_dict(&e->writer);
    json_object_foreach(json_object_get(e->checkpoint->json, "options"), name, value)
    {
        pth_text(&e->writer, strcmp(name, "data") == 0 ? "data_path" : name);
        write_value(&e->writer, option(e, name, ""));
    }
    pth_end_dict(&e->writer);
}

static enum status write_centres(struct exporter *e)
{
    static const char *const names[2][2] = {{"cls", "center"}, {"patch", "center2"}};

    pth_text(&e->writer, "ibot_loss");
    pth_begin_state_dict(&e->writer);
    for (int32_t i = 0; i < 2; i++) {
        const struct weight_entry *entry = weight_file_find(&e->file, "centre", names[i][0]);
        if (entry == NULL)
            FAIL(STATUS_CORRUPT, "'%s' has no tensor 'centre.%s'", e->file.path, names[i][0]);
        struct weight_record *record = &e->centres[i];
        *record = weight_file_record(&e->file, entry, names[i][1]);
        int64_t n = record->shape[0]; /* [1, K], [1, 1, K'] there */
        record->rank = 2 + i;
        for (int32_t d = 0; d < record->rank; d++)
            record->shape[d] = d == record->rank - 1 ? n : 1;
        pth_text(&e->writer, names[i][1]);
        pth_tensor(&e->writer, record);
    }
    pth_end_dict(&e->writer);
    return STATUS_OK;
}

static enum status write_all(struct exporter *e, const char *path)
{
    TRY(collect(e, "student", &e->student));
    TRY(collect(e, "teacher", &e->teacher));
    pth_writer_open(&e->writer);
    pth_begin_dict(&e->writer);
    write_network(e, "student", &e->student);
    write_network(e, "teacher", &e->teacher);
    TRY(write_optimizer(e));
    pth_text(&e->writer, "epoch");
    pth_integer(&e->writer, e->state.step / e->state.steps_per_epoch);
    write_args(e);
    TRY(write_centres(e));
    pth_end_dict(&e->writer);
    return pth_writer_commit(&e->writer, path);
}

enum status official_export(const struct checkpoint *checkpoint, const char *path)
{
    struct exporter e = {.checkpoint = checkpoint};
    enum status status;
    bool pth;

    TRY(weight_export_is_pth(path, &pth));
    if (!pth)
        FAIL(STATUS_INVALID, "'%s': the original's checkpoints are .pth files", path);
    TRY(checkpoint_state(checkpoint, &e.state));
    if (e.state.step % e.state.steps_per_epoch != 0)
        FAIL_OUT(STATUS_INVALID,
                 "'%s' is of step %lld, within an epoch of %lld steps; the original knows whole "
                 "epochs only: choose a checkpoint of an epoch's end",
                 checkpoint->path, (long long)e.state.step, (long long)e.state.steps_per_epoch);
    e.optimizer = option(&e, "optimizer", "adamw");
    e.fixed_gains = option_is_on(&e, "norm_last_layer");
    TRY_OUT(weight_file_open(&e.file, checkpoint->path));
    TRY_OUT(write_all(&e, path));
out:
    pth_writer_close(&e.writer);
    weight_export_release(&e.student);
    weight_export_release(&e.teacher);
    memory_free(e.moments);
    memory_free(e.steps);
    weight_file_release(&e.file);
    memory_free(e.state.labels);
    memory_free(e.state.clusters);
    return status;
}
