/* Names of architectures and what they stand for. */
#include <stdio.h>
#include <string.h>

#include "trainer/model/ibot.h"

static const struct {
    const char *name;
    int32_t embed_dim, depth, n_heads;
} architectures[] = {
    {"vit_test", 96, 3, 3},    {"vit_tiny", 192, 12, 3},    {"vit_small", 384, 12, 6},
    {"vit_base", 768, 12, 12}, {"vit_large", 1024, 24, 16},
};

enum status backbone_options_for(struct backbone_options *out, const char *arch)
{
    char name[32], known[256] = "";

    snprintf(name, sizeof(name), "%s", arch);
    if (strncmp(name, "deit_", 5) == 0)
        snprintf(name, sizeof(name), "vit_%s", arch + 5);
    for (size_t i = 0; i < sizeof(architectures) / sizeof(architectures[0]); i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "",
                 architectures[i].name);
        if (strcmp(name, architectures[i].name) != 0)
            continue;
        *out = (struct backbone_options){
            .embed_dim = architectures[i].embed_dim,
            .depth = architectures[i].depth,
            .n_heads = architectures[i].n_heads,
            .mlp_ratio = 4,
            .patch_size_px = 16,
            .image_size_px = 224,
            .layer_norm_eps = 1e-6f,
        };
        snprintf(out->arch, sizeof(out->arch), "%s", name);
        return STATUS_OK;
    }
    FAIL(STATUS_INVALID, "arch: got '%s', wanted one of %s, deit_tiny, deit_small", arch, known);
}
