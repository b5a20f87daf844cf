/* The one interface over both families. */
#include <string.h>

#include "trainer/model/backbone.h"

static void shape_of_vit(struct backbone *b)
{
    struct vit *vit = b->vit;

    for (int32_t g = 0; g < vit->n_groups; g++)
        b->groups[g] = (struct backbone_group){vit->groups[g].n_images, vit->groups[g].length,
                                               vit->groups[g].first_row};
    b->n_groups = vit->n_groups;
    b->n_tokens = vit->pass.n_tokens;
    b->width = vit->pass.width;
    b->n_samples = vit->n_samples;
    b->depths = vit->depths;
}

static void shape_of_swin(struct backbone *b)
{
    struct swin *swin = b->swin;
    const struct block_pass *last = &swin->stages[swin->options.n_stages - 1].pass;

    for (int32_t g = 0; g < last->n_groups; g++)
        b->groups[g] = (struct backbone_group){last->regions[g].n_images,
                                               last->regions[g].side * last->regions[g].side + 1,
                                               swin->first_row[g]};
    b->n_groups = last->n_groups;
    b->n_tokens = swin->n_rows;
    b->width = last->width;
    b->n_samples = swin->n_samples;
    b->depths = swin->depths;
}

enum status backbone_plan(struct backbone *b, struct vit *vit, struct swin *swin,
                          struct device *device, const struct op_table *ops,
                          const struct backbone_options *options,
                          const struct backbone_layout *layout, struct workspace *workspace)
{
    memset(b, 0, sizeof(*b));
    if (options->n_stages == 0) {
        b->vit = vit;
        TRY(vit_plan(vit, device, ops, options, layout, workspace));
        shape_of_vit(b);
    } else {
        b->swin = swin;
        TRY(swin_plan(swin, device, ops, options, layout, workspace));
        shape_of_swin(b);
    }
    b->all_rows = (struct block_rows){.n_rows = b->n_tokens};
    b->rows = b->all_rows;
    return STATUS_OK;
}

enum status backbone_bind(struct backbone *b, const struct param_table *table, float *parameters,
                          float *gradients, float *const patches[2])
{
    if (b->vit != NULL) {
        TRY(vit_bind(b->vit, table, parameters, gradients));
        b->features = b->vit->features;
    } else {
        TRY(swin_bind(b->swin, table, parameters, gradients));
        b->features = b->swin->features;
    }
    for (int g = 0; g < 2; g++)
        *(b->vit != NULL ? &b->vit->groups[g].patches : &b->swin->patches[g]) = patches[g];
    return STATUS_OK;
}

enum status backbone_forward(struct backbone *b, uint8_t *mask)
{
    if (b->vit != NULL) {
        b->vit->rows = b->rows;
        return vit_forward(b->vit, mask);
    }
    b->swin->rows = b->rows;
    return swin_forward(b->swin, mask);
}

float *backbone_d_features(struct backbone *b)
{
    return b->vit != NULL ? b->vit->gradients.d_y : b->swin->d_features;
}

enum status backbone_backward(struct backbone *b, uint8_t *mask)
{
    return b->vit != NULL ? vit_backward(b->vit, mask) : swin_backward(b->swin, mask);
}

void backbone_release(struct backbone *b)
{
    if (b == NULL)
        return;
    vit_release(b->vit);
    swin_release(b->swin);
    memset(b, 0, sizeof(*b));
}
