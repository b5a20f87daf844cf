#!/usr/bin/env python3
"""Makes tests/data/weights/: small PyTorch files of every kind that the reader must take, or refuse,
and what their tensors are, as safetensors.

  python3 scripts/make_weight_fixtures.py tests/data/weights

Needs torch and safetensors. The files are committed: tests need neither.
"""
import argparse
import collections
import os
import sys

import numpy
import torch
from safetensors.torch import save_file


def tensors():
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(6, 8, generator=generator)
    return collections.OrderedDict(
        whole=base,
        transposed=base.t(),
        rows=base[1:5:2],
        columns=base[:, 2:7:3],
        element=base[3, 4],
        flipped_dims=torch.randn(2, 3, 4, 5, generator=generator).permute(3, 1, 0, 2),
        half=torch.randn(5, 3, generator=generator).half(),
        bfloat16=torch.randn(4, 4, generator=generator).bfloat16(),
        double=torch.randn(7, generator=generator).double(),
        int8=torch.arange(-3, 4, dtype=torch.int8),
        int16=torch.arange(-300, 300, 100, dtype=torch.int16),
        int32=torch.arange(-3, 3, dtype=torch.int32) * 100000,
        int64=torch.arange(-3, 3) * 10**12,
        uint8=torch.arange(250, 256, dtype=torch.uint8),
        truth=torch.tensor([True, False, True]),
        empty=torch.zeros(0, 4),
        scalar=torch.tensor(2.5),
    )


class Opaque:
    def __reduce__(self):
        return os.system, ("true",)


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = sys.argv[1]
    kinds = tensors()
    save_file({k: v.clone(memory_format=torch.contiguous_format) for k, v in kinds.items()}, f"{folder}/kinds.safetensors")
    torch.save(kinds, f"{folder}/kinds.pth")
    torch.save(kinds, f"{folder}/kinds_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(kinds, f"{folder}/kinds_protocol4.pth", pickle_protocol=4)
    small = torch.arange(3.0)
    torch.save({
        "model": {"a": torch.nn.Parameter(small), "b": small},
        "args": argparse.Namespace(arch="vit_small", lr=numpy.float64(0.5), n=numpy.int64(7),
                                   fp16=True, ratios=[0, 0.3], name="ä", nothing=None),
        "epoch": 12,
        "size": torch.Size([2, 3]),
    }, f"{folder}/values.pth")
    torch.save({"model": {"a": small}, "run": Opaque()}, f"{folder}/opaque.pth")
    torch.save({"a": small.expand(1000, 3)}, f"{folder}/expanded.pth")
    loop = {"a": small}
    loop["self"] = loop
    loop["list"] = [loop]
    torch.save(loop, f"{folder}/cyclic.pth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), f"{folder}/torchscript.pth")
    return 0


if __name__ == "__main__":
    sys.exit(main())
