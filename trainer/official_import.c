/* Going on from the original's checkpoints. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/official_checkpoint.h"

static const char wrapper[] = "module.";

/* ------------------------------------------------------------------------------ opening */

static enum status check_whole(const struct official_checkpoint *c)
{
    static const char *const keys[] = {"student", "teacher", "optimizer", "epoch", "ibot_loss"};
    char missing[128] = "", there[1024];

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (weight_file_value(&c->file, keys[i]) == NULL) {
            size_t used = strlen(missing);
            snprintf(missing + used, sizeof(missing) - used, "%s%s", used > 0 ? ", " : "", keys[i]);
        }
    if (c->file.format == WEIGHT_FORMAT_SAFETENSORS)
        FAIL(STATUS_MISMATCH,
             "'%s' is a safetensors file: to go on with a run of ours, name its folder or that of "
             "a checkpoint; to start a new run from a backbone there is --init_from",
             c->file.path);
    if (missing[0] != '\0')
        FAIL(STATUS_MISMATCH,
             "'%s' is no whole checkpoint: it lacks %s; its keys are: %s. To start a new run from "
             "a backbone there is --init_from",
             c->file.path, missing, weight_file_groups(&c->file, there, sizeof(there)));
    return STATUS_OK;
}

enum status official_checkpoint_open(struct official_checkpoint *out, const char *path)
{
    enum status status;

    memset(out, 0, sizeof(*out));
    TRY(weight_file_open(&out->file, path));
    TRY_OUT(check_whole(out));
    if (!pickle_integer(weight_file_value(&out->file, "epoch"), &out->epoch) || out->epoch < 0 ||
        out->epoch > 1000000)
        FAIL_OUT(STATUS_CORRUPT, "'%s': its epoch is no natural number", path);
out:
    if (status != STATUS_OK)
        official_checkpoint_close(out);
    return status;
}

void official_checkpoint_close(struct official_checkpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    weight_file_release(&checkpoint->file);
    memset(checkpoint, 0, sizeof(*checkpoint));
}

const struct pickle_value *official_argument(const struct official_checkpoint *c, const char *name)
{
    return pickle_find(weight_file_value(&c->file, "args"), name);
}

bool official_is_undecayed(const char *name, int32_t rank)
{
    size_t n = strlen(name);
    return rank == 1 || (n >= 5 && strcmp(name + n - 5, ".bias") == 0);
}

/* ------------------------------------------------------------------------------ optimizer */

/* One parameter's state: its dictionary, and its group in the file. */
struct parameter_state {
    const struct pickle_value *dict; /* NULL: it never moved */
    char group[64];
};

struct restore {
    const struct official_checkpoint *checkpoint;
    struct ibot *ibot;
    struct device *device;
    struct state_counts *counts;
    struct official_steps *steps;
    bool *used;                     /* of each tensor of the file */
    struct parameter_state *states; /* of the student's parameters, in our order */
    const char *moment1, *moment2;  /* what the file's optimizer calls them; NULL: it has none */
    bool with_gains;                /* the optimizer moves the last layer's gains */
};

/* The value of a whole-number key. */
static const struct pickle_value *find_number(const struct pickle_value *dict, int64_t key)
{
    int64_t number;

    for (size_t i = dict->sequence.n; i >= 2; i -= 2)
        if (pickle_integer(dict->sequence.items[i - 2], &number) && number == key)
            return dict->sequence.items[i - 1];
    return NULL;
}

static bool is_gain(const char *name)
{
    size_t n = strlen(name);
    return n >= 9 && strcmp(name + n - 9, ".weight_g") == 0;
}

/* The student's parameters: name without "student.", false past the last and for statistics. */
static bool student_parameter(const struct ibot *ibot, size_t i, struct ibot_state_entry *state)
{
    if (i >= ibot_n_state(ibot))
        return false;
    ibot_state(ibot, i, state);
    return strncmp(state->name, "student.", 8) == 0 && strstr(state->name, "running_") == NULL;
}

static size_t n_student_parameters(const struct ibot *ibot)
{
    struct ibot_state_entry state;
    size_t n = 0;

    while (student_parameter(ibot, n, &state))
        n++;
    return n;
}

/* The numbers of one group, which must be as many as we have parameters of its kind. */
static enum status assign_group(struct restore *r, const struct pickle_value *group, bool undecayed,
                                const struct pickle_value *state)
{
    const char *path = r->checkpoint->file.path;
    const struct pickle_value *numbers = pickle_find(group, "params");
    struct ibot_state_entry entry;
    size_t n_wanted = 0, next = 0;

    for (size_t i = 0; student_parameter(r->ibot, i, &entry); i++)
        n_wanted += official_is_undecayed(entry.name, entry.tensor.rank) == undecayed &&
                    (r->with_gains || !is_gain(entry.name));
    if (numbers == NULL || numbers->kind != PICKLE_LIST)
        FAIL(STATUS_CORRUPT, "'%s': a group of its optimizer has no list 'params'", path);
    if (numbers->sequence.n != n_wanted)
        FAIL(STATUS_MISMATCH,
             "'%s': its optimizer has %zu %s parameters, this model %zu: another architecture, or "
             "other head options (--shared_head, --norm_in_head, --norm_last_layer)",
             path, numbers->sequence.n, undecayed ? "undecayed" : "decayed", n_wanted);
    for (size_t i = 0; student_parameter(r->ibot, i, &entry); i++) {
        int64_t number;
        if (official_is_undecayed(entry.name, entry.tensor.rank) != undecayed ||
            (!r->with_gains && is_gain(entry.name)))
            continue;
        if (!pickle_integer(numbers->sequence.items[next++], &number))
            FAIL(STATUS_CORRUPT, "'%s': a parameter of its optimizer has no number", path);
        r->states[i].dict = find_number(state, number);
        snprintf(r->states[i].group, sizeof(r->states[i].group), "optimizer/state/%" PRId64,
                 number);
    }
    return STATUS_OK;
}

/* Which optimizer it was, by what the states hold. */
static enum status name_moments(struct restore *r, const struct pickle_value *state)
{
    static const char *const kinds[][3] = {
        {"exp_avg", "exp_avg_sq", "AdamW"}, {"momentum_buffer", NULL, "SGD"}, {"mu", NULL, "LARS"}};
    struct ibot_state_entry entry;
    bool two = false;
    const char *kind = NULL;

    for (size_t i = 0; i < ibot_n_state(r->ibot) && !two; i++) {
        ibot_state(r->ibot, i, &entry);
        two = strncmp(entry.name, "moment2.", 8) == 0;
    }
    for (size_t k = 0; k < 3 && kind == NULL; k++)
        for (size_t i = 0; i + 1 < state->sequence.n && kind == NULL; i += 2)
            if (pickle_find(state->sequence.items[i + 1], kinds[k][0]) != NULL) {
                r->moment1 = kinds[k][0];
                r->moment2 = kinds[k][1];
                kind = kinds[k][2];
            }
    if (kind != NULL && two != (r->moment2 != NULL))
        FAIL(STATUS_MISMATCH, "'%s' was trained with %s, this run has another --optimizer",
             r->checkpoint->file.path, kind);
    return STATUS_OK;
}

static enum status read_optimizer(struct restore *r)
{
    const char *path = r->checkpoint->file.path;
    const struct pickle_value *optimizer = weight_file_value(&r->checkpoint->file, "optimizer");
    const struct pickle_value *state = pickle_find(optimizer, "state");
    const struct pickle_value *groups = pickle_find(optimizer, "param_groups");
    size_t n = n_student_parameters(r->ibot);

    if (state == NULL || state->kind != PICKLE_DICT || groups == NULL ||
        groups->kind != PICKLE_LIST || groups->sequence.n != 2)
        FAIL(STATUS_MISMATCH, "'%s': its optimizer has no 'state' and two 'param_groups'", path);
    TRY(memory_alloc(&r->states, n, sizeof(*r->states), "optimizer state"));
    TRY(assign_group(r, groups->sequence.items[0], false, state));
    TRY(assign_group(r, groups->sequence.items[1], true, state));
    return name_moments(r, state);
}

/* The count of a parameter's steps: a tensor of one value, or a number (before PyTorch 1.12). */
static enum status read_step(struct restore *r, const struct parameter_state *state, double *out)
{
    const struct weight_file *file = &r->checkpoint->file;
    const struct weight_entry *entry = weight_file_find(file, state->group, "step");
    float value;

    if (pickle_number(pickle_find(state->dict, "step"), out))
        return STATUS_OK;
    if (entry == NULL || !entry->known || entry->n_bytes != weight_dtype_bytes(entry->dtype))
        FAIL(STATUS_MISMATCH, "'%s': '%s' has no step", file->path, state->group);
    TRY(weight_file_read_f32(file, entry, &value));
    r->used[entry - file->entries] = true;
    *out = (double)value;
    return STATUS_OK;
}

/* All last layers have taken the same number of steps, and all other parameters. */
static enum status read_steps(struct restore *r)
{
    int64_t counts[2] = {-1, -1};
    struct ibot_state_entry entry;

    *r->steps = (struct official_steps){.known = r->moment2 != NULL};
    if (!r->steps->known)
        return STATUS_OK;
    for (size_t i = 0; student_parameter(r->ibot, i, &entry); i++) {
        int which = strstr(entry.name, "last_layer") != NULL;
        double step = 0.0;
        if (r->states[i].group[0] == '\0')
            continue; /* fixed */
        if (r->states[i].dict != NULL)
            TRY(read_step(r, &r->states[i], &step));
        if (!(step >= 0.0 && step < 1e9) || (counts[which] >= 0 && counts[which] != (int64_t)step))
            FAIL(STATUS_MISMATCH,
                 "'%s': the optimizer took %.0f steps with '%s', %" PRId64 " with others like it",
                 r->checkpoint->file.path, step, entry.name + 8, counts[which]);
        counts[which] = (int64_t)step;
    }
    r->steps->ordinary = counts[0] > 0 ? counts[0] : 0;
    r->steps->last_layer = counts[1] > 0 ? counts[1] : 0;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ tensors */

/* Copies a tensor of as many values. */
static enum status copy(struct restore *r, const struct weight_entry *entry,
                        const struct ibot_state_entry *state)
{
    const struct weight_file *file = &r->checkpoint->file;
    const struct tensor *to = &state->tensor;
    char got[160], wanted[160];
    float *values = NULL;
    int64_t n = 1;

    for (int32_t i = 0; i < entry->rank; i++)
        n *= entry->shape[i];
    bool centre = strncmp(state->name, "centre.", 7) == 0; /* the file's has leading ones */
    if (n != tensor_n_elements(to) ||
        (!centre && (entry->rank != to->rank ||
                     memcmp(entry->shape, to->shape, (size_t)to->rank * sizeof(int64_t)) != 0)))
        FAIL(STATUS_MISMATCH,
             "'%s': '%s' of '%s' has shape %s, '%s' wants %s: another architecture", file->path,
             entry->name, entry->group,
             weight_shape_text(entry->rank, entry->shape, got, sizeof(got)), state->name,
             weight_shape_text(to->rank, to->shape, wanted, sizeof(wanted)));
    TRY(memory_alloc_unset(&values, (size_t)n, sizeof(float), entry->name));
    enum status status = weight_file_read_f32(file, entry, values);
    if (status == STATUS_OK)
        status = r->device->copy_in(r->device, to->data, values, tensor_size_bytes(to));
    if (status == STATUS_OK)
        status = r->device->synchronize(r->device);
    memory_free(values);
    if (status == STATUS_OK) {
        r->used[entry - file->entries] = true;
        r->counts->n_loaded++;
    }
    return status;
}

/* NAME or module.NAME in a network's dictionary. */
static const struct weight_entry *find_wrapped(const struct weight_file *file, const char *group,
                                               const char *name)
{
    char wrapped[192];
    const struct weight_entry *entry = weight_file_find(file, group, name);

    snprintf(wrapped, sizeof(wrapped), "%s%s", wrapper, name);
    return entry != NULL ? entry : weight_file_find(file, group, wrapped);
}

/* The file's tensor for an entry of our state; NULL: it has none. *may_lack: which is in order,
 * zeros then. */
static const struct weight_entry *source_of(const struct restore *r, const char *name,
                                            size_t parameter, bool *may_lack)
{
    const struct weight_file *file = &r->checkpoint->file;

    *may_lack = false;
    if (strncmp(name, "student.", 8) == 0)
        return find_wrapped(file, "student", name + 8);
    if (strncmp(name, "teacher.", 8) == 0)
        return find_wrapped(file, "teacher", name + 8);
    if (strcmp(name, "centre.cls") == 0)
        return weight_file_find(file, "ibot_loss", "center");
    if (strcmp(name, "centre.patch") == 0)
        return weight_file_find(file, "ibot_loss", "center2");
    const char *moment = strncmp(name, "moment1.", 8) == 0 ? r->moment1 : r->moment2;
    const struct parameter_state *state = &r->states[parameter];
    *may_lack = state->group[0] == '\0' || r->checkpoint->epoch == 0 ||
                (state->dict == NULL && strstr(name, "last_layer") != NULL);
    return state->dict != NULL && moment != NULL ? weight_file_find(file, state->group, moment)
                                                 : NULL;
}

/* Number of the student's parameter that a moment belongs to. */
static size_t parameter_of(const struct restore *r, const char *name)
{
    struct ibot_state_entry entry;
    size_t i = 0;

    if (strncmp(name, "moment", 6) != 0)
        return 0;
    while (student_parameter(r->ibot, i, &entry) && strcmp(entry.name + 8, name + 8) != 0)
        i++;
    return i;
}

static enum status restore_tensors(struct restore *r, char first_missing[128])
{
    struct ibot_state_entry state;

    for (size_t i = 0; i < ibot_n_state(r->ibot); i++) {
        bool may_lack;
        ibot_state(r->ibot, i, &state);
        const struct weight_entry *entry =
            source_of(r, state.name, parameter_of(r, state.name), &may_lack);
        if (entry != NULL) {
            TRY(copy(r, entry, &state));
        } else if (may_lack) {
            TRY(r->device->zero(r->device, state.tensor.data, tensor_size_bytes(&state.tensor)));
        } else if (r->counts->n_missing++ == 0) {
            snprintf(first_missing, 128, "%s", state.name);
        }
    }
    return ibot_state_written(r->ibot);
}

/* ------------------------------------------------------------------------------ strictness */

/* Whether the tensor is `first` of the same network under its second name, as the original writes a
 * shared last layer and a norm that is used twice. */
static enum status is_alias(struct restore *r, const struct weight_entry *entry, bool *alias)
{
    static const char *const pairs[][2] = {{"head.last_layer2.", "head.last_layer."},
                                           {"head.mlp.4.", "head.mlp.1."}};
    const struct weight_file *file = &r->checkpoint->file;
    void *bytes[2] = {NULL, NULL};
    enum status status = STATUS_OK;
    char name[192];

    *alias = false;
    for (size_t p = 0; p < 2; p++) {
        const char *at = strstr(entry->name, pairs[p][0]);
        if (at == NULL)
            continue;
        snprintf(name, sizeof(name), "%.*s%s%s", (int)(at - entry->name), entry->name, pairs[p][1],
                 at + strlen(pairs[p][0]));
        const struct weight_entry *first = weight_file_find(file, entry->group, name);
        if (first == NULL || first->n_bytes != entry->n_bytes)
            return STATUS_OK;
        TRY_OUT(memory_alloc_unset(&bytes[0], entry->n_bytes, 1, entry->name));
        TRY_OUT(memory_alloc_unset(&bytes[1], entry->n_bytes, 1, entry->name));
        TRY_OUT(weight_file_read(file, entry, bytes[0]));
        TRY_OUT(weight_file_read(file, first, bytes[1]));
        *alias = memcmp(bytes[0], bytes[1], entry->n_bytes) == 0;
        break;
    }
out:
    memory_free(bytes[0]);
    memory_free(bytes[1]);
    return status;
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

static enum status find_unexpected(struct restore *r, char first[128])
{
    const struct weight_file *file = &r->checkpoint->file;

    for (size_t i = 0; i < file->n_entries; i++) {
        const struct weight_entry *entry = &file->entries[i];
        bool alias,
            network = strcmp(entry->group, "student") == 0 || strcmp(entry->group, "teacher") == 0;
        if (r->used[i] || !network || ends_with(entry->name, ".relative_position_index") ||
            ends_with(entry->name, ".num_batches_tracked"))
            continue;
        TRY(is_alias(r, entry, &alias));
        if (!alias && r->counts->n_unexpected++ == 0)
            snprintf(first, 128, "%s of %s", entry->name, entry->group);
    }
    return STATUS_OK;
}

enum status official_restore(const struct official_checkpoint *checkpoint, struct ibot *ibot,
                             struct device *device, bool fixed_gains, struct state_counts *counts,
                             struct official_steps *steps)
{
    struct restore r = {
        .checkpoint = checkpoint,
        .ibot = ibot,
        .device = device,
        .counts = counts,
        .steps = steps,
        .with_gains = !fixed_gains,
    };
    char missing[128] = "", unexpected[128] = "";
    enum status status;

    *counts = (struct state_counts){0};
    TRY_OUT(memory_alloc(&r.used, checkpoint->file.n_entries, sizeof(bool), "marks"));
    TRY_OUT(read_optimizer(&r));
    TRY_OUT(read_steps(&r));
    TRY_OUT(restore_tensors(&r, missing));
    TRY_OUT(find_unexpected(&r, unexpected));
    if (counts->n_missing > 0 || counts->n_unexpected > 0)
        FAIL_OUT(STATUS_MISMATCH,
                 "'%s': %zu tensors were loaded, %zu are missing%s%s, %zu are unexpected%s%s: "
                 "another architecture, or other head options (--shared_head, "
                 "--shared_head_teacher, --norm_in_head)",
                 checkpoint->file.path, counts->n_loaded, counts->n_missing,
                 missing[0] != '\0' ? ", first " : "", missing, counts->n_unexpected,
                 unexpected[0] != '\0' ? ", first " : "", unexpected);
out:
    memory_free(r.used);
    memory_free(r.states);
    return status;
}
