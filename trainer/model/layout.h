/* What a backbone is planned for: how many crops of which sizes go through it in one pass. */
#ifndef IBOT_TRAINER_MODEL_LAYOUT_H
#define IBOT_TRAINER_MODEL_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "ops/linear.h"
#include "trainer/model/ibot.h"

struct backbone_layout {
    int64_t n_global_images, n_local_images;
    int32_t global_size_px, local_size_px;
    int32_t global_width_px; /* 0: squares; else global_size_px is the height: of a ViT */
    bool backward;           /* student */
    bool without_norm; /* of a ViT: features are the stream after the last block, not normed */
    enum recompute recompute;
    bool reshapes;        /* of a ViT: images of other sizes may pass, without backward */
    bool weights_apart;   /* gradients of weights on a branch of their own */
    enum dtype dtype;     /* of activations and operands */
    enum dtype stream;    /* of the residual stream: float32, or as dtype */
    enum activation gelu; /* its form */
};

#endif
