/* What a backbone is like, told from its tensors. Widths, depths, patch and window are in their
 * shapes; the number of a ViT's heads is not, and comes from a name or a number beside them. */
#ifndef IBOT_TRAINER_ARCHITECTURE_H
#define IBOT_TRAINER_ARCHITECTURE_H

#include "trainer/model/ibot.h"
#include "trainer/weights/weight_selection.h"

/* What else is known; zero and NULL: nothing. */
struct architecture_hints {
    const char *arch;      /* a name that backbone_options_for knows, or any other */
    bool arch_must_fit;    /* the user gave it: then it must be known and fit the tensors */
    int32_t n_heads;       /* of a ViT */
    int32_t window_size;   /* of a Swin whose maps are all smaller than its window */
    int32_t image_size_px; /* of a Swin: what its windows were chosen for; 0: 224 */
};

/* Errors: STATUS_MISMATCH (no ViT or Swin; other shapes than the name's), STATUS_INVALID (an
 * unknown name; a number of heads that nothing tells), STATUS_UNSUPPORTED (a distilled DeiT, whose
 * second token has no place here). */
enum status architecture_read(struct backbone_options *out,
                              const struct weight_selection *selection,
                              const struct architecture_hints *hints) IBOT_WARN_UNUSED;

#endif
