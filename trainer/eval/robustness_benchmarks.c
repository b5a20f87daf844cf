/* Benchmarks that come as folders of pictures: ImageNet-9, ImageNet-A, ImageNet-C. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/eval/folder_names.h"
#include "trainer/eval/robustness.h"
#include "trainer/eval/robustness_scores.h"

enum { MAX_PATH = 4096, N_SEVERITIES = 5 };

/* These pictures have the network's size already. */
static struct image_form as_they_are(const struct robustness *r)
{
    int32_t size = r->classifier->network.size_px;

    return (struct image_form){IMAGE_CROP, size, size, false};
}

static enum status join(char path[MAX_PATH], const char *folder, const char *name, const char *more)
{
    if (snprintf(path, MAX_PATH, "%s/%s%s", folder, name, more) >= MAX_PATH)
        FAIL(STATUS_INVALID, "the path '%s/%s' is too long", folder, name);
    return STATUS_OK;
}

static enum status wants_imagenet(const struct robustness *r, const char *test)
{
    if (r->classifier->head.n_classes != IMAGENET_CLASSES)
        FAIL(STATUS_MISMATCH,
             "%s wants a classifier of the %d classes of ImageNet, in the order of their names; "
             "this one has %d",
             test, IMAGENET_CLASSES, r->classifier->head.n_classes);
    return STATUS_OK;
}

/* One setting, right answers alone, through the book. */
static enum status accuracy(const struct robustness *r, struct pass *pass, struct book_entry *entry,
                            double *top1)
{
    double right = 0.0;

    entry->data = pass->data;
    if (!book_find(r->book, entry)) {
        pass->n_settings = 1;
        pass->n_sums = 1;
        pass->sums = &right;
        pass->context = (void *)(uintptr_t)r;
        char name[BOOK_SETTING_BYTES + 64];
        snprintf(name, sizeof(name), "%s: %s", entry->test, entry->setting);
        pass->name = name;
        TRY(pass_run(r, pass, &entry->n_images));
        book_value(entry, "top1", 100.0 * right / (double)entry->n_images);
        TRY(book_add(r->book, entry));
    }
    if (top1 != NULL)
        *top1 = entry->n_values > 0 ? entry->values[0].value : NAN;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ ImageNet-9 */

static void score_in9(void *context, const struct pass_batch *batch, int32_t i, int32_t label,
                      int32_t setting, const float *logits, double *sums)
{
    const struct robustness *r = context;
    int32_t n = r->classifier->head.n_classes, answer = argmax(logits, n);

    (void)batch, (void)i, (void)setting;
    sums[0] += (n == IN9_CLASSES ? answer : in9_class(answer)) == label;
}

static enum status one_variant(const struct robustness *r, const char *data, const char *name,
                               double *same, double *random)
{
    struct book_entry entry = {.test = "backgrounds"};
    struct pass pass = {
        .data = data, .form = as_they_are(r), .n_classes = IN9_CLASSES, .score = score_in9};
    double top1;

    snprintf(entry.setting, sizeof(entry.setting), "%s", name);
    TRY(accuracy(r, &pass, &entry, &top1));
    if (strcmp(name, "mixed_same") == 0)
        *same = top1;
    if (strcmp(name, "mixed_rand") == 0)
        *random = top1;
    return STATUS_OK;
}

enum status test_backgrounds(const struct robustness *r, const char *folder)
{
    struct folder_names names = {0};
    double same = NAN, random = NAN;
    char path[MAX_PATH];
    enum status status;
    int n = 0;

    if (r->classifier->head.n_classes != IN9_CLASSES)
        TRY(wants_imagenet(r, "--backgrounds"));
    TRY(folder_names_read(&names, folder, NAMES_OF_FOLDERS, "--backgrounds"));
    for (int i = 0; i < names.n; i++) {
        const char *name = folder_name(&names, i);
        TRY_OUT(join(path, folder, name, "/val"));
        if (strcmp(name, "fg_mask") == 0 || !is_folder(path))
            continue;
        TRY_OUT(one_variant(r, path, name, &same, &random));
        n++;
    }
    if (n == 0)
        FAIL_OUT(
            STATUS_NOT_FOUND,
            "--backgrounds '%s' has no VARIANT/val in it (original/val, mixed_rand/val, …), as "
            "the download of the backgrounds challenge has",
            folder);
    if (!isnan(same) && !isnan(random)) {
        struct book_entry gap = {.test = "backgrounds", .setting = "gap", .data = folder};
        if (!book_find(r->book, &gap)) {
            book_value(&gap, "mixed_same_less_mixed_rand", same - random);
            TRY_OUT(book_add(r->book, &gap));
        }
    }
    status = STATUS_OK;
out:
    folder_names_release(&names);
    return status;
}

/* ------------------------------------------------------------------------------ ImageNet-A */

struct answers {
    double *confidence;
    bool *correct;
    int64_t n, most;
};

static void score_imagenet_a(void *context, const struct pass_batch *batch, int32_t i,
                             int32_t label, int32_t setting, const float *logits, double *sums)
{
    struct answers *answers = context;

    (void)batch, (void)i, (void)setting;
    CHECK(answers->n < answers->most);
    double *confidence = &answers->confidence[answers->n];
    bool correct =
        argmax_among(logits, imagenet_a_classes, IMAGENET_A_CLASSES, confidence) == label;
    answers->correct[answers->n++] = correct;
    sums[0] += correct;
}

static enum status measure(const struct robustness *r, struct book_entry *entry,
                           const struct answers *answers, double right)
{
    enum { GROUP = 100 };
    double published, all, area;

    TRY(calibration_error(&published, answers->confidence, answers->correct, answers->n, GROUP,
                          false));
    TRY(calibration_error(&all, answers->confidence, answers->correct, answers->n, GROUP, true));
    TRY(response_rate_accuracy(&area, answers->confidence, answers->correct, answers->n));
    book_value(entry, "top1", 100.0 * right / (double)answers->n);
    book_value(entry, "rms_calibration_error", 100.0 * published);
    book_value(entry, "rms_calibration_error_of_all", 100.0 * all);
    book_value(entry, "aurra", 100.0 * area);
    return book_add(r->book, entry);
}

enum status test_imagenet_a(const struct robustness *r, const char *folder)
{
    struct book_entry entry = {.test = "imagenet_a", .setting = "200 classes", .data = folder};
    struct answers answers = {0};
    struct images *images = NULL;
    double right;
    struct pass pass = {
        .data = folder,
        .form = {IMAGE_CROP, r->classifier->network.size_px, r->resize_px, true},
        .n_classes = IMAGENET_A_CLASSES,
        .n_settings = 1,
        .n_sums = 1,
        .sums = &right,
        .context = &answers,
        .score = score_imagenet_a,
    };
    enum status status;

    TRY(wants_imagenet(r, "--imagenet_a"));
    if (book_find(r->book, &entry))
        return STATUS_OK;
    TRY(images_open(&images, &folder, 1, 1));
    answers.most = images_n(images);
    images_close(&images);
    TRY_OUT(memory_alloc(&answers.confidence, (size_t)answers.most, sizeof(double), "answers"));
    TRY_OUT(memory_alloc(&answers.correct, (size_t)answers.most, sizeof(bool), "answers"));
    TRY_OUT(pass_run(r, &pass, &entry.n_images));
    status = measure(r, &entry, &answers, right);
out:
    memory_free(answers.confidence);
    memory_free(answers.correct);
    return status;
}

/* ------------------------------------------------------------------------------ ImageNet-C */

/* DIR/NAME or DIR/GROUP/NAME; false: there is none. */
static bool find_corruption(char path[MAX_PATH], const char *folder, const char *name)
{
    struct folder_names groups = {0};
    bool found = snprintf(path, MAX_PATH, "%s/%s", folder, name) < MAX_PATH && is_folder(path);

    if (found || folder_names_read(&groups, folder, NAMES_OF_FOLDERS, "--imagenet_c") != STATUS_OK)
        return found;
    for (int i = 0; i < groups.n && !found; i++)
        found = snprintf(path, MAX_PATH, "%s/%s/%s", folder, folder_name(&groups, i), name) <
                    MAX_PATH &&
                is_folder(path);
    folder_names_release(&groups);
    return found;
}

/* Mean error of the severities, in percent. */
static enum status one_corruption(const struct robustness *r, const char *folder,
                                  const struct corruption *corruption, double *error)
{
    struct book_entry mean = {.test = "imagenet_c", .data = folder};
    char path[MAX_PATH];

    *error = 0.0;
    for (int severity = 1; severity <= N_SEVERITIES; severity++) {
        struct book_entry entry = {.test = "imagenet_c"};
        struct pass pass = {.data = path,
                            .form = as_they_are(r),
                            .n_classes = IMAGENET_CLASSES,
                            .score = score_top1};
        char number[16];
        double top1;
        snprintf(number, sizeof(number), "%d", severity);
        TRY(join(path, folder, number, ""));
        snprintf(entry.setting, sizeof(entry.setting), "%s %d", corruption->name, severity);
        TRY(accuracy(r, &pass, &entry, &top1));
        *error += (100.0 - top1) / N_SEVERITIES;
    }
    snprintf(mean.setting, sizeof(mean.setting), "%s", corruption->name);
    if (book_find(r->book, &mean))
        return STATUS_OK;
    book_value(&mean, "error", *error);
    if (corruption->alexnet_error > 0)
        book_value(&mean, "error_of_alexnets", *error / corruption->alexnet_error);
    return book_add(r->book, &mean);
}

/* Means of all 19, as the original has it, and of the 15 in AlexNet's errors. */
static enum status tell_means(const struct robustness *r, const char *folder, const double *errors)
{
    struct book_entry entry = {.test = "imagenet_c", .setting = "mean", .data = folder};
    double all = 0.0, relative = 0.0;

    for (int i = 0; i < N_CORRUPTIONS; i++) {
        all += errors[i] / N_CORRUPTIONS;
        if (i < N_STANDARD_CORRUPTIONS)
            relative += errors[i] / corruptions[i].alexnet_error / N_STANDARD_CORRUPTIONS;
    }
    if (isnan(relative) || book_find(r->book, &entry))
        return STATUS_OK;
    if (!isnan(all))
        book_value(&entry, "mean_error_of_19", all);
    book_value(&entry, "mce", relative);
    return book_add(r->book, &entry);
}

static bool is_wanted(const char *name, const char *const *names, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return n == 0;
}

static enum status check_names(const char *const *names, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        int known = 0;
        while (known < N_CORRUPTIONS && strcmp(corruptions[known].name, names[i]) != 0)
            known++;
        if (known == N_CORRUPTIONS)
            FAIL(STATUS_INVALID,
                 "--corruptions: '%s' is none of ImageNet-C's (gaussian_noise, …, saturate)",
                 names[i]);
    }
    return STATUS_OK;
}

enum status test_imagenet_c(const struct robustness *r, const char *folder,
                            const char *const *names, int32_t n_names)
{
    double errors[N_CORRUPTIONS];
    char path[MAX_PATH];
    int n = 0;

    TRY(wants_imagenet(r, "--imagenet_c"));
    TRY(check_names(names, n_names));
    for (int i = 0; i < N_CORRUPTIONS; i++) {
        errors[i] = NAN;
        if (!is_wanted(corruptions[i].name, names, n_names))
            continue;
        if (find_corruption(path, folder, corruptions[i].name)) {
            TRY(one_corruption(r, path, &corruptions[i], &errors[i]));
            n++;
        } else if (n_names > 0) {
            FAIL(STATUS_NOT_FOUND, "--imagenet_c '%s' has no folder %s", folder,
                 corruptions[i].name);
        } else {
            log_warning("'%s' has no folder %s: there will be no mean", folder,
                        corruptions[i].name);
        }
    }
    if (n == 0)
        FAIL(STATUS_NOT_FOUND,
             "--imagenet_c '%s' has no CORRUPTION/SEVERITY/CLASS in it (gaussian_noise/1, …)",
             folder);
    return tell_means(r, folder, errors);
}
