#include "trainer/eval/retrieval_truth.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"

enum { MAX_SIDE_PX = 65500 }; /* that an image may have */

static const char *const list_names[RETRIEVAL_LISTS] = {"easy", "hard", "junk"};

static bool is_list(const struct pickle_value *value)
{
    return value != NULL && (value->kind == PICKLE_LIST || value->kind == PICKLE_TUPLE);
}

static const char *kind_of(const struct pickle_value *value)
{
    return value != NULL ? pickle_kind_name(value->kind) : "nothing";
}

/* A name becomes a path: it may lead nowhere else. */
static bool is_sound_name(const char *name)
{
    return name != NULL && name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL &&
           strlen(name) < 200;
}

static enum status take_names(const struct pickle_value *root, const char *key, int64_t most,
                              const char ***out, int32_t *n, const char *file)
{
    const struct pickle_value *list = pickle_find(root, key);

    if (!is_list(list) || list->sequence.n < 1 || list->sequence.n > (size_t)most)
        FAIL(STATUS_CORRUPT, "%s: '%s' is %s, wanted a list of 1 to %lld names", file, key,
             kind_of(list), (long long)most);
    TRY(memory_alloc((void *)out, list->sequence.n, sizeof(**out), "names"));
    for (size_t i = 0; i < list->sequence.n; i++) {
        (*out)[i] = pickle_text(list->sequence.items[i]);
        if (!is_sound_name((*out)[i]))
            FAIL(STATUS_CORRUPT,
                 "%s: entry %zu of '%s' is no name of an image (a short text without '/' and not "
                 "beginning with '.')",
                 file, i, key);
    }
    *n = (int32_t)list->sequence.n;
    return STATUS_OK;
}

static enum status take_images(const struct retrieval_truth *truth, struct retrieval_query *query,
                               const struct pickle_value *entry, int32_t which, size_t q,
                               const char *file)
{
    const struct pickle_value *list = pickle_find(entry, list_names[which]);

    if (!is_list(list) || list->sequence.n > (size_t)truth->n_images)
        FAIL(STATUS_CORRUPT, "%s: '%s' of query %zu is %s, wanted a list of at most %d images",
             file, list_names[which], q, kind_of(list), truth->n_images);
    if (list->sequence.n == 0)
        return STATUS_OK;
    TRY(memory_alloc(&query->images[which], list->sequence.n, sizeof(int32_t), "images"));
    for (size_t i = 0; i < list->sequence.n; i++) {
        int64_t image;
        if (!pickle_integer(list->sequence.items[i], &image) || image < 0 ||
            image >= truth->n_images)
            FAIL(STATUS_CORRUPT,
                 "%s: entry %zu of '%s' of query %zu is no number from 0 to %d, of an image", file,
                 i, list_names[which], q, truth->n_images - 1);
        query->images[which][i] = (int32_t)image;
    }
    query->n[which] = (int32_t)list->sequence.n;
    return STATUS_OK;
}

/* Sides become whole pixels as Pillow's crop rounds them: half to even. */
static enum status take_box(struct retrieval_query *query, const struct pickle_value *entry,
                            size_t q, const char *file)
{
    const struct pickle_value *list = pickle_find(entry, "bbx");
    double side[4];

    if (list == NULL)
        return STATUS_OK;
    bool sound = is_list(list) && list->sequence.n == 4;
    for (size_t i = 0; i < 4 && sound; i++) {
        int64_t whole = 0;
        sound = pickle_number(list->sequence.items[i], &side[i]);
        if (!sound && pickle_integer(list->sequence.items[i], &whole)) {
            side[i] = (double)whole;
            sound = true;
        }
        sound = sound && side[i] >= 0.0 && side[i] <= MAX_SIDE_PX;
        side[i] = sound ? nearbyint(side[i]) : 0.0;
    }
    if (!sound || side[2] <= side[0] || side[3] <= side[1])
        FAIL(STATUS_CORRUPT,
             "%s: 'bbx' of query %zu is not [left, top, right, bottom] in pixels of an image", file,
             q);
    query->box = (struct image_box){(int32_t)side[0], (int32_t)side[1],
                                    (int32_t)(side[2] - side[0]), (int32_t)(side[3] - side[1])};
    return STATUS_OK;
}

static enum status parse(struct retrieval_truth *out, const char *name)
{
    const struct pickle_value *root = out->pickle.root, *gnd = pickle_find(root, "gnd");

    if (root->kind != PICKLE_DICT)
        FAIL(STATUS_CORRUPT, "%s: is %s, wanted a dictionary of imlist, qimlist and gnd", name,
             kind_of(root));
    TRY(take_names(root, "imlist", RETRIEVAL_MAX_IMAGES, &out->names, &out->n_images, name));
    TRY(take_names(root, "qimlist", RETRIEVAL_MAX_QUERIES, &out->query_names, &out->n_queries,
                   name));
    if (!is_list(gnd) || gnd->sequence.n != (size_t)out->n_queries)
        FAIL(STATUS_CORRUPT,
             "%s: 'gnd' is %s of %zu, wanted a list of one dictionary for each of %d "
             "queries",
             name, kind_of(gnd), is_list(gnd) ? gnd->sequence.n : 0, out->n_queries);
    TRY(memory_alloc(&out->queries, (size_t)out->n_queries, sizeof(*out->queries), "queries"));
    for (size_t q = 0; q < gnd->sequence.n; q++) {
        for (int32_t i = 0; i < RETRIEVAL_LISTS; i++)
            TRY(take_images(out, &out->queries[q], gnd->sequence.items[q], i, q, name));
        TRY(take_box(&out->queries[q], gnd->sequence.items[q], q, name));
    }
    return STATUS_OK;
}

enum status retrieval_truth_parse(struct retrieval_truth *out, const void *bytes, size_t n_bytes,
                                  const char *name)
{
    memset(out, 0, sizeof(*out));
    TRY(pickle_load(&out->pickle, bytes, n_bytes, name));
    enum status status = parse(out, name);
    if (status != STATUS_OK)
        retrieval_truth_close(out);
    return status;
}

enum status retrieval_truth_open(struct retrieval_truth *out, const char *path)
{
    FILE *file = fopen(path, "rb");
    enum status status;
    char *bytes = NULL;

    memset(out, 0, sizeof(*out));
    if (file == NULL)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "'%s' can't be read: %s", path,
             strerror(errno));
    TRY_OUT(memory_alloc_unset(&bytes, PICKLE_MAX_BYTES + 1, 1, "ground truth"));
    size_t n = fread(bytes, 1, PICKLE_MAX_BYTES + 1, file);
    if (ferror(file))
        FAIL_OUT(STATUS_IO, "'%s' can't be read: %s", path, strerror(errno));
    status = retrieval_truth_parse(out, bytes, n, path);
out:
    memory_free(bytes);
    fclose(file);
    return status;
}

void retrieval_truth_close(struct retrieval_truth *truth)
{
    if (truth == NULL)
        return;
    for (int32_t q = 0; truth->queries != NULL && q < truth->n_queries; q++)
        for (int32_t i = 0; i < RETRIEVAL_LISTS; i++)
            memory_free(truth->queries[q].images[i]);
    memory_free(truth->queries);
    memory_free((void *)truth->names);
    memory_free((void *)truth->query_names);
    pickle_release(&truth->pickle);
    memset(truth, 0, sizeof(*truth));
}
