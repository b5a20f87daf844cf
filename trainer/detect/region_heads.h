/* The networks on a feature pyramid and on what is cut out of it:
 *
 *   proposal head   each level: 3x3 ReLU ─┬─ objectness [cells, 3]
 *                                         └─ box shifts [cells, 3*4]
 *   box head        [R, 7*7, C]: four times 3x3, batch norm, ReLU; linear ReLU ─┬─ classes [R, K+1]
 *                                                                               └─ shifts [R, 4K]
 *   mask head       [P, 14*14, C]: four times 3x3 ReLU; 2x2^T ReLU; 1x1 ─> logits [P, 28*28, K]
 *
 * Their results are float32, for the host; gradients of them come back in the compute dtype.
 * Sources: Ren et al. 2015, Cai and Vasconcelos 2018, He et al. 2017; the spec of the original for
 * the box head's form. Parameters have mmdetection's names, behind "decoder.". */
#ifndef IBOT_TRAINER_DETECT_REGION_HEADS_H
#define IBOT_TRAINER_DETECT_REGION_HEADS_H

#include "trainer/detect/anchors.h"
#include "trainer/model/conv_unit.h"

enum {
    BOX_HEAD_SIDE = 7,
    BOX_HEAD_CONVS = 4,
    MASK_HEAD_SIDE = 14,
    MASK_HEAD_CONVS = 4,
    MASK_SIDE = 2 * MASK_HEAD_SIDE,
    CASCADE_STAGES = 3,
};

/* What all heads share: borrowed. */
struct head_site {
    const struct conv_unit_site *site;
    struct map_tables *tables; /* of the maps' present sizes */
    struct conv3x3_scratch *scratch;
    enum dtype dtype;
    int64_t channels;
    bool trains;
    struct map_pair one; /* one row to itself: sums of rows */
};

/* A layer whose result goes to the host: float32 logits, and their gradient as an operand. */
struct wide_output {
    struct affine layer;
    float *logits;
    float *d_logits;         /* as the host brings it */
    struct tensor d_operand; /* [rows, Out]; in float32 the same memory */
    int64_t out;
};

struct proposal_head {
    const struct head_site *site;
    int64_t n_rows[PYRAMID_LEVELS]; /* now */
    struct conv3x3 conv[PYRAMID_LEVELS];
    struct wide_output objectness, shift; /* level by level */
    struct tensor hidden, d_hidden, d_other;
};

struct box_head {
    const struct head_site *site;
    struct conv_unit units[BOX_HEAD_CONVS];
    struct affine hidden_layer;
    struct wide_output classes, shift;
    struct tensor hidden, d_hidden, d_other; /* [R, hidden] */
    struct tensor d_x;                       /* [R*49, C] */
    int64_t n_hidden;
};

struct mask_head {
    const struct head_site *site;
    struct conv3x3 convs[MASK_HEAD_CONVS];
    struct affine doubled; /* weight [4*C, C], bias [C] */
    struct wide_output masks;
    struct tensor y[MASK_HEAD_CONVS]; /* [P*196, C] */
    struct map_pair grown, repeated;  /* 14 to 28; one bias to four */
    struct tensor bias;               /* [4*C] */
    float *d_bias;                    /* the same */
    struct tensor wide, squares;      /* [P*196, 4C], [P*784, C] */
    struct tensor d_squares, d_x[2];
};

/* What the host has made of logits: their gradients. Errors of all: those of the ops. */

enum status proposal_head_plan(struct proposal_head *head, const struct head_site *site,
                               int64_t rows, struct workspace *workspace) IBOT_WARN_UNUSED;
void proposal_head_bind(struct proposal_head *head, const struct binder *binder);
enum status proposal_head_reshape(struct proposal_head *head, int64_t n,
                                  const struct pyramid_level *levels, bool tables) IBOT_WARN_UNUSED;
/* x: the levels' maps; n pictures. */
enum status proposal_head_forward(struct proposal_head *head, const struct tensor *levels,
                                  int64_t n) IBOT_WARN_UNUSED;
/* Adds to the levels' gradients. */
enum status proposal_head_backward(struct proposal_head *head, const struct tensor *levels,
                                   const struct tensor *d_levels, int64_t n) IBOT_WARN_UNUSED;

/* shared: an earlier stage's head, whose buffers serve this one too, or NULL. */
enum status box_head_plan(struct box_head *head, const struct head_site *site, int64_t regions,
                          int64_t hidden, int32_t n_classes, const struct box_head *shared,
                          struct workspace *workspace) IBOT_WARN_UNUSED;
void box_head_bind(struct box_head *head, const struct binder *binder, int32_t stage,
                   const struct box_head *shared);
/* x [n*49, C] */
enum status box_head_forward(struct box_head *head, struct tensor x, int64_t n,
                             bool train) IBOT_WARN_UNUSED;
/* d_x [n*49, C] is the head's own, until its next forward. */
enum status box_head_backward(struct box_head *head, struct tensor x, int64_t n,
                              struct tensor *d_x) IBOT_WARN_UNUSED;
enum status box_head_store(struct box_head *head) IBOT_WARN_UNUSED; /* as conv_unit_store */

enum status mask_head_plan(struct mask_head *head, const struct head_site *site, int64_t regions,
                           int32_t n_classes, const struct mask_head *shared,
                           struct workspace *workspace) IBOT_WARN_UNUSED;
void mask_head_bind(struct mask_head *head, const struct binder *binder, int32_t stage,
                    const struct mask_head *shared);
/* x [n*196, C] */
enum status mask_head_forward(struct mask_head *head, struct tensor x, int64_t n) IBOT_WARN_UNUSED;
/* d_x [n*196, C] is the head's own. */
enum status mask_head_backward(struct mask_head *head, struct tensor x, int64_t n,
                               struct tensor *d_x) IBOT_WARN_UNUSED;

void proposal_head_release(struct proposal_head *head);
void box_head_release(struct box_head *head);
void mask_head_release(struct mask_head *head);

/* Tables for maps of 7 x 7 and 14 x 14, and the site's own: among site->tables. */
enum status box_head_tables(struct box_head *head) IBOT_WARN_UNUSED;
enum status mask_head_tables(struct mask_head *head) IBOT_WARN_UNUSED;

#endif
