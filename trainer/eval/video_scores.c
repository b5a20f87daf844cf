#include "trainer/eval/video_scores.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/base/first_failure.h"
#include "proto/base/memory.h"
#include "trainer/eval/label_image.h"

enum { VOID_LABEL = 255 };

struct scoring {
    const struct video_data *data;
    const char *folder;
    int32_t sequence, n_objects, n_frames; /* frames that count */
    struct video_frames frames;
    struct label_image first;
    double *j, *f; /* [n_objects, n_frames] */
};

static bool is_annotated(const struct scoring *s)
{
    char path[VIDEO_MAX_PATH];
    struct stat info;

    for (int32_t i = 1; i + 1 < s->frames.n; i++) {
        video_labels_path(path, s->data, s->sequence, s->frames.names[i]);
        if (stat(path, &info) != 0)
            return false;
    }
    return true;
}

static enum status check_found(const struct scoring *s, const struct label_image *found,
                               const char *path)
{
    int64_t n = (int64_t)found->width * found->height;

    if (found->width != s->first.width || found->height != s->first.height)
        FAIL(STATUS_MISMATCH, "'%s' is %d x %d px, the annotations are %d x %d", path, found->width,
             found->height, s->first.width, s->first.height);
    for (int64_t i = 0; i < n; i++)
        if (found->labels[i] > s->n_objects)
            FAIL(STATUS_MISMATCH, "'%s' has label %d, and the sequence has objects 1 to %d", path,
                 found->labels[i], s->n_objects);
    return STATUS_OK;
}

/* Frame 1 + i of the sequence. */
static enum status score_frame(const struct scoring *s, int32_t i)
{
    char path[VIDEO_MAX_PATH];
    struct label_image truth = {0}, found = {0};
    const char *name = s->frames.names[1 + i];
    enum status status;

    video_labels_path(path, s->data, s->sequence, name);
    TRY_OUT(label_image_read(&truth, path));
    if (truth.width != s->first.width || truth.height != s->first.height)
        FAIL_OUT(STATUS_MISMATCH, "'%s' is %d x %d px, that of the first frame %d x %d", path,
                 truth.width, truth.height, s->first.width, s->first.height);
    snprintf(path, sizeof(path), "%.3500s/%s/%s.png", s->folder, s->data->sequences[s->sequence],
             name);
    TRY_OUT(label_image_read(&found, path));
    TRY_OUT(check_found(s, &found, path));
    for (int32_t object = 1; object <= s->n_objects; object++) {
        int32_t at = (object - 1) * s->n_frames + i;
        struct mask_pair pair = {found.labels, truth.labels, truth.width, truth.height,
                                 (uint8_t)object};
        s->j[at] = mask_similarity(&pair);
        TRY_OUT(mask_boundary(&s->f[at], &pair));
    }
out:
    label_image_release(&truth);
    label_image_release(&found);
    return status;
}

static enum status score_frames(const struct scoring *s)
{
    struct first_failure failure = FIRST_FAILURE_NONE;

#pragma omp parallel for schedule(dynamic)
    for (int32_t i = 0; i < s->n_frames; i++)
        first_failure_note(&failure, i, score_frame(s, i));
    return first_failure_take(&failure);
}

static enum status open_scoring(struct scoring *s)
{
    char path[VIDEO_MAX_PATH];

    TRY(video_frames_list(&s->frames, s->data, s->sequence));
    video_labels_path(path, s->data, s->sequence, s->frames.names[0]);
    TRY(label_image_read(&s->first, path));
    int64_t n = (int64_t)s->first.width * s->first.height;
    for (int64_t i = 0; i < n; i++)
        if (s->first.labels[i] != VOID_LABEL && s->first.labels[i] > s->n_objects)
            s->n_objects = s->first.labels[i];
    s->n_frames = s->frames.n - 2;
    if (s->n_frames < 1 || s->n_objects < 1)
        FAIL(STATUS_INVALID,
             "'%s' has %d frames and %d objects: scores want three frames, of which the first and "
             "the last do not count, and one object",
             s->data->sequences[s->sequence], s->frames.n, s->n_objects);
    size_t values = (size_t)s->n_objects * (size_t)s->n_frames;
    TRY(memory_alloc(&s->j, values, sizeof(*s->j), "scores"));
    return memory_alloc(&s->f, values, sizeof(*s->f), "scores");
}

static enum status score_sequence(struct video_scores *out, const struct video_data *data,
                                  const char *folder, int32_t sequence)
{
    struct scoring s = {.data = data, .folder = folder, .sequence = sequence};
    enum status status;

    TRY_OUT(open_scoring(&s));
    if (!is_annotated(&s)) {
        out->n_unscored++;
        goto out;
    }
    TRY_OUT(score_frames(&s));
    for (int32_t i = 0; i < s.n_objects; i++) {
        TRY_OUT(memory_grow(&out->scores, &out->capacity, (size_t)out->n + 1, sizeof(*out->scores),
                            "scores"));
        out->scores[out->n++] = (struct video_score){
            .sequence = sequence,
            .object = i + 1,
            .j = mask_statistics(s.j + i * s.n_frames, s.n_frames),
            .f = mask_statistics(s.f + i * s.n_frames, s.n_frames),
        };
    }
out:
    video_frames_release(&s.frames);
    label_image_release(&s.first);
    memory_free(s.j);
    memory_free(s.f);
    return status;
}

static void add_share(struct mask_statistics *sum, const struct mask_statistics *one, int32_t n)
{
    sum->mean += one->mean / n;
    sum->recall += one->recall / n;
    sum->decay += one->decay / n;
}

enum status video_scores_compute(struct video_scores *out, const struct video_data *data,
                                 const char *folder)
{
    memset(out, 0, sizeof(*out));
    for (int32_t i = 0; i < data->n_sequences; i++) {
        enum status status = score_sequence(out, data, folder, i);
        if (status != STATUS_OK) {
            video_scores_release(out);
            return status;
        }
    }
    for (int32_t i = 0; i < out->n; i++) {
        add_share(&out->j, &out->scores[i].j, out->n);
        add_share(&out->f, &out->scores[i].f, out->n);
    }
    return STATUS_OK;
}

void video_scores_release(struct video_scores *scores)
{
    if (scores == NULL)
        return;
    memory_free(scores->scores);
    memset(scores, 0, sizeof(*scores));
}
