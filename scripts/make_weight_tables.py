#!/usr/bin/env python3
"""Makes tests/data/weights/tables/: names, types and shapes of the tensors in published weights, as
text. No weights are needed: models are built without storage.

  python3 scripts/make_weight_tables.py tests/data/weights/tables

ARCH.timm.txt   a classifier of timm, which is also what DeiT published
ARCH.ibot.txt   the student of an iBOT checkpoint with a shared head of 8192 prototypes

Needs torch and timm. Names of the original's Swin and of its head are those of its state dict.
"""
import re
import sys

import timm
import torch

MODELS = {
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_large": "vit_large_patch16_224",
    "swin_tiny": "swin_tiny_patch4_window7_224",
}
TYPES = {torch.float32: "F32", torch.int64: "I64"}


def build(name):
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


def original(model):
    """The backbone's state as the original has it."""
    state = dict(model.state_dict())
    width = state["patch_embed.proj.weight"].shape[0]
    table = {"masked_embed": (1, width)}
    for name, value in state.items():
        if name.startswith("head."):
            continue
        name = re.sub(r"layers\.(\d+)\.downsample",
                      lambda m: f"layers.{int(m.group(1)) - 1}.downsample", name)
        table[name] = tuple(value.shape)
        if name.endswith("relative_position_bias_table"):
            side = (round(value.shape[0] ** 0.5) + 1) // 2
            table[name.replace("bias_table", "index")] = (side * side, side * side)
    return table


def head(width, hidden=2048, bottleneck=256, prototypes=8192):
    table = {}
    for i, (n_out, n_in) in {0: (hidden, width), 2: (hidden, hidden), 4: (bottleneck, hidden)}.items():
        table[f"mlp.{i}.weight"], table[f"mlp.{i}.bias"] = (n_out, n_in), (n_out,)
    for layer in ("last_layer", "last_layer2"):
        table[f"{layer}.weight_g"], table[f"{layer}.weight_v"] = (prototypes, 1), (prototypes, bottleneck)
    return table


def write(path, rows):
    with open(path, "w", encoding="ascii") as file:
        for name, kind, shape in rows:
            file.write(" ".join([name, kind, *map(str, shape)]) + "\n")


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    for arch, name in MODELS.items():
        model = build(name)
        write(f"{sys.argv[1]}/{arch}.timm.txt",
              [(n, TYPES[v.dtype], tuple(v.shape)) for n, v in model.state_dict().items()])
        rows = [("module.backbone." + n, "I64" if n.endswith("_index") else "F32", shape)
                for n, shape in original(model).items()]
        rows += [("module.head." + n, "F32", shape) for n, shape in head(model.num_features).items()]
        write(f"{sys.argv[1]}/{arch}.ibot.txt", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
