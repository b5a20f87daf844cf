/* ibot-convert: weights from one file into another, what is in a file, what differs between two. */
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/options.h"
#include "trainer/linear_head.h"
#include "trainer/official_checkpoint.h"
#include "trainer/pretrained.h"
#include "trainer/weights/weight_compare.h"
#include "trainer/weights/weight_export.h"

enum convert_to { TO_BACKBONE, TO_TIMM, TO_OFFICIAL };

struct convert_options {
    const char *key;
    bool with_head;
    int to;
    const char *linear;
    int32_t n_last_blocks, avgpool_patchtokens, n_heads;
};

struct inspect_options {
    bool digest;
};

struct diff_options {
    const char *key;
    double tolerance;
};

static const char *const targets[] = {"backbone", "timm", "official", NULL};

static const struct option_spec convert_specs[] = {
    {.name = "key",
     .alias = "checkpoint_key",
     .type = OPTION_STRING,
     .offset = offsetof(struct convert_options, key),
     .argument = "KEY",
     .help = "which network of IN: teacher, student, state_dict, model, …; without, the first of "
             "teacher, state_dict, model, student that is there, or the whole of a flat file"},
    {.name = "num_heads",
     .type = OPTION_INT32,
     .offset = offsetof(struct convert_options, n_heads),
     .text = "0",
     .minimum = 0,
     .maximum = 256,
     .help =
         "attention heads of a ViT of unusual width, which its shapes don't tell; 0: as IN says"},
    {.name = "with_head",
     .type = OPTION_BOOL,
     .offset = offsetof(struct convert_options, with_head),
     .text = "off",
     .help = "keep what is not of the backbone too, under the names it has"},
    {.name = "to",
     .type = OPTION_CHOICE,
     .offset = offsetof(struct convert_options, to),
     .choices = targets,
     .text = "backbone",
     .help = "backbone: the original's names, in a .pth under the key state_dict as its "
             "extract_backbone_weights.py writes them; timm: timm's names, flat; official: a whole "
             "checkpoint for its main_ibot.py --load_from, of a run or checkpoint of ours"},
    {.name = "linear",
     .alias = "checkpoint_linear",
     .type = OPTION_STRING,
     .offset = offsetof(struct convert_options, linear),
     .argument = "PATH",
     .help =
         "write the backbone with a linear classifier (linear.weight, linear.bias), as ibot-eval "
         "robustness and the original's robustness programs take it: of a folder that ibot-eval "
         "linear wrote, a file of it, or the original's checkpoint_teacher_linear.pth"},
    {.name = "n_last_blocks",
     .type = OPTION_INT32,
     .offset = offsetof(struct convert_options, n_last_blocks),
     .text = "0",
     .minimum = 0,
     .maximum = 256,
     .help = "the classifier takes [CLS] tokens of this many last blocks; 0: as its file says, or "
             "its width"},
    {.name = "avgpool_patchtokens",
     .type = OPTION_INT32,
     .offset = offsetof(struct convert_options, avgpool_patchtokens),
     .text = "0",
     .minimum = 0,
     .maximum = 2,
     .help = "with --n_last_blocks: 0: [CLS] tokens; 1: mean of the last block's patch tokens; 2: "
             "both"},
};

static const struct options_program convert_program = {
    .name = "ibot-convert",
    .summary = "Takes a network out of a checkpoint or a file of weights. IN is a run folder, a "
               "checkpoint folder, a safetensors file, or what torch.save wrote; what OUT is, its "
               "ending says: .safetensors or .pth. Nothing that a file says is executed.",
    .epilogue = "  ibot-convert runs/small backbone.pth\n"
                "  ibot-convert checkpoint.pth student.safetensors --key student --with_head\n"
                "  ibot-convert runs/small vit.safetensors --to timm\n"
                "  ibot-convert runs/small checkpoint.pth --to official\n"
                "  ibot-convert runs/small classifier.pth --linear runs/small/linear\n\n"
                "Further commands, each with its own --help:\n"
                "  ibot-convert inspect FILE   tensors, values and digest of a file\n"
                "  ibot-convert diff A B       what differs between two files",
    .specs = convert_specs,
    .n_specs = sizeof(convert_specs) / sizeof(convert_specs[0]),
    .positional = "IN OUT",
    .min_positional = 2,
    .max_positional = 2,
};

static const struct option_spec inspect_specs[] = {
    {.name = "digest",
     .type = OPTION_BOOL,
     .offset = offsetof(struct inspect_options, digest),
     .text = "on",
     .help = "read all data for the digest, which is that of names, types, shapes and values: the "
             "same in any container"},
};

static const struct options_program inspect_program = {
    .name = "ibot-convert inspect",
    .summary = "Lists what is in a file of weights.",
    .epilogue = "  ibot-convert inspect checkpoint.pth",
    .specs = inspect_specs,
    .n_specs = sizeof(inspect_specs) / sizeof(inspect_specs[0]),
    .positional = "FILE",
    .min_positional = 1,
    .max_positional = 1,
};

static const struct option_spec diff_specs[] = {
    {.name = "key",
     .type = OPTION_STRING,
     .offset = offsetof(struct diff_options, key),
     .argument = "KEY",
     .help =
         "compare this network of each file (the whole of a flat one), under our names; without, "
         "all tensors when both files have the same keys, else the networks that ibot-convert "
         "would take"},
    {.name = "tolerance",
     .type = OPTION_DOUBLE,
     .offset = offsetof(struct diff_options, tolerance),
     .text = "0",
     .minimum = 0,
     .maximum = 1,
     .help = "values are the same when they differ by no more than this share of the largest in "
             "the tensor"},
};

static const struct options_program diff_program = {
    .name = "ibot-convert diff",
    .summary = "Says what differs between two files of weights. Exit status 1 when something does.",
    .epilogue = "  ibot-convert diff checkpoint.pth backbone.safetensors",
    .specs = diff_specs,
    .n_specs = sizeof(diff_specs) / sizeof(diff_specs[0]),
    .positional = "A B",
    .min_positional = 2,
    .max_positional = 2,
};

/* ------------------------------------------------------------------------------ convert */

enum { MAX_PAIRS = 16, MAX_VALUE = 128 };

/* What a reader of safetensors may want to know, and ibot-eval does. */
struct metadata {
    char values[MAX_PAIRS][MAX_VALUE];
    const char *pairs[2 * MAX_PAIRS];
    size_t n;
};

IBOT_PRINTF(3, 4)
static void metadata_add(struct metadata *metadata, const char *name, const char *format, ...)
{
    va_list arguments;

    CHECK(metadata->n < MAX_PAIRS);
    va_start(arguments, format);
    vsnprintf(metadata->values[metadata->n], MAX_VALUE, format, arguments);
    va_end(arguments);
    metadata->pairs[2 * metadata->n] = name;
    metadata->pairs[2 * metadata->n + 1] = metadata->values[metadata->n];
    metadata->n++;
}

static void describe(struct metadata *metadata, const struct pretrained *p)
{
    const struct backbone_options *b = &p->backbone;

    metadata_add(metadata, "format", "pt");
    metadata_add(metadata, "key", "%s", p->selection.key);
    if (b->embed_dim == 0)
        return;
    metadata_add(metadata, "arch", "%s", b->arch);
    metadata_add(metadata, "patch_size", "%d", b->patch_size_px);
    metadata_add(metadata, "global_crop_size", "%d", p->crop_size_px);
    if (b->n_stages == 0)
        metadata_add(metadata, "num_heads", "%d", b->n_heads);
    else
        metadata_add(metadata, "window_size", "%d", b->window_size);
}

static enum status open_weights(struct weight_file *out, const char *path)
{
    struct checkpoint checkpoint;
    struct stat info;

    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return weight_file_open(out, path);
    TRY(checkpoint_open(&checkpoint, path));
    enum status status = weight_file_open(out, checkpoint.path);
    checkpoint_close(&checkpoint);
    return status;
}

/* A whole checkpoint of ours as one of the original's. */
static enum status convert_whole(const char *in, const char *out, const struct convert_options *o)
{
    struct checkpoint checkpoint;
    struct stat info;

    if (o->key != NULL || o->with_head)
        FAIL(STATUS_INVALID, "--to official writes all there is: leave --key and --with_head out");
    if (stat(in, &info) == 0 && !S_ISDIR(info.st_mode))
        FAIL(STATUS_INVALID,
             "--to official wants a run folder or a checkpoint folder of ours; '%s' is a file", in);
    TRY(checkpoint_open(&checkpoint, in));
    enum status status = official_export(&checkpoint, out);
    if (status == STATUS_OK)
        log_info("'%s' written to '%s' as the original writes it", checkpoint.path, out);
    checkpoint_close(&checkpoint);
    return status;
}

static enum status convert_with_linear(const struct pretrained *p, const char *out,
                                       const struct convert_options *o, struct metadata *metadata)
{
    struct ibot_feature_options wanted = {.n_last_blocks = o->n_last_blocks,
                                          .avgpool = o->avgpool_patchtokens};
    struct linear_head_note notes[LINEAR_HEAD_NOTES];
    struct weight_export export = {0};
    struct linear_head head;
    enum status status;

    TRY(linear_head_read(&head, o->linear));
    int64_t shape[2] = {head.n_classes, head.dim};
    if (p->backbone.embed_dim == 0)
        FAIL_OUT(
            STATUS_INVALID,
            "'%s' does not say what network it is (shapes don't tell the number of heads): give "
            "--num_heads, or the run folder that it was made from",
            p->file.path);
    TRY_OUT(linear_head_settle(&head, &p->backbone, &wanted));
    size_t n = linear_head_notes(notes, &head.features);
    for (size_t i = 0; i < n; i++)
        metadata_add(metadata, notes[i].name, "%s", notes[i].text);
    metadata_add(metadata, "epoch", "%lld", (long long)head.epoch);
    metadata_add(metadata, "top1", "%.4f", head.top1);
    TRY_OUT(weight_export_backbone(&export, &p->selection, false));
    TRY_OUT(weight_export_add_values(&export, head.weight, 2, shape, "linear.weight"));
    TRY_OUT(weight_export_add_values(&export, head.bias, 1, shape, "linear.bias"));
    TRY_OUT(weight_export_write_classifier(&export, out, head.epoch, head.top1, metadata->pairs,
                                           metadata->n));
    log_info("'%s', key '%s', with the classifier of '%s' (%d classes of %d features, Top1 %.4f) "
             "written to '%s'",
             p->file.path, p->selection.key, o->linear, head.n_classes, head.dim, head.top1, out);
out:
    weight_export_release(&export);
    linear_head_release(&head);
    return status;
}

static enum status check_linear(const struct convert_options *o)
{
    if (o->linear != NULL && (o->to != TO_BACKBONE || o->with_head))
        FAIL(STATUS_INVALID, "--linear writes a backbone and its classifier: leave --to %s%s out",
             targets[o->to], o->with_head ? " and --with_head" : "");
    if (o->linear == NULL && (o->n_last_blocks > 0 || o->avgpool_patchtokens > 0))
        FAIL(STATUS_INVALID, "--n_last_blocks and --avgpool_patchtokens are for --linear");
    if (o->n_last_blocks == 0 && o->avgpool_patchtokens > 0)
        FAIL(STATUS_INVALID, "--avgpool_patchtokens %d: give --n_last_blocks too",
             o->avgpool_patchtokens);
    return STATUS_OK;
}

static enum status convert(const struct options *options, const struct convert_options *o)
{
    struct weight_export export = {0};
    struct metadata metadata = {0};
    struct pretrained p;
    enum status status;
    bool pth;

    const char *in = options->positional[0], *out = options->positional[1];
    TRY(weight_export_is_pth(out, &pth));
    TRY(check_linear(o));
    if (o->to == TO_OFFICIAL)
        return convert_whole(in, out, o);
    if (o->to == TO_TIMM && o->with_head)
        FAIL(STATUS_INVALID, "--with_head: timm's models have no such head; leave it out");
    TRY(pretrained_open(&p,
                        &(struct pretrained_options){
                            .path = in, .key = o->key, .n_heads = o->n_heads, .names_only = true}));
    describe(&metadata, &p);
    if (o->linear != NULL) {
        status = convert_with_linear(&p, out, o, &metadata);
        goto out;
    }
    TRY_OUT(o->to == TO_TIMM ? weight_export_timm(&export, &p.selection)
                             : weight_export_backbone(&export, &p.selection, o->with_head));
    TRY_OUT(weight_export_write(&export, out, o->to == TO_TIMM ? NULL : "state_dict",
                                metadata.pairs, metadata.n));
    log_info("'%s', key '%s' of %zu tensors: %zu written to '%s'", p.file.path, p.selection.key,
             p.selection.n, export.n, out);
out:
    weight_export_release(&export);
    pretrained_close(&p);
    return status;
}

/* ------------------------------------------------------------------------------ inspect */

static void print_values(const struct weight_file *file)
{
    const struct pickle_value *root = file->pth.object.root;
    char text[4096];

    for (size_t i = 0; i < file->safetensors.n_metadata; i++)
        printf("%s: %s\n", file->safetensors.metadata[2 * i],
               file->safetensors.metadata[2 * i + 1]);
    if (root == NULL || root->kind != PICKLE_DICT)
        return;
    for (size_t i = 0; i + 1 < root->sequence.n; i += 2) {
        const char *key = pickle_text(root->sequence.items[i]);
        const struct pickle_value *value = root->sequence.items[i + 1];
        if (key != NULL && value->kind != PICKLE_DICT && value->kind != PICKLE_TENSOR)
            printf("%s: %s\n", key, pickle_print(value, text, sizeof(text)));
    }
}

static enum status inspect(const struct options *options, const struct inspect_options *o)
{
    struct weight_file file;
    const char *group = NULL;
    enum status status;
    char text[1024];
    uint64_t digest, n_bytes = 0;

    TRY(open_weights(&file, options->positional[0]));
    for (size_t i = 0; i < file.n_entries; i++)
        n_bytes += file.entries[i].n_bytes;
    printf("%s: %s, %zu tensors of %.1f MiB\n", file.path, weight_format_name(file.format),
           file.n_entries, (double)n_bytes / 1048576.0);
    printf("keys: %s\n", weight_file_groups(&file, text, sizeof(text)));
    print_values(&file);
    for (size_t i = 0; i < file.n_entries; i++) {
        const struct weight_entry *entry = &file.entries[i];
        if (group == NULL || strcmp(group, entry->group) != 0)
            printf("\n[%s]\n", entry->group);
        group = entry->group;
        printf("%-48s %-4s %s\n", entry->name, entry->type,
               weight_shape_text(entry->rank, entry->shape, text, sizeof(text)));
    }
    status = STATUS_OK;
    if (o->digest) {
        TRY_OUT(weight_file_digest(&file, &digest));
        printf("\ndigest %016" PRIx64 "\n", digest);
    }
out:
    weight_file_release(&file);
    return status;
}

/* ------------------------------------------------------------------------------ diff */

struct totals {
    size_t n_same, n_different;
};

static void tell(const struct weight_comparison *c, void *context)
{
    struct totals *totals = context;
    char a[160], b[160];

    totals->n_same += c->kind == WEIGHT_SAME;
    totals->n_different += c->kind != WEIGHT_SAME;
    switch (c->kind) {
    case WEIGHT_SAME:
        return;
    case WEIGHT_ONLY_A:
        printf("only in A: %s %s %s\n", c->name, c->a->type,
               weight_shape_text(c->a->rank, c->a->shape, a, sizeof(a)));
        return;
    case WEIGHT_ONLY_B:
        printf("only in B: %s %s %s\n", c->name, c->b->type,
               weight_shape_text(c->b->rank, c->b->shape, b, sizeof(b)));
        return;
    case WEIGHT_SHAPE_DIFFERS:
        printf("shape: %s is %s in A, %s in B\n", c->name,
               weight_shape_text(c->a->rank, c->a->shape, a, sizeof(a)),
               weight_shape_text(c->b->rank, c->b->shape, b, sizeof(b)));
        return;
    case WEIGHT_VALUES_DIFFER:
        if (strcmp(c->a->type, c->b->type) != 0)
            printf("type: %s is %s in A, %s in B\n", c->name, c->a->type, c->b->type);
        if (c->n_different > 0)
            printf("values: %s: %" PRId64 " of %" PRId64 " differ, by %.3g at most (largest "
                   "%.3g)\n",
                   c->name, c->n_different, c->n_values, c->largest_difference, c->largest);
        return;
    }
}

static bool has_group(const struct weight_file *file, const char *group)
{
    for (size_t i = 0; i < file->n_entries; i++)
        if (strcmp(file->entries[i].group, group) == 0)
            return true;
    return false;
}

static bool same_groups(const struct weight_file *a, const struct weight_file *b)
{
    for (size_t i = 0; i < a->n_entries; i++)
        if ((i == 0 || strcmp(a->entries[i].group, a->entries[i - 1].group) != 0) &&
            !has_group(b, a->entries[i].group))
            return false;
    return true;
}

/* One file on its way into the comparison. */
struct side {
    struct weight_file file;
    struct weight_selection selection;
    struct weight_set set;
    char **names; /* "group/name" of all tensors */
};

static enum status side_all(struct side *side)
{
    size_t n = side->file.n_entries;

    TRY(memory_alloc(&side->names, n, sizeof(char *), "names"));
    for (size_t i = 0; i < n; i++) {
        const struct weight_entry *entry = &side->file.entries[i];
        size_t size = strlen(entry->group) + strlen(entry->name) + 2;
        TRY(memory_alloc(&side->names[i], size, 1, "names"));
        snprintf(side->names[i], size, "%s%s%s", entry->group, entry->group[0] != '\0' ? "/" : "",
                 entry->name);
        side->set.tensors[side->set.n++] = (struct weight_named){side->names[i], entry};
    }
    return STATUS_OK;
}

static enum status side_network(struct side *side, const char *key)
{
    bool flat = has_group(&side->file, "") && (key == NULL || !has_group(&side->file, key));

    TRY(weight_selection_open(&side->selection, &side->file, flat ? "" : key));
    for (size_t i = 0; i < side->selection.n; i++)
        side->set.tensors[side->set.n++] = (struct weight_named){side->selection.tensors[i].name,
                                                                 side->selection.tensors[i].entry};
    return STATUS_OK;
}

static void side_close(struct side *side)
{
    for (size_t i = 0; side->names != NULL && i < side->file.n_entries; i++)
        memory_free(side->names[i]);
    memory_free(side->names);
    memory_free(side->set.tensors);
    weight_selection_release(&side->selection);
    weight_file_release(&side->file);
}

static enum status diff(const struct options *options, const struct diff_options *o,
                        struct totals *totals)
{
    struct side sides[2] = {0};
    enum status status;

    for (int i = 0; i < 2; i++)
        TRY_OUT(open_weights(&sides[i].file, options->positional[i]));
    bool all = o->key == NULL && same_groups(&sides[0].file, &sides[1].file) &&
               same_groups(&sides[1].file, &sides[0].file);
    for (int i = 0; i < 2; i++) {
        struct side *side = &sides[i];
        side->set.file = &side->file;
        TRY_OUT(memory_alloc(&side->set.tensors, side->file.n_entries, sizeof(struct weight_named),
                             "tensors"));
        TRY_OUT(all ? side_all(side) : side_network(side, o->key));
    }
    if (!all)
        printf("comparing '%s' of A with '%s' of B\n", sides[0].selection.key,
               sides[1].selection.key);
    TRY_OUT(weight_compare(&sides[0].set, &sides[1].set, o->tolerance, tell, totals));
    printf("%zu tensors are the same, %zu differ\n", totals->n_same, totals->n_different);
out:
    side_close(&sides[0]);
    side_close(&sides[1]);
    return status;
}

/* ------------------------------------------------------------------------------ program */

static enum status run(struct options *options, int argc, char **argv, bool *differ)
{
    struct convert_options convert_values;
    struct inspect_options inspect_values;
    struct diff_options diff_values;
    struct totals totals = {0};
    const char *command = argc > 1 ? argv[1] : "";

    if (strcmp(command, "inspect") == 0) {
        TRY(options_parse(options, &inspect_program, &inspect_values, argc - 1, argv + 1));
        return options->finished ? STATUS_OK : inspect(options, &inspect_values);
    }
    if (strcmp(command, "diff") == 0) {
        TRY(options_parse(options, &diff_program, &diff_values, argc - 1, argv + 1));
        TRY(options->finished ? STATUS_OK : diff(options, &diff_values, &totals));
        *differ = totals.n_different > 0;
        return STATUS_OK;
    }
    if (strcmp(command, "convert") == 0) {
        argc--;
        argv++;
    }
    TRY(options_parse(options, &convert_program, &convert_values, argc, argv));
    return options->finished ? STATUS_OK : convert(options, &convert_values);
}

int main(int argc, char **argv)
{
    struct options options = {0};
    bool differ = false;

    log_start("ibot-convert", LOG_INFO);
    enum status status = run(&options, argc, argv, &differ);
    if (status != STATUS_OK)
        log_error("%s", status_message());
    options_release(&options);
    return status == STATUS_OK && differ ? 1 : status_exit_code(status);
}
