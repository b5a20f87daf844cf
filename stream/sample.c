#include "stream/sample.h"

#include <string.h>

#include "loader/draw.h"
#include "proto/wire/data_spec_fields.h"
#include "stream/origin.h"

static const char *const jitter_names[] = {"brightness", "contrast", "saturation", "hue"};

/* Of RandAugment: autocontrast, equalize, ... translate_y, in the order of their names. */
static const char *const rand_letters[RAND_AUGMENT_OPS] = {" ac", " eq", " in", " ro", " po",
                                                           " so", " sa", " co", " ct", " br",
                                                           " sh", " hx", " hy", " tx", " ty"};

/* Everything about one view. */
struct view {
    struct draw draw;
    bool global, flip, has_region, has_mask;
    struct region region;
    struct photometric_params colours;
    struct rand_augment_step augment[RAND_AUGMENT_MAX_OPS];
    int32_t n_augment;
    int32_t grid, n_masked;
    double mask_ratio;
    uint8_t cells[DATA_SPEC_MAX_GRID * DATA_SPEC_MAX_GRID];
};

static int32_t n_views(const struct data_spec *spec)
{
    return spec->kind == DATA_MULTI_CROP ? spec->n_global + spec->n_local : 0;
}

static void draw_view(struct view *out, const struct data_spec *spec, const struct sample *sample,
                      int32_t view)
{
    out->draw = (struct draw){.spec = spec,
                              .epoch = sample->epoch,
                              .sample = sample->index,
                              .view = view,
                              .repeat = draw_repeat(spec, sample->position)};
    out->global = view < spec->n_global;
    out->flip = draw_flip(&out->draw);
    out->colours = draw_photometric(&out->draw);
    out->n_augment = draw_rand_augment(&out->draw, out->augment);
    out->has_region = sample->width > 0;
    if (out->has_region)
        out->region = draw_region(&out->draw, sample->width, sample->height);
    out->grid = data_spec_mask_grid(spec);
    out->has_mask = out->global && out->grid > 0;
    if (out->has_mask)
        out->n_masked = draw_mask(&out->draw, out->cells, &out->mask_ratio);
}

static float jitter_value(const struct photometric_params *colours, int which)
{
    const float values[] = {colours->brightness, colours->contrast, colours->saturation,
                            colours->hue};
    return values[which];
}

/* ---- text ---- */

static void print_colours(FILE *out, const struct photometric_params *colours)
{
    if (colours->steps & PHOTOMETRIC_JITTER) {
        fputs(", jitter (", out);
        for (int i = 0, n = 0; i < 4; i++)
            if (colours->order[i] < 4)
                fprintf(out, "%s%s %.4f", n++ > 0 ? ", " : "", jitter_names[colours->order[i]],
                        (double)jitter_value(colours, colours->order[i]));
        fputs(")", out);
    }
    if (colours->steps & PHOTOMETRIC_GRAYSCALE)
        fputs(", grey", out);
    if (colours->steps & PHOTOMETRIC_BLUR)
        fprintf(out, ", blur %.4f px", (double)colours->blur_radius);
    if (colours->steps & PHOTOMETRIC_SOLARIZE)
        fprintf(out, ", solarize from %d", colours->solarize_threshold);
}

static void print_augment(FILE *out, const struct view *view)
{
    for (int32_t i = 0; i < view->n_augment; i++) {
        fprintf(out, ", %s", rand_augment_names[view->augment[i].op]);
        if (rand_augment_has_amount(view->augment[i].op))
            fprintf(out, " %.4g", view->augment[i].amount);
    }
}

static void print_view(FILE *out, const struct data_spec *spec, const struct view *view)
{
    int32_t number = view->draw.view - (view->global ? 0 : spec->n_global);

    fprintf(out, "    %s %d: ", view->global ? "global" : "local", number);
    if (view->has_region)
        fprintf(out, "crop %dx%d at %d,%d", view->region.width, view->region.height,
                view->region.left, view->region.top);
    else
        fputs("crop (--data tells where)", out);
    if (view->flip)
        fputs(", flip", out);
    print_colours(out, &view->colours);
    print_augment(out, view);
    if (view->has_mask)
        fprintf(out, "; mask %d of %d cells, ratio %.4f", view->n_masked, view->grid * view->grid,
                view->mask_ratio);
    fputs("\n", out);
}

void sample_print(FILE *out, const struct data_spec *spec, const struct sample *sample,
                  bool parameters)
{
    struct view view;

    fprintf(out, "  sample %d: position %llu, image %u", sample->number,
            (unsigned long long)sample->position, sample->index);
    if (sample->made)
        fprintf(out, ", label %d, hash %016llx", sample->label, (unsigned long long)sample->hash);
    if (sample->n_substituted > 0)
        fprintf(out, ", in place of %u bad images", sample->n_substituted);
    if (sample->n_repaired > 0)
        fprintf(out, ", repaired in %u places", sample->n_repaired);
    if (sample->width > 0)
        fprintf(out, ", %dx%d", sample->width, sample->height);
    if (sample->path != NULL)
        fprintf(out, ", '%s'", sample->path);
    fputs("\n", out);
    for (int32_t i = 0; i < sample->n_bad_images; i++) {
        const struct bad_image *bad = &sample->bad_images[i];
        fprintf(out, "    bad image %u (%s) '%s': %s\n", bad->index,
                bad_image_kind_names[bad->kind], bad->path, bad->reason);
    }
    for (int32_t v = 0; parameters && v < n_views(spec); v++) {
        draw_view(&view, spec, sample, v);
        print_view(out, spec, &view);
    }
}

const char *sample_letters(const struct data_spec *spec, const struct sample *sample, int32_t view,
                           char *out, size_t size)
{
    struct draw draw = {.spec = spec,
                        .epoch = sample->epoch,
                        .sample = sample->index,
                        .view = view,
                        .repeat = draw_repeat(spec, sample->position)};

    out[0] = '\0';
    if (view >= n_views(spec))
        return out;
    struct photometric_params colours = draw_photometric(&draw);
    char blur[16] = "";
    if (colours.steps & PHOTOMETRIC_BLUR)
        snprintf(blur, sizeof(blur), "B%.1f", (double)colours.blur_radius);
    struct rand_augment_step steps[RAND_AUGMENT_MAX_OPS];
    char augment[4 * RAND_AUGMENT_MAX_OPS + 1] = "";
    int32_t n_steps = draw_rand_augment(&draw, steps);
    for (int32_t i = 0; i < n_steps; i++)
        strcat(augment, rand_letters[steps[i].op]);
    snprintf(out, size, "%s%s%s%s%s%s", draw_flip(&draw) ? "F" : "",
             colours.steps & PHOTOMETRIC_JITTER ? "J" : "",
             colours.steps & PHOTOMETRIC_GRAYSCALE ? "G" : "", blur,
             colours.steps & PHOTOMETRIC_SOLARIZE ? "S" : "", augment);
    return out;
}

/* ---- JSON ---- */

static json_t *jitter_json(const struct photometric_params *colours)
{
    json_t *order = json_array(), *out = json_object();

    for (int i = 0; i < 4; i++)
        if (colours->order[i] < 4) {
            const char *name = jitter_names[colours->order[i]];
            json_array_append_new(order, json_string(name));
            json_object_set_new(
                out, name, json_real(data_spec_shortest(jitter_value(colours, colours->order[i]))));
        }
    json_object_set_new(out, "order", order);
    return out;
}

static json_t *augment_json(const struct view *view)
{
    json_t *out = json_array();

    for (int32_t i = 0; i < view->n_augment; i++) {
        const struct rand_augment_step *step = &view->augment[i];
        json_t *one = json_pack("{s:s}", "operation", rand_augment_names[step->op]);
        if (rand_augment_has_amount(step->op))
            json_object_set_new(one, "amount", json_real(step->amount));
        if (rand_augment_is_geometric(step->op))
            json_object_set_new(one, "interpolation",
                                json_string(step->cubic ? "bicubic" : "bilinear"));
        json_array_append_new(out, one);
    }
    return out;
}

static json_t *mask_json(const struct view *view)
{
    char row[DATA_SPEC_MAX_GRID + 1];
    json_t *rows = json_array();

    for (int32_t y = 0; y < view->grid; y++) {
        for (int32_t x = 0; x < view->grid; x++)
            row[x] = view->cells[y * view->grid + x] ? '#' : '.';
        row[view->grid] = '\0';
        json_array_append_new(rows, json_string(row));
    }
    return json_pack("{s:f, s:i, s:i, s:o}", "ratio", view->mask_ratio, "grid", view->grid, "cells",
                     view->n_masked, "rows", rows);
}

static json_t *view_json(const struct data_spec *spec, const struct view *view)
{
    const struct photometric_params *colours = &view->colours;
    const struct region *region = &view->region;
    json_t *out =
        json_pack("{s:s, s:i, s:b}", "kind", view->global ? "global" : "local", "number",
                  view->draw.view - (view->global ? 0 : spec->n_global), "flip", view->flip);

    if (view->has_region)
        json_object_set_new(out, "crop",
                            json_pack("{s:i, s:i, s:i, s:i}", "left", region->left, "top",
                                      region->top, "width", region->width, "height",
                                      region->height));
    if (colours->steps & PHOTOMETRIC_JITTER)
        json_object_set_new(out, "jitter", jitter_json(colours));
    json_object_set_new(out, "grayscale",
                        json_boolean((colours->steps & PHOTOMETRIC_GRAYSCALE) != 0));
    if (colours->steps & PHOTOMETRIC_BLUR)
        json_object_set_new(out, "blur_radius",
                            json_real(data_spec_shortest(colours->blur_radius)));
    if (colours->steps & PHOTOMETRIC_SOLARIZE)
        json_object_set_new(out, "solarize_threshold", json_integer(colours->solarize_threshold));
    if (spec->interpolation == INTERPOLATION_RANDOM)
        json_object_set_new(
            out, "interpolation",
            json_string(draw_filter(&view->draw) == RESAMPLE_BICUBIC ? "bicubic" : "bilinear"));
    if (spec->rand_augment.n_ops > 0)
        json_object_set_new(out, "rand_augment", augment_json(view));
    if (view->has_mask)
        json_object_set_new(out, "mask", mask_json(view));
    return out;
}

static json_t *bad_images_json(const struct sample *sample)
{
    json_t *out = json_array();

    for (int32_t i = 0; i < sample->n_bad_images; i++) {
        const struct bad_image *bad = &sample->bad_images[i];
        json_array_append_new(
            out, json_pack("{s:I, s:s, s:o, s:o}", "index", (json_int_t)bad->index, "kind",
                           bad_image_kind_names[bad->kind], "path", origin_text_json(bad->path),
                           "reason", origin_text_json(bad->reason)));
    }
    return out;
}

json_t *sample_json(const struct data_spec *spec, const struct sample *sample, bool parameters)
{
    struct view view;
    char hash[20];
    json_t *out = json_pack("{s:i, s:I, s:I}", "sample", sample->number, "position",
                            (json_int_t)sample->position, "index", (json_int_t)sample->index);

    if (sample->made) {
        snprintf(hash, sizeof(hash), "%016llx", (unsigned long long)sample->hash);
        json_object_set_new(out, "label", json_integer(sample->label));
        json_object_set_new(out, "substituted", json_integer(sample->n_substituted));
        json_object_set_new(out, "repaired", json_integer(sample->n_repaired));
        json_object_set_new(out, "hash", json_string(hash));
    }
    if (sample->n_bad_images > 0)
        json_object_set_new(out, "bad_images", bad_images_json(sample));
    if (sample->path != NULL)
        json_object_set_new(out, "path", origin_text_json(sample->path));
    if (sample->width > 0)
        json_object_set_new(
            out, "image",
            json_pack("{s:i, s:i}", "width", sample->width, "height", sample->height));
    if (!parameters || n_views(spec) == 0)
        return out;
    json_t *views = json_array();
    for (int32_t v = 0; v < n_views(spec); v++) {
        draw_view(&view, spec, sample, v);
        json_array_append_new(views, view_json(spec, &view));
    }
    json_object_set_new(out, "views", views);
    return out;
}
