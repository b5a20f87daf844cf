#!/usr/bin/env python3
"""Reads a recording with tools that know nothing of this project: a stock TFRecord reader and the
classes that protoc makes of proto/stream.proto. What they find must be what ibot-stream inspect
says, and what the format promises.

  foreign_reader.py FOLDER_OF_stream_pb2 RECORDING.tfrecord INSPECTED.jsonl
"""
import json
import struct
import sys

import crc32c
import xxhash
from tfrecord.reader import tfrecord_iterator


def check(good, what):
    if not good:
        sys.exit(f"FAIL: {what}")


def masked(data):
    crc = crc32c.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def check_sums(path):
    """Both sums of every record, which the reader does not look at."""
    with open(path, "rb") as file:
        data = file.read()
    at = records = 0
    while at < len(data):
        length, sum_of_length = struct.unpack_from("<QI", data, at)
        check(sum_of_length == masked(data[at:at + 8]), f"sum of the length at byte {at}")
        (sum_of_data,) = struct.unpack_from("<I", data, at + 12 + length)
        check(sum_of_data == masked(data[at + 12:at + 12 + length]), f"sum at byte {at}")
        at += length + 16
        records += 1
    return records


def record_bytes(spec):
    """Of one image, as proto/wire/data_spec.h lays it out."""
    views = spec.n_global * spec.global_size_px ** 2 * 3 + spec.n_local * spec.local_size_px ** 2 * 3
    grid = spec.global_size_px // spec.mask_cell_px
    return views, views + spec.n_global * ((grid * grid + 7) // 8)


def check_slice(message, head, wanted):
    """One record against the samples that ibot-stream inspect named."""
    spec = head.data_spec
    part, n = message.slice, len(message.slice.index)
    check(n <= head.slice_size and part.spec_digest == head.spec_digest, "a slice of another kind")
    for i in range(n):
        sample = wanted[part.epoch, part.first_position + i * part.stride]
        got = (part.index[i], part.label[i], f"{part.hash[i]:016x}")
        check(got == (sample["index"], sample["label"], sample["hash"]), f"{got}, wanted {sample}")
        view_bytes, image_bytes = record_bytes(spec)
        if head.pixels:
            image = message.payload[i * image_bytes:(i + 1) * image_bytes]
            check(xxhash.xxh3_64_intdigest(image) == part.hash[i], f"hash of image {i}")
            bits = image[view_bytes:]
        masks = [view["mask"] for view in sample["views"] if "mask" in view]
        for v, mask in enumerate(masks if head.pixels else []):
            cells = "".join(mask["rows"])
            own = bits[v * ((len(cells) + 7) // 8):]
            check(all((own[c // 8] >> (c % 8) & 1) == (cells[c] == "#") for c in range(len(cells))),
                  f"mask of global crop {v}")
    parts = spec.n_global + spec.n_local + spec.n_global
    check(len(message.payload) == (n * image_bytes if head.pixels else 0), "bytes of pixels")
    check(len(message.part_hash) == (0 if head.pixels else n * parts), "hashes of parts")
    return n


def main():
    sys.path.insert(0, sys.argv[1])
    from proto import stream_pb2

    path = sys.argv[2]
    with open(sys.argv[3], encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.startswith("{")]
    wanted = {(step["epoch"], sample["position"]): sample
              for step in lines[1:] for sample in step["samples"]}

    messages = []
    for data in tfrecord_iterator(path):
        message = stream_pb2.StreamMessage()
        message.ParseFromString(bytes(data))
        messages.append(message)
    check(check_sums(path) == len(messages), "number of records")
    head = messages[0].recording
    check(messages[0].HasField("recording") and messages[-1].HasField("finished"), "first and last")
    check(head.n_samples == lines[0]["n_samples"] and head.rank == 0, "the head")
    check(f"{head.index_digest:016x}" == lines[0]["index_digest"], "digest of the data set")
    n = sum(check_slice(message, head, wanted) for message in messages[1:-1])
    check(n == len(wanted) > 0, f"{n} images, wanted {len(wanted)}")
    print(f"{len(messages)} records, {n} images, {'pixels' if head.pixels else 'hashes'}")


if __name__ == "__main__":
    main()
