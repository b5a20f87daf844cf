/* Foregrounds of ImageNet-9 on adversarial backgrounds: each is put on every background there is,
 * and is vulnerable if the answer is wrong on one of them. Those that have deceived before are
 * tried first, which changes no result. */
#include <stdio.h>
#include <string.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/eval/folder_names.h"
#include "trainer/eval/npy.h"
#include "trainer/eval/robustness.h"
#include "trainer/eval/robustness_scores.h"
#include "trainer/utf8_text.h"

enum { MAX_PATH = 4096 };

static const int64_t keep_every_ns = 60 * (int64_t)1000000000;

struct challenge {
    const struct robustness *r;
    const char *folder;
    int32_t size;
    uint8_t *backgrounds; /* [n_backgrounds, size, size, 3] */
    int32_t n_backgrounds;
    int32_t *order;      /* of them, those that deceived last first */
    uint8_t *foreground; /* [size, size, 3] */
    uint8_t *mask;       /* [size, size] */
    uint8_t *pictures;   /* [batch, size, size, 3] */
};

static enum status read_backgrounds(struct challenge *c)
{
    struct image_form form = {IMAGE_CROP, c->size, c->size, false};
    size_t picture = 3 * (size_t)c->size * (size_t)c->size;
    struct images *images = NULL;
    char path[MAX_PATH];
    const char *paths[] = {path};
    enum status status;

    snprintf(path, sizeof(path), "%s/only_bg_t/val", c->folder);
    TRY(images_open(&images, paths, 1, c->r->n_threads));
    if (images_n(images) > 1 << 20)
        FAIL_OUT(STATUS_INVALID, "'%s' has %lld backgrounds; %d are the most", path,
                 (long long)images_n(images), 1 << 20);
    c->n_backgrounds = (int32_t)images_n(images);
    TRY_OUT(memory_alloc_unset(&c->backgrounds, (size_t)c->n_backgrounds, picture, "backgrounds"));
    TRY_OUT(memory_alloc(&c->order, (size_t)c->n_backgrounds, sizeof(*c->order), "backgrounds"));
    for (int32_t first = 0; first < c->n_backgrounds; first++) {
        int64_t which = first;
        c->order[first] = first;
        TRY_OUT(images_read(images, c->backgrounds + (size_t)first * picture, &which, 1, &form));
    }
out:
    images_close(&images);
    return status;
}

static enum status read_foreground(struct challenge *c, const char *class, const char *name)
{
    struct image_form form = {IMAGE_CROP, c->size, c->size, false};
    int stem = (int)strlen(name) - 4; /* .npy */
    struct images *images = NULL;
    char path[MAX_PATH];
    const char *paths[] = {path};
    int64_t first = 0;

    snprintf(path, sizeof(path), "%s/fg_mask/val/%s/%s", c->folder, class, name);
    TRY(npy_mask_read(c->mask, c->size, path));
    snprintf(path, sizeof(path), "%s/original/val/%s/%.*s.JPEG", c->folder, class, stem, name);
    TRY(images_open(&images, paths, 1, 1));
    enum status status = images_read(images, c->foreground, &first, 1, &form);
    images_close(&images);
    return status;
}

/* The foreground on backgrounds order[first .. first+n-1]. */
static void compose(struct challenge *c, int32_t first, int32_t n)
{
    int64_t area = (int64_t)c->size * c->size;

#pragma omp parallel for schedule(static)
    for (int32_t i = 0; i < n; i++) {
        const uint8_t *background = c->backgrounds + 3 * area * c->order[first + i];
        uint8_t *out = c->pictures + 3 * area * i;
        for (int64_t p = 0; p < area; p++)
            memcpy(out + 3 * p, (c->mask[p] ? c->foreground : background) + 3 * p, 3);
    }
}

static void move_to_front(struct challenge *c, int32_t place)
{
    int32_t held = c->order[place];

    memmove(c->order + 1, c->order, (size_t)place * sizeof(*c->order));
    c->order[0] = held;
}

static enum status is_vulnerable(struct challenge *c, int32_t label, bool *out)
{
    struct frozen_classifier *classifier = c->r->classifier;
    int32_t n_classes = classifier->head.n_classes, most = classifier->network.batch_size;
    struct tensor pixels;

    *out = false;
    for (int32_t first = 0; first < c->n_backgrounds && !*out; first += most) {
        int32_t rest = c->n_backgrounds - first, n = rest < most ? rest : most;
        compose(c, first, n);
        TRY(inference_upload(&classifier->network, c->pictures, DTYPE_U8, n, &pixels));
        TRY(frozen_classifier_run(classifier, pixels));
        for (int32_t i = 0; i < n && !*out; i++) {
            int32_t answer = argmax(classifier->logits + (int64_t)i * n_classes, n_classes);
            *out = (n_classes == IN9_CLASSES ? answer : in9_class(answer)) != label;
            if (*out)
                move_to_front(c, first + i);
        }
    }
    return STATUS_OK;
}

static bool is_mask(const char *name)
{
    size_t n = strlen(name);
    return n > 4 && strcmp(name + n - 4, ".npy") == 0;
}

static enum status each_foreground(struct challenge *c, int32_t label, const char *class,
                                   const struct folder_names *names, const char *part,
                                   double sums[2])
{
    const struct robustness *r = c->r;
    int64_t done, kept_ns = clock_monotonic_ns();
    char line[160];

    TRY(book_progress_read(r->book, part, &done, sums, 2));
    for (int64_t i = done; i < names->n; i++) {
        bool vulnerable, stop = r->stop != NULL && atomic_load(r->stop) != 0;
        if (stop || clock_monotonic_ns() - kept_ns > keep_every_ns) {
            TRY(book_progress_write(r->book, part, i, sums, 2));
            kept_ns = clock_monotonic_ns();
        }
        if (stop)
            FAIL(STATUS_INTERRUPTED, "interrupted after %lld of %d foregrounds of '%s'%s",
                 (long long)i, names->n, class,
                 r->book->folder != NULL ? "; the same command goes on" : "");
        if (is_mask(folder_name(names, (int)i))) {
            TRY(read_foreground(c, class, folder_name(names, (int)i)));
            TRY(is_vulnerable(c, label, &vulnerable));
            sums[0]++;
            sums[1] += vulnerable;
        }
        snprintf(line, sizeof(line), "%s: %lld of %d foregrounds, %.0f of %.0f are vulnerable",
                 class, (long long)i + 1, names->n, sums[1], sums[0]);
        log_status_line(line);
    }
    log_status_line(NULL);
    return STATUS_OK;
}

static enum status one_class(struct challenge *c, int32_t label, const char *class,
                             double totals[2])
{
    struct book_entry entry = {.test = "background_challenge", .data = c->folder};
    struct folder_names names = {0};
    char path[MAX_PATH], part[MAX_PATH], text[MAX_PATH / 2];
    double sums[2];
    enum status status = STATUS_OK;

    snprintf(entry.setting, sizeof(entry.setting), "%s", class);
    snprintf(part, sizeof(part), "background_challenge: class %d of %s", label,
             utf8_text(text, sizeof(text), c->folder));
    if (!book_find(c->r->book, &entry)) {
        snprintf(path, sizeof(path), "%s/fg_mask/val/%s", c->folder, class);
        TRY(folder_names_read(&names, path, NAMES_OF_FILES, "masks"));
        TRY_OUT(each_foreground(c, label, class, &names, part, sums));
        entry.n_images = (int64_t)sums[0];
        book_value(&entry, "vulnerable", sums[1]);
        if (sums[0] > 0)
            TRY_OUT(book_add(c->r->book, &entry));
    }
    totals[0] += (double)entry.n_images;
    totals[1] += entry.n_values > 0 ? entry.values[0].value : 0.0;
out:
    folder_names_release(&names);
    return status;
}

static enum status open_challenge(struct challenge *c, struct folder_names *classes)
{
    size_t area = (size_t)c->size * (size_t)c->size;
    size_t batch = (size_t)c->r->classifier->network.batch_size;
    char path[MAX_PATH];

    if ((size_t)snprintf(path, sizeof(path), "%s/fg_mask/val", c->folder) >= sizeof(path))
        FAIL(STATUS_INVALID, "the path '%s' is too long", c->folder);
    TRY(folder_names_read(classes, path, NAMES_OF_FOLDERS, "masks of foregrounds"));
    if (classes->n != IN9_CLASSES)
        FAIL(STATUS_MISMATCH, "'%s' has %d class folders, wanted %d", path, classes->n,
             IN9_CLASSES);
    TRY(memory_alloc(&c->foreground, area, 3, "pictures"));
    TRY(memory_alloc(&c->mask, area, 1, "mask"));
    TRY(memory_alloc(&c->pictures, batch, 3 * area, "pictures"));
    return read_backgrounds(c);
}

enum status test_background_challenge(const struct robustness *r, const char *folder)
{
    struct challenge c = {.r = r, .folder = folder, .size = r->classifier->network.size_px};
    struct book_entry all = {.test = "background_challenge", .setting = "all", .data = folder};
    int32_t n_classes = r->classifier->head.n_classes;
    struct folder_names classes = {0};
    double totals[2] = {0.0, 0.0};
    enum status status;

    if (n_classes != IN9_CLASSES && n_classes != IMAGENET_CLASSES)
        FAIL(STATUS_MISMATCH,
             "the backgrounds challenge wants a classifier of %d or %d classes; "
             "this one has %d",
             IMAGENET_CLASSES, IN9_CLASSES, n_classes);
    TRY_OUT(open_challenge(&c, &classes));
    for (int i = 0; i < classes.n; i++)
        TRY_OUT(one_class(&c, i, folder_name(&classes, i), totals));
    if (totals[0] == 0)
        FAIL_OUT(STATUS_NOT_FOUND, "'%s/fg_mask/val' has no masks CLASS/NAME.npy", folder);
    if (book_find(r->book, &all))
        goto out;
    all.n_images = (int64_t)totals[0];
    book_value(&all, "vulnerable", totals[1]);
    book_value(&all, "percent_vulnerable", 100.0 * totals[1] / totals[0]);
    status = book_add(r->book, &all);
out:
    folder_names_release(&classes);
    memory_free(c.backgrounds);
    memory_free(c.order);
    memory_free(c.foreground);
    memory_free(c.mask);
    memory_free(c.pictures);
    return status;
}
