/* Finding a classifier among the tensors of a file, and what it takes. */
#include "trainer/linear_head.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/base/memory.h"

enum { MAX_CLASSES = 1 << 24, MAX_DIM = 1 << 24 };

/* Where a classifier may be in a group of tensors. */
struct place {
    const struct weight_file *file;
    const char *group;
};

/* ------------------------------------------------------------------------------ values */

/* A value beside the tensors as text, of PyTorch's files also one of the outermost dictionary. */
static bool value_text(const struct weight_file *file, const char *name, char *out, size_t size)
{
    const struct pickle_value *value = weight_file_value(file, name);

    if (weight_file_option(file, name, out, size))
        return true;
    if (value != NULL)
        pickle_print(value, out, size);
    return value != NULL;
}

static bool value_number(const struct weight_file *file, const char *name, double *out)
{
    char text[64], *end;

    if (!value_text(file, name, text, sizeof(text)))
        return false;
    *out = strtod(text, &end);
    return end != text && *end == '\0';
}

/* A whole number of [0, most]; else -1. */
static int32_t value_count(const struct weight_file *file, const char *name, int32_t most)
{
    double value;

    if (!value_number(file, name, &value) || !(value >= 0 && value <= most) ||
        value != (double)(int32_t)value)
        return -1;
    return (int32_t)value;
}

size_t linear_head_notes(struct linear_head_note notes[LINEAR_HEAD_NOTES],
                         const struct ibot_feature_options *features)
{
    static const char *const names[LINEAR_HEAD_NOTES] = {"n_last_blocks", "avgpool_patchtokens",
                                                         "topk", "reverse_top"};
    int32_t values[LINEAR_HEAD_NOTES] = {features->n_last_blocks, features->avgpool, features->topk,
                                         features->reverse_top};
    size_t n = features->topk > 0 ? 4 : 2;

    for (size_t i = 0; i < n; i++) {
        notes[i].name = names[i];
        snprintf(notes[i].text, sizeof(notes[i].text), "%d", values[i]);
    }
    return n;
}

static void read_values(struct linear_head *out, const struct weight_file *file)
{
    int32_t n = value_count(file, "n_last_blocks", 256);
    int32_t avgpool = value_count(file, "avgpool_patchtokens", 2);
    int32_t topk = value_count(file, "topk", 1 << 24);

    if (n > 0 && avgpool >= 0)
        out->features = (struct ibot_feature_options){
            .n_last_blocks = n,
            .avgpool = avgpool,
            .topk = topk > 0 ? topk : 0,
            .reverse_top = value_count(file, "reverse_top", 1) > 0,
        };
    int32_t epoch = value_count(file, "epoch", INT32_MAX - 1);
    out->epoch = epoch > 0 ? epoch : 0;
    if (!value_number(file, "top1", &out->top1) && !value_number(file, "best_acc", &out->top1))
        out->top1 = -1.0;
}

/* ------------------------------------------------------------------------------ tensors */

/* Of "module.NAME" too. */
static const struct weight_entry *find(const struct place *place, const char *before,
                                       const char *name)
{
    char full[64];

    for (int wrapped = 0; wrapped < 2; wrapped++) {
        snprintf(full, sizeof(full), "%s%s%s", before, wrapped ? "module." : "", name);
        const struct weight_entry *entry = weight_file_find(place->file, place->group, full);
        if (entry != NULL)
            return entry;
    }
    return NULL;
}

/* "N." of the best of many classifiers; "" where there is one, or none. */
static enum status best_of_many(const struct place *place, char *out, size_t size)
{
    double best;

    out[0] = '\0';
    if (find(place, "0.", "linear.weight") == NULL)
        return STATUS_OK;
    if (!value_number(place->file, "best_acc_hidx", &best) || !(best >= 0 && best < 1e6))
        FAIL(STATUS_NOT_FOUND,
             "weights file '%s' has many linear classifiers (0.module.linear.weight, …), and no "
             "best_acc_hidx that says which is the best",
             place->file->path);
    snprintf(out, size, "%d.", (int)best);
    return STATUS_OK;
}

static enum status take(struct linear_head *out, const struct weight_file *file,
                        const struct weight_entry *weight, const struct weight_entry *bias)
{
    char a[160], b[160];

    if (weight->rank != 2 || weight->shape[0] < 1 || weight->shape[1] < 1 ||
        weight->shape[0] > MAX_CLASSES || weight->shape[1] > MAX_DIM || bias->rank != 1 ||
        bias->shape[0] != weight->shape[0])
        FAIL(STATUS_MISMATCH, "weights file '%s': '%s' is %s, '%s' %s: wanted [K, D] and [K]",
             file->path, weight->name, weight_shape_text(weight->rank, weight->shape, a, sizeof(a)),
             bias->name, weight_shape_text(bias->rank, bias->shape, b, sizeof(b)));
    out->n_classes = (int32_t)weight->shape[0];
    out->dim = (int32_t)weight->shape[1];
    TRY(memory_alloc_unset(&out->weight, (size_t)out->n_classes * (size_t)out->dim, sizeof(float),
                           "linear classifier"));
    TRY(memory_alloc_unset(&out->bias, (size_t)out->n_classes, sizeof(float), "linear classifier"));
    TRY(weight_file_read_f32(file, weight, out->weight));
    return weight_file_read_f32(file, bias, out->bias);
}

/* supervised: a network's own "head." counts too. */
static enum status read_place(struct linear_head *out, const struct place *place, bool supervised)
{
    static const char *const kinds[] = {"linear", "head"};
    char best[16], name[16];

    memset(out, 0, sizeof(*out));
    TRY(best_of_many(place, best, sizeof(best)));
    for (int k = 0; k < 1 + (int)supervised; k++) {
        snprintf(name, sizeof(name), "%s.weight", kinds[k]);
        const struct weight_entry *weight = find(place, best, name);
        snprintf(name, sizeof(name), "%s.bias", kinds[k]);
        const struct weight_entry *bias = find(place, best, name);
        if (weight == NULL || bias == NULL)
            continue;
        enum status status = take(out, place->file, weight, bias);
        if (status != STATUS_OK) {
            linear_head_release(out);
            return status;
        }
        read_values(out, place->file);
        if (k == 1) /* it was trained with the network */
            out->features = (struct ibot_feature_options){.n_last_blocks = 1};
        return STATUS_OK;
    }
    FAIL(STATUS_NOT_FOUND,
         "weights file '%s', key '%s': there is no linear classifier in it (%slinear.weight and "
         "%slinear.bias): give what ibot-eval linear wrote with --output_dir, what ibot-convert "
         "--linear made of it, or the original's checkpoint_teacher_linear.pth",
         place->file->path, place->group, best, best);
}

/* ------------------------------------------------------------------------------ reading */

enum status linear_head_read(struct linear_head *out, const char *path)
{
    char within[CHECKPOINT_MAX_PATH];
    struct weight_file file;
    struct place place = {&file, NULL};
    struct stat info;
    enum status status;

    memset(out, 0, sizeof(*out));
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        snprintf(within, sizeof(within), "%s/linear.safetensors", path);
        if (stat(within, &info) != 0)
            FAIL(STATUS_NOT_FOUND,
                 "there is no linear.safetensors in the folder '%s': wanted one that ibot-eval "
                 "linear --output_dir wrote, or a file",
                 path);
        path = within;
    }
    TRY(weight_file_open(&file, path));
    TRY_OUT(weight_file_group(&file, NULL, &place.group));
    status = read_place(out, &place, false);
out:
    weight_file_release(&file);
    return status;
}

enum status linear_head_within(struct linear_head *out, const struct pretrained *p)
{
    return read_place(out, &(struct place){&p->file, p->selection.key}, true);
}

enum status linear_head_settle(struct linear_head *head, const struct backbone_options *backbone,
                               const struct ibot_feature_options *wanted)
{
    struct ibot_feature_options *features = &head->features;
    int32_t width = backbone_width(backbone);

    if (wanted->n_last_blocks > 0)
        *features = *wanted;
    if (features->n_last_blocks == 0 && head->dim == 2 * width)
        *features = (struct ibot_feature_options){.n_last_blocks = 1, .avgpool = 2};
    for (int32_t n = 1; features->n_last_blocks == 0 && n <= backbone->depth; n++) {
        struct ibot_feature_options one = {.n_last_blocks = n};
        if (backbone_feature_dim(backbone, &one) == head->dim)
            *features = one;
    }
    if (features->n_last_blocks == 0)
        FAIL(
            STATUS_MISMATCH,
            "the linear classifier takes %d features, and of this backbone (width %d, %d blocks) "
            "no "
            "number of last blocks gives as many: it is another backbone's, or --n_last_blocks and "
            "--avgpool_patchtokens must say what it takes",
            head->dim, width, backbone->depth);
    int32_t dim = backbone_feature_dim(backbone, features);
    if (dim != head->dim)
        FAIL(STATUS_MISMATCH,
             "the linear classifier takes %d features, and this backbone (width %d, %d blocks) "
             "gives %d with n_last_blocks %d, avgpool_patchtokens %d: it is another backbone's, or "
             "--n_last_blocks and --avgpool_patchtokens must be others",
             head->dim, width, backbone->depth, dim, features->n_last_blocks, features->avgpool);
    return STATUS_OK;
}

void linear_head_release(struct linear_head *head)
{
    if (head == NULL)
        return;
    memory_free(head->weight);
    memory_free(head->bias);
    memset(head, 0, sizeof(*head));
}
