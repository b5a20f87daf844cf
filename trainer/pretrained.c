/* Opening, and loading by name. */
#include "trainer/pretrained.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "ops/tokens.h"
#include "proto/base/memory.h"

enum { MAX_NAMES_IN_TEXT = 3 };

/* ------------------------------------------------------------------------------ opening */

bool pretrained_option(const struct pretrained *p, const char *name, char *out, size_t size)
{
    const char *text = p->checkpoint.json != NULL ? checkpoint_option(&p->checkpoint, name) : NULL;

    if (text == NULL)
        return weight_file_option(&p->file, name, out, size);
    snprintf(out, size, "%s", text);
    return true;
}

static int32_t option_number(const struct pretrained *p, const char *name)
{
    char text[32], *end;

    if (!pretrained_option(p, name, text, sizeof(text)))
        return 0;
    long value = strtol(text, &end, 10);
    return *end == '\0' && value > 0 && value < 1 << 20 ? (int32_t)value : 0;
}

/* A folder is a run of ours or a checkpoint of one; anything else is a file. */
static enum status open_file(struct pretrained *p, const char *path)
{
    struct stat info;

    if (stat(path, &info) != 0)
        FAIL(STATUS_NOT_FOUND, "checkpoint '%s': %s", path, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return weight_file_open(&p->file, path);
    TRY(checkpoint_open(&p->checkpoint, path));
    return weight_file_open(&p->file, p->checkpoint.path);
}

enum status pretrained_open(struct pretrained *out, const struct pretrained_options *options)
{
    struct pretrained *p = out;
    char arch[64];
    enum status status;

    memset(p, 0, sizeof(*p));
    TRY_OUT(open_file(p, options->path));
    TRY_OUT(weight_selection_open(&p->selection, &p->file, options->key));
    struct architecture_hints hints = {
        .arch = options->arch,
        .arch_must_fit = options->arch != NULL,
        .n_heads = options->n_heads > 0 ? options->n_heads : option_number(p, "num_heads"),
        .window_size = p->checkpoint.json != NULL ? option_number(p, "window_size") : 0,
        .image_size_px = option_number(p, "global_crop_size"),
    };
    if (hints.arch == NULL && pretrained_option(p, "arch", arch, sizeof(arch)))
        hints.arch = arch;
    status = architecture_read(&p->backbone, &p->selection, &hints);
    if (options->names_only && (status == STATUS_MISMATCH || status == STATUS_INVALID))
        status = STATUS_OK;
    TRY_OUT(status);
    p->crop_size_px = hints.image_size_px > 0 ? hints.image_size_px : p->backbone.image_size_px;
    p->student = strcmp(p->selection.key, "student") == 0;
out:
    if (status != STATUS_OK)
        pretrained_close(p);
    return status;
}

void pretrained_close(struct pretrained *pretrained)
{
    if (pretrained == NULL)
        return;
    weight_selection_release(&pretrained->selection);
    weight_file_release(&pretrained->file);
    checkpoint_close(&pretrained->checkpoint);
    memset(pretrained, 0, sizeof(*pretrained));
}

/* ------------------------------------------------------------------------------ loading */

/* The first few of the names that something is the matter with. */
struct names {
    char text[3 * WEIGHT_MAX_NAME];
    size_t n;
};

static void names_add(struct names *names, const char *name)
{
    size_t used = strlen(names->text);

    if (names->n < MAX_NAMES_IN_TEXT)
        snprintf(names->text + used, sizeof(names->text) - used, "%s'%s'", names->n > 0 ? ", " : "",
                 name);
    else if (names->n == MAX_NAMES_IN_TEXT)
        snprintf(names->text + used, sizeof(names->text) - used, ", …");
    names->n++;
}

static bool same_shape(const struct weight_entry *entry, const struct tensor *tensor)
{
    return entry->rank == tensor->rank &&
           memcmp(entry->shape, tensor->shape, (size_t)tensor->rank * sizeof(int64_t)) == 0;
}

/* Side of the grid in [1, 1 + n*n, width]; 0: it is none. */
static int32_t grid_side(int32_t rank, const int64_t *shape)
{
    int64_t n = rank == 3 && shape[0] == 1 && shape[1] > 1 && shape[1] < 1 << 24
                    ? llround(sqrt((double)(shape[1] - 1)))
                    : 0;

    return n * n + 1 == (rank == 3 ? shape[1] : 0) ? (int32_t)n : 0;
}

/* The stored grid at another size; the [CLS] row as it is. */
static enum status resize_positions(float *out, int32_t n_out, float *in, int32_t n_in,
                                    int64_t width, bool exact)
{
    struct device device;

    TRY(device_open_cpu(&device, 0));
    memcpy(out, in, (size_t)width * sizeof(float));
    struct position_interpolate_args args = {
        .grid = tensor_2d(in + width, DTYPE_F32, (int64_t)n_in * n_in, width),
        .out = tensor_2d(out + width, DTYPE_F32, (int64_t)n_out * n_out, width),
        .grid_size = n_in,
        .height = n_out,
        .width = n_out,
        .exact = exact,
    };
    enum status status = position_interpolate_cpu(&device, &args);
    device_close(&device);
    return status;
}

static enum status load_one(const struct pretrained *p, struct device *device,
                            const struct weight_selected *from,
                            const struct ibot_state_entry *state, bool exact,
                            struct pretrained_report *report)
{
    const struct weight_entry *entry = from->entry;
    const struct tensor *to = &state->tensor;
    float *values = NULL, *resized = NULL;
    char got[160], wanted[160];
    enum status status;

    int32_t n_in = grid_side(entry->rank, entry->shape), n_out = grid_side(to->rank, to->shape);
    bool resize = !same_shape(entry, to) && strcmp(from->name, "pos_embed") == 0 && n_in > 0 &&
                  n_out > 0 && entry->shape[2] == to->shape[2];
    if (!same_shape(entry, to) && !resize)
        FAIL(STATUS_MISMATCH,
             "weights file '%s': tensor '%s' has shape %s, wanted %s: another "
             "architecture",
             p->file.path, entry->name,
             weight_shape_text(entry->rank, entry->shape, got, sizeof(got)),
             weight_shape_text(to->rank, to->shape, wanted, sizeof(wanted)));
    size_t n = entry->n_bytes / weight_dtype_bytes(entry->dtype);
    TRY_OUT(memory_alloc_unset(&values, n, sizeof(float), entry->name));
    TRY_OUT(weight_file_read_f32(&p->file, entry, values));
    if (resize) {
        TRY_OUT(memory_alloc_unset(&resized, tensor_size_bytes(to), 1, entry->name));
        TRY_OUT(resize_positions(resized, n_out, values, n_in, to->shape[2], exact));
        report->n_resized++;
    }
    TRY_OUT(device->copy_in(device, to->data, resize ? resized : values, tensor_size_bytes(to)));
    TRY_OUT(device->synchronize(device));
    report->n_loaded++;
out:
    memory_free(values);
    memory_free(resized);
    return status;
}

/* Tensors of the file's backbone that the network has no place for. */
static void find_unexpected(const struct pretrained *p, const struct pretrained_target *target,
                            struct pretrained_report *report, struct names *names)
{
    const struct state_view *view = target->view;
    const char *prefix = target->prefix, *unused = target->unused;
    struct ibot_state_entry state;

    for (size_t i = 0; i < p->selection.n; i++) {
        const struct weight_selected *from = &p->selection.tensors[i];
        bool wanted = false;
        if (!from->backbone) {
            report->n_other++;
            continue;
        }
        for (size_t j = 0; j < view->n && !wanted; j++) {
            view->entry(view->model, j, &state);
            wanted = strncmp(state.name, prefix, strlen(prefix)) == 0 &&
                     strcmp(state.name + strlen(prefix), from->name) == 0;
        }
        /* a mask token is a student's; a network without masks has no use for it */
        if (wanted || weight_name_is_derived(from->name) || strcmp(from->name, "masked_embed") == 0)
            continue;
        if (unused != NULL && strncmp(from->name, unused, strlen(unused)) == 0)
            continue;
        report->n_unexpected++;
        names_add(names, from->entry->name);
    }
}

enum status pretrained_load_into(const struct pretrained *p, const struct pretrained_target *target,
                                 struct device *device, struct pretrained_report *report)
{
    const struct state_view *view = target->view;
    const char *prefix = target->prefix;
    struct names missing = {0}, unexpected = {0};
    struct ibot_state_entry state;

    *report = (struct pretrained_report){0};
    for (size_t i = 0; i < view->n; i++) {
        view->entry(view->model, i, &state);
        if (strncmp(state.name, prefix, strlen(prefix)) != 0)
            continue;
        const char *name = state.name + strlen(prefix);
        const struct weight_selected *from = weight_selection_find(&p->selection, name);
        if (from != NULL) {
            TRY(load_one(p, device, from, &state, target->exact_positions, report));
        } else if (strcmp(name, "masked_embed") != 0) { /* stays zero, as it starts */
            report->n_missing++;
            names_add(&missing, name);
        }
    }
    find_unexpected(p, target, report, &unexpected);
    if (report->n_missing > 0 || report->n_unexpected > 0 || report->n_loaded == 0)
        FAIL(STATUS_MISMATCH,
             "weights file '%s', key '%s': %zu tensors fit, %zu are missing%s%s%s, %zu are "
             "unexpected%s%s%s: another architecture",
             p->file.path, p->selection.key, report->n_loaded, report->n_missing,
             missing.n > 0 ? " (" : "", missing.text, missing.n > 0 ? ")" : "",
             report->n_unexpected, unexpected.n > 0 ? " (" : "", unexpected.text,
             unexpected.n > 0 ? ")" : "");
    return view->written(view->model);
}

enum status pretrained_load(const struct pretrained *p, struct ibot *ibot, struct device *device,
                            bool student, struct pretrained_report *report)
{
    struct state_view view = ibot_state_view(ibot);
    struct pretrained_target target = {
        .view = &view,
        .prefix = student ? "student.backbone." : "teacher.backbone.",
    };

    return pretrained_load_into(p, &target, device, report);
}

const char *pretrained_describe(const struct pretrained *p, const struct pretrained_report *r,
                                char *out, size_t size)
{
    char resized[96] = "", other[96] = "";

    if (r->n_resized > 0)
        snprintf(resized, sizeof(resized), ", %zu interpolated to another resolution",
                 r->n_resized);
    if (r->n_other > 0)
        snprintf(other, sizeof(other), ", %zu outside the backbone left out", r->n_other);
    snprintf(out, size, "'%s', key '%s': %zu tensors loaded, %zu missing, %zu unexpected%s%s",
             p->file.path, p->selection.key, r->n_loaded, r->n_missing, r->n_unexpected, resized,
             other);
    return out;
}
