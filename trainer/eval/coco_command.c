/* ibot-eval coco. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/detect/coco_scores.h"
#include "trainer/eval/commands.h"

enum { BOTH_OVERLAPS = 2 };

struct coco_options {
    const char *annotations, *results;
    int32_t overlap; /* enum coco_overlap, or BOTH_OVERLAPS */
    bool classes, json;
};

#define AT(field) .offset = offsetof(struct coco_options, field)

static const char *const overlap_names[] = {"bbox", "segm", "both", NULL};

static const struct option_spec specs[] = {
    {.name = "annotations",
     .type = OPTION_STRING,
     AT(annotations),
     .flags = OPTION_REQUIRED,
     .argument = "FILE",
     .help = "instances_val2017.json, or what is like it"},
    {.name = "results",
     .type = OPTION_STRING,
     AT(results),
     .flags = OPTION_REQUIRED,
     .argument = "FILE",
     .help = "a list of detections: image_id, category_id, score, and bbox, segmentation, or both"},
    {.name = "overlap",
     .type = OPTION_CHOICE,
     AT(overlap),
     .text = "bbox",
     .choices = overlap_names,
     .help = "of what: bbox, segm (masks), both"},
    {.name = "classes",
     .type = OPTION_BOOL,
     AT(classes),
     .text = "off",
     .help = "the average precision of each category too"},
    {.name = "json", .type = OPTION_BOOL, AT(json), .text = "off", .help = "as JSON"},
};

static const struct options_program program = {
    .name = "ibot-eval coco",
    .summary = "Average precision and recall of detections, as COCO measures them.",
    .epilogue = "  ibot-eval coco --annotations instances_val2017.json --results detections.json "
                "--overlap both",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
};

/* ------------------------------------------------------------------------------ output */

struct line {
    const char *name, *key;
    size_t at;
};

#define VALUE(field) offsetof(struct coco_scores, field)
static const struct line lines[] = {
    {"AP, mean of IoU 0.50 to 0.95", "mAP", VALUE(precision[COCO_ALL])},
    {"AP at IoU 0.50", "mAP_50", VALUE(precision_50)},
    {"AP at IoU 0.75", "mAP_75", VALUE(precision_75)},
    {"AP of small objects", "mAP_s", VALUE(precision[COCO_SMALL])},
    {"AP of medium objects", "mAP_m", VALUE(precision[COCO_MEDIUM])},
    {"AP of large objects", "mAP_l", VALUE(precision[COCO_LARGE])},
    {"recall, 1 detection", "AR@1", VALUE(recall_at[0])},
    {"recall, 10 detections", "AR@10", VALUE(recall_at[1])},
    {"recall, 100 detections", "AR@100", VALUE(recall_at[2])},
    {"recall of small objects", "AR_s", VALUE(recall[COCO_SMALL])},
    {"recall of medium objects", "AR_m", VALUE(recall[COCO_MEDIUM])},
    {"recall of large objects", "AR_l", VALUE(recall[COCO_LARGE])},
};
enum { N_LINES = sizeof(lines) / sizeof(lines[0]) };

static void print_number(double value, const char *absent)
{
    if (isnan(value))
        fputs(absent, stdout);
    else
        printf("%.4f", value);
}

static void print_text(const struct coco_scores *s, const char *overlap)
{
    for (size_t i = 0; i < N_LINES; i++) {
        printf("%s  %-30s", overlap, lines[i].name);
        print_number(*(const double *)((const char *)s + lines[i].at), "-");
        printf("\n");
    }
}

static void print_json(const struct coco_scores *s, const char *overlap)
{
    printf("{\"overlap\": \"%s\"", overlap);
    for (size_t i = 0; i < N_LINES; i++) {
        printf(", \"%s_%s\": ", overlap, lines[i].key);
        print_number(*(const double *)((const char *)s + lines[i].at), "null");
    }
    printf("}\n");
}

static enum status print_category(const struct coco_options *o, const struct coco_scores *s,
                                  const struct coco_data *data, int32_t c, const char *overlap)
{
    const struct coco_category *category = &data->categories[c];

    if (!o->json) {
        printf("%s  %6lld  %-30s", overlap, (long long)category->id, category->name);
        print_number(s->category_precision[c], "-");
        printf("\n");
        return STATUS_OK;
    }
    json_t *name = json_string(category->name);
    char *text = name != NULL ? json_dumps(name, JSON_ENCODE_ANY) : NULL;
    json_decref(name);
    if (text == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the name of a category");
    printf("{\"overlap\": \"%s\", \"category_id\": %lld, \"name\": %s, \"AP\": ", overlap,
           (long long)category->id, text);
    print_number(s->category_precision[c], "null");
    printf("}\n");
    free(text);
    return STATUS_OK;
}

static enum status score(const struct coco_options *o, const struct coco_data *data,
                         const struct coco_detections *found, enum coco_overlap overlap)
{
    struct coco_scores *scores;
    enum status status;

    TRY(memory_alloc(&scores, 1, sizeof(*scores), "scores"));
    TRY_OUT(coco_scores_compute(scores, data, found, overlap));
    for (int32_t c = 0; c < data->n_categories && o->classes; c++)
        TRY_OUT(print_category(o, scores, data, c, overlap_names[overlap]));
    if (o->json)
        print_json(scores, overlap_names[overlap]);
    else
        print_text(scores, overlap_names[overlap]);
out:
    memory_free(scores);
    return status;
}

static enum status coco(void *values, const struct options *parsed, const atomic_int *stop)
{
    const struct coco_options *o = values;
    struct coco_detections found = {0};
    struct coco_data data = {0};
    enum status status;

    (void)parsed;
    (void)stop;
    TRY_OUT(coco_data_open(&data, o->annotations, o->overlap != COCO_BOXES));
    TRY_OUT(coco_detections_read(&found, &data, o->results));
    for (int overlap = COCO_BOXES; overlap <= COCO_MASKS; overlap++)
        if (o->overlap == overlap || o->overlap == BOTH_OVERLAPS)
            TRY_OUT(score(o, &data, &found, (enum coco_overlap)overlap));
out:
    coco_detections_release(&found);
    coco_data_close(&data);
    return status;
}

const struct program_command coco_command = {
    .program = &program,
    .values_bytes = sizeof(struct coco_options),
    .run = coco,
};
