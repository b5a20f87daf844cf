/* Names of one network. */
#include "trainer/weights/weight_selection.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"

static const char wrapper[] = "module.", prefix[] = "backbone.";

static const char *without(const char *name, const char *start)
{
    size_t n = strlen(start);
    return strncmp(name, start, n) == 0 ? name + n : name;
}

static bool starts_with(const char *name, const char *start)
{
    return strncmp(name, start, strlen(start)) == 0;
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

bool weight_name_is_derived(const char *name)
{
    return ends_with(name, ".relative_position_index") || ends_with(name, ".attn_mask");
}

/* Moves the number in "layers.N.downsample.": +1 or -1. False when the name is another. */
static bool move_downsample(const char *name, int by, char out[WEIGHT_MAX_NAME])
{
    int stage, n = 0;

    if (sscanf(name, "layers.%d.downsample.%n", &stage, &n) != 1 || n == 0 || stage + by < 0 ||
        stage > 1000)
        return false;
    return snprintf(out, WEIGHT_MAX_NAME, "layers.%d.downsample.%s", stage + by, name + n) <
           WEIGHT_MAX_NAME;
}

void weight_name_timm(const char *name, char out[WEIGHT_MAX_NAME])
{
    if (!move_downsample(name, 1, out))
        snprintf(out, WEIGHT_MAX_NAME, "%s", name);
}

/* What holds of all names of the group. */
struct naming {
    bool prefixed;        /* backbone. */
    bool late_downsample; /* timm's numbers */
};

static struct naming naming_of(const struct weight_file *file, const char *key)
{
    struct naming naming = {0};
    bool first = false, any = false;

    for (size_t i = 0; i < file->n_entries; i++) {
        if (strcmp(file->entries[i].group, key) != 0)
            continue;
        const char *name = without(file->entries[i].name, wrapper);
        naming.prefixed |= starts_with(name, prefix);
        name = without(name, prefix);
        first |= starts_with(name, "layers.0.downsample.");
        any |= starts_with(name, "layers.") && strstr(name, ".downsample.") != NULL;
    }
    naming.late_downsample = any && !first;
    return naming;
}

/* In a file whose backbone has no prefix. */
static bool is_head(const char *name)
{
    static const char *const heads[] = {"head.", "linear.", "decoder.", "auxiliary."};

    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        if (starts_with(name, heads[i]))
            return true;
    return false;
}

static enum status select_one(const struct weight_file *file, const struct weight_entry *entry,
                              const struct naming *naming, struct weight_selected *out)
{
    const char *name = without(entry->name, wrapper);

    out->entry = entry;
    out->backbone = naming->prefixed ? starts_with(name, prefix) : !is_head(name);
    if (!out->backbone)
        name = entry->name;
    else if (naming->prefixed)
        name = without(name, prefix);
    if (strlen(name) >= WEIGHT_MAX_NAME)
        FAIL(STATUS_UNSUPPORTED, "weights file '%s': a tensor has an overlong name: '%.60s…'",
             file->path, name);
    if (!out->backbone || !naming->late_downsample || !move_downsample(name, -1, out->name))
        strcpy(out->name, name);
    return STATUS_OK;
}

static int selected_compare(const void *left, const void *right)
{
    const struct weight_selected *const *a = left, *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

/* module.x and x would be the same. */
static enum status check_names_differ(const struct weight_selection *s)
{
    const struct weight_selected **order;
    enum status status = STATUS_OK;

    TRY(memory_alloc(&order, s->n, sizeof(struct weight_selected *), "tensors"));
    for (size_t i = 0; i < s->n; i++)
        order[i] = &s->tensors[i];
    if (s->n > 1)
        qsort(order, s->n, sizeof(struct weight_selected *), selected_compare);
    for (size_t i = 1; i < s->n && status == STATUS_OK; i++)
        if (strcmp(order[i - 1]->name, order[i]->name) == 0)
            status = status_set(
                STATUS_CORRUPT, "weights file '%s': '%s' and '%s' of '%s' are the same tensor",
                s->file->path, order[i - 1]->entry->name, order[i]->entry->name, s->key);
    memory_free(order);
    return status;
}

enum status weight_selection_open(struct weight_selection *out, const struct weight_file *file,
                                  const char *key)
{
    struct weight_selection selection = {.file = file};
    enum status status;

    memset(out, 0, sizeof(*out));
    TRY(weight_file_group(file, key, &selection.key));
    struct naming naming = naming_of(file, selection.key);
    TRY(memory_alloc(&selection.tensors, file->n_entries, sizeof(*selection.tensors), "tensors"));
    for (size_t i = 0; i < file->n_entries; i++) {
        struct weight_selected *selected = &selection.tensors[selection.n];
        if (strcmp(file->entries[i].group, selection.key) != 0)
            continue;
        TRY_OUT(select_one(file, &file->entries[i], &naming, selected));
        selection.n++;
        selection.n_backbone += selected->backbone;
    }
    TRY_OUT(check_names_differ(&selection));
    *out = selection;
    memset(&selection, 0, sizeof(selection));
out:
    weight_selection_release(&selection);
    return status;
}

void weight_selection_release(struct weight_selection *selection)
{
    if (selection == NULL)
        return;
    memory_free(selection->tensors);
    memset(selection, 0, sizeof(*selection));
}

const struct weight_selected *weight_selection_find(const struct weight_selection *selection,
                                                    const char *name)
{
    for (size_t i = 0; i < selection->n; i++)
        if (selection->tensors[i].backbone && strcmp(selection->tensors[i].name, name) == 0)
            return &selection->tensors[i];
    return NULL;
}
