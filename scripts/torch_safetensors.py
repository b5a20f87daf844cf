"""Safetensors files for the checks against PyTorch: a reader of its own, so that it does not share
our mistakes."""
import json
import struct

import torch

TYPES = {"F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16,
         "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
         "U8": torch.uint8, "BOOL": torch.bool}


def read(name):
    """Tensors by name, and the metadata."""
    with open(name, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for key, entry in header.items():
        first, last = entry["data_offsets"]
        raw = torch.frombuffer(bytearray(data[8 + length + first:8 + length + last]) or bytearray(1),
                               dtype=torch.uint8)[:last - first]
        tensors[key] = raw.view(TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata
