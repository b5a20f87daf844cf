#include "trainer/eval/finetune_weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/model/state_view.h"
#include "trainer/model/swin.h"
#include "trainer/pretrained_head.h"

enum { TEXT_BYTES = 48 };

static const char taps_key[] = "taps"; /* blocks of a dense classifier */
static const char model_prefix[] = "model.", backbone_prefix[] = "model.backbone.",
                  head_prefix[] = "model.head.";

static bool starts_with(const char *name, const char *start)
{
    return strncmp(name, start, strlen(start)) == 0;
}

/* ------------------------------------------------------------------------------ what it is */

/* Whether windows chosen for images of size_px have the tables of those for the stored size. */
static bool windows_fit(const struct backbone_options *o, int32_t size_px)
{
    struct backbone_options other = *o;
    int32_t side, new_side, shift;

    other.image_size_px = size_px;
    for (int32_t s = 0; s < o->n_stages; s++) {
        swin_window(o, s, 0, &side, &shift);
        swin_window(&other, s, 0, &new_side, &shift);
        if (side != new_side)
            return false;
    }
    return true;
}

enum status finetune_weights_plan(const struct pretrained *p, int32_t size_px,
                                  struct classifier_options *out)
{
    float drop_path = out->backbone.drop_path;
    char windows_for[TEXT_BYTES];

    out->backbone = p->backbone;
    out->backbone.drop_path = drop_path;
    out->image_size_px = size_px > 0 ? size_px : p->crop_size_px;
    if (out->image_size_px < backbone_cell_px(&out->backbone))
        FAIL(STATUS_INVALID, "--crop_size %d: a token of this %s stands for %d px",
             out->image_size_px, out->backbone.arch, backbone_cell_px(&out->backbone));
    if (out->backbone.n_stages > 0 &&
        pretrained_option(p, "windows_for", windows_for, sizeof(windows_for)))
        out->backbone.image_size_px = (int32_t)strtol(windows_for, NULL, 10);
    if (out->backbone.n_stages == 0 || windows_fit(&out->backbone, out->image_size_px))
        out->backbone.image_size_px = out->image_size_px;
    return STATUS_OK;
}

enum status finetune_weights_plan_head(const struct pretrained *p, struct classifier_options *out)
{
    if (out->n_head_layers == 0)
        return STATUS_OK;
    TRY(pretrained_head_options(p, &out->head));
    out->head.shared_student = out->head.shared_teacher = true; /* that of [CLS] alone */
    return STATUS_OK;
}

/* A tensor outside the backbone, or one that looks as if it were of it, by its name. */
static const struct weight_entry *find(const struct pretrained *p, const char *name)
{
    static const char wrapper[] = "module.";

    for (size_t i = 0; i < p->selection.n; i++) {
        const char *got = p->selection.tensors[i].entry->name;
        if (strcmp(starts_with(got, wrapper) ? got + strlen(wrapper) : got, name) == 0)
            return p->selection.tensors[i].entry;
    }
    return NULL;
}

static int32_t rows_of(const struct weight_entry *entry, int which)
{
    return entry != NULL && entry->rank == 2 && entry->shape[which] > 0 &&
                   entry->shape[which] < 1 << 24
               ? (int32_t)entry->shape[which]
               : 0;
}

/* "3 5 7 11" */
static void read_taps(const struct pretrained *p, struct classifier_taps *taps)
{
    char text[TEXT_BYTES], *at = text, *end;

    *taps = (struct classifier_taps){.n = 0};
    if (!pretrained_option(p, taps_key, text, sizeof(text)))
        return;
    for (long block = strtol(at, &end, 10); end != at && taps->n < CLASSIFIER_MAX_TAPS;
         block = strtol(at, &end, 10)) {
        taps->blocks[taps->n++] = (int32_t)block;
        at = end;
    }
    taps->normed = find(p, "norm.weight") != NULL;
    taps->upernet = find(p, "decoder.fpn_bottleneck.conv.weight") != NULL;
}

static void write_taps(char text[TEXT_BYTES], const struct classifier_taps *taps)
{
    int n = 0;

    text[0] = '\0';
    for (int32_t i = 0; i < taps->n; i++)
        n +=
            snprintf(text + n, (size_t)(TEXT_BYTES - n), "%s%d", i > 0 ? " " : "", taps->blocks[i]);
}

enum status finetune_weights_read_options(const struct pretrained *p,
                                          struct classifier_options *out)
{
    bool norm = find(p, "head.mlp.1.weight") != NULL;
    bool second = find(p, norm ? "head.mlp.3.weight" : "head.mlp.2.weight") != NULL;
    const struct weight_entry *last = find(p, "head.last_layer.weight_v");
    char activation[16] = "gelu";

    out->n_classes = rows_of(find(p, "head.weight"), 0);
    if (out->n_classes == 0)
        FAIL(STATUS_NOT_FOUND,
             "weights file '%s', key '%s': there is no classifier in it (head.weight): give what "
             "ibot-eval finetune or segment wrote, OUTPUT_DIR/best.safetensors",
             p->file.path, p->selection.key);
    read_taps(p, &out->taps);
    out->pooling = find(p, "fc_norm.weight") != NULL ? POOLING_MEAN : POOLING_CLS;
    out->n_head_layers = last != NULL                           ? 3
                         : find(p, "head.mlp.0.weight") == NULL ? 0
                         : second                               ? 2
                                                                : 1;
    (void)!pretrained_option(p, "act_in_head", activation, sizeof(activation));
    out->head = (struct head_options){
        .hidden_dim = rows_of(find(p, "head.mlp.0.weight"), 0),
        .bottleneck_dim = rows_of(last, 1),
        .out_dim = rows_of(last, 0),
        .patch_out_dim = rows_of(last, 0),
        .shared_student = true,
        .shared_teacher = true,
        .norm = norm ? HEAD_NORM_LN : HEAD_NORM_NONE,
        .activation = strcmp(activation, "relu") == 0 ? ACTIVATION_RELU : ACTIVATION_GELU,
    };
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ loading */

static enum status load_backbone(const struct pretrained *p, const struct state_view *view,
                                 const char *unused, struct device *device,
                                 struct pretrained_report *report)
{
    struct pretrained_target target = {
        .view = view,
        .prefix = backbone_prefix,
        .exact_positions = true,
        .unused = unused,
    };

    return pretrained_load_into(p, &target, device, report);
}

enum status finetune_weights_load(const struct pretrained *p, struct classifier *classifier,
                                  const struct classifier_options *o, struct device *device,
                                  struct pretrained_report *report)
{
    struct state_view view = classifier_state_view(classifier);
    struct ibot_state_entry state;

    TRY(load_backbone(p, &view, classifier_without_norm(o) ? "norm." : NULL, device, report));
    for (size_t i = 0; i < view.n; i++) {
        view.entry(view.model, i, &state);
        const char *name = state.name + strlen(head_prefix);
        if (!starts_with(state.name, head_prefix) || strcmp(name, "weight") == 0 ||
            strcmp(name, "bias") == 0)
            continue;
        TRY(pretrained_load_tensor(p, &state, pretrained_head_read, name, device));
        report->n_loaded++;
        report->n_other -= report->n_other > 0;
    }
    return classifier_state_written(classifier, true);
}

static enum status read_by_name(const struct pretrained *p, const char *name,
                                const struct tensor *to, float *out)
{
    const struct weight_entry *entry = find(p, name);

    if (entry == NULL || entry->rank != to->rank ||
        memcmp(entry->shape, to->shape, (size_t)to->rank * sizeof(int64_t)) != 0)
        FAIL(STATUS_MISMATCH, "weights file '%s': tensor '%s' is missing, or has another shape",
             p->file.path, name);
    return weight_file_read_f32(&p->file, entry, out);
}

enum status finetune_weights_load_all(const struct pretrained *p, struct classifier *classifier,
                                      struct device *device, struct pretrained_report *report)
{
    struct state_view view = classifier_state_view(classifier);
    struct ibot_state_entry state;

    TRY(load_backbone(p, &view, "fc_norm.", device, report));
    for (size_t i = 0; i < view.n; i++) {
        view.entry(view.model, i, &state);
        if (!starts_with(state.name, model_prefix) || starts_with(state.name, backbone_prefix))
            continue;
        TRY(pretrained_load_tensor(p, &state, read_by_name, state.name + strlen(model_prefix),
                                   device));
        report->n_loaded++;
        report->n_other -= report->n_other > 0;
    }
    return classifier_state_written(classifier, true);
}

/* ------------------------------------------------------------------------------ writing */

/* "model.backbone.blocks.0.…" is blocks.0.…, "average.head.weight" head.weight. */
static const char *public_name(const char *name)
{
    static const char backbone[] = "backbone.";

    name = strchr(name, '.') + 1;
    return starts_with(name, backbone) ? name + strlen(backbone) : name;
}

enum status finetune_weights_write(const char *path, struct classifier *classifier,
                                   const struct classifier_options *o, bool average,
                                   struct device *device, double score)
{
    struct state_view view = classifier_state_view(classifier);
    char heads[TEXT_BYTES], crop[TEXT_BYTES], accuracy[TEXT_BYTES], windows[TEXT_BYTES],
        taps[TEXT_BYTES];
    const char *metadata[] = {
        "arch",
        o->backbone.arch,
        "num_heads",
        heads,
        "windows_for",
        windows, /* the size of images that a Swin's windows are for */
        "act_in_head",
        o->head.activation == ACTIVATION_RELU ? "relu" : "gelu",
        /* the name that a run gives the size of its images */
        "global_crop_size",
        crop,
        classifier_is_dense(o) ? "miou" : "top1",
        accuracy,
        taps_key, /* the last pair: of a dense one alone */
        taps,
    };
    struct state_file_options options = {
        .prefix = average ? "average." : model_prefix,
        .rename = public_name,
        .metadata = metadata,
        .n_pairs = sizeof(metadata) / sizeof(metadata[0]) / 2 - !classifier_is_dense(o),
    };

    snprintf(heads, sizeof(heads), "%d", o->backbone.n_heads);
    snprintf(windows, sizeof(windows), "%d", o->backbone.image_size_px);
    snprintf(crop, sizeof(crop), "%d", o->image_size_px);
    snprintf(accuracy, sizeof(accuracy), "%.4f", score);
    write_taps(taps, &o->taps);
    return state_file_write(path, &view, device, &options);
}
