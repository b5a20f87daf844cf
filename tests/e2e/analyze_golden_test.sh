#!/usr/bin/env bash
# ibot-analyze on the two pictures of golden/analysis.safetensors: what the programs print, keep and draw is what that
# file says, to its last mask, match, prototype and pixel.
source "$(dirname "$0")/processes.sh"

golden=$IBOT_TEST_DATA/golden
python3 - "$golden/analysis.safetensors" "$work" <<'END' || fail "pictures"
import json, struct, sys
raw = open(sys.argv[1], "rb").read()
n, = struct.unpack("<Q", raw[:8])
header = json.loads(raw[8:8 + n])
for name in "ab":
    first, last = header[f"image_{name}"]["data_offsets"]
    rgb = raw[8 + n + first:8 + n + last]
    bgr = bytes(rgb[(55 - y) * 168 + x * 3 + 2 - c] for y in range(56) for x in range(56) for c in range(3))
    head = struct.pack("<2sIHHI IiiHHIIiiII", b"BM", 54 + len(bgr), 0, 0, 54, 40, 56, 56, 1, 24, 0, len(bgr), 0, 0, 0, 0)
    open(f"{sys.argv[2]}/{name}.bmp", "wb").write(head + bgr)
END
weights=(--checkpoint "$golden/official_checkpoint.pth" --num_heads 3 --threads 1 --image_size 56 --json -o "$work/out")
analyze() { # WHAT NAME OPTIONS…
    local what=$1 name=$2
    shift 2
    timeout 120 "$IBOT_BIN/ibot-analyze" "$what" "${weights[@]}" "$@" >"$work/$name.out" 2>"$work/$name.log" || fail "$name"
}
analyze attention attention "$work/a.bmp" --threshold 0.6 --maps
analyze correspondence pairs --sample_type class --topk 49 "$work/a.bmp" "$work/b.bmp"
analyze patterns patterns --resize_size 56 --memory "$work/patch.safetensors" "$work/a.bmp" "$work/b.bmp"
analyze patterns classes --resize_size 56 --type cls --memory "$work/cls.safetensors" "$work/a.bmp"
python3 - "$golden/analysis.safetensors" "$work" <<'END' || fail "values"
import json, struct, sys, zlib
def tensors(path):
    raw = open(path, "rb").read()
    n, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + n])
    def read(name):
        entry = header[name]
        letter, size = {"F32": ("f", 4), "I32": ("i", 4), "U8": ("B", 1)}[entry["dtype"]]
        a, b = entry["data_offsets"]
        return struct.unpack(f"<{(b - a) // size}{letter}", raw[8 + n + a:8 + n + b])
    return read
def pixels(path):
    """RGB of an 8-bit PNG without interlace, its filters undone."""
    raw, at, data = open(path, "rb").read(), 8, b""
    while at < len(raw):
        n, kind = struct.unpack(">I4s", raw[at:at + 8])
        if kind == b"IHDR":
            width, height, depth, colour, _, _, lace = struct.unpack(">IIBBBBB", raw[at + 8:at + 21])
            assert (depth, colour, lace) == (8, 2, 0)
        data += raw[at + 8:at + 8 + n] if kind == b"IDAT" else b""
        at += 12 + n
    data, out, row = zlib.decompress(data), [], [0] * 3 * width
    for y in range(height):
        kind, above, line = data[y * (3 * width + 1)], row, data[y * (3 * width + 1) + 1:(y + 1) * (3 * width + 1)]
        row = []
        for i, byte in enumerate(line):
            a, b, c = row[i - 3] if i > 2 else 0, above[i], above[i - 3] if i > 2 else 0
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            row.append(byte + (0, a, b, (a + b) // 2, paeth)[kind] & 255)
        out += row
    return out
def lines(name):
    return [json.loads(line) for line in open(f"{sys.argv[2]}/{name}.out")]
golden = tensors(sys.argv[1])
def near(got, wanted, most):
    assert len(got) == len(wanted)
    worst = max(abs(x - y) for x, y in zip(got, wanted))
    assert worst <= most, worst
    return worst

seen, = lines("attention")
rows, keep = golden("attention_a"), golden("keep_a")
worst = max(near([head["cls"]] + head["attention"], rows[50 * h:50 * h + 50], 1e-6) for h, head in enumerate(seen["heads"]))
assert [k for head in seen["heads"] for k in head["mask"]] == list(keep) and len(seen["heads"]) == 3
near(pixels(sys.argv[2] + "/out/idx0_color.png"), golden("composite_a"), 1)
assert pixels(sys.argv[2] + "/out/idx0_image.png") == list(golden("image_a"))

pair, = lines("pairs")
match, order = golden("match"), [m["from"] for m in pair["matches"]]
assert sorted(order) == list(range(49)) and all(m["to"] == match[m["from"]] for m in pair["matches"])
mean = [sum(rows[50 * h + 1 + i] for h in range(3)) / 3 for i in range(49)]
assert all(mean[i] >= mean[j] - 1e-8 for i, j in zip(order, order[1:])), "not by attention"

patch, one = tensors(sys.argv[2] + "/patch.safetensors"), tensors(sys.argv[2] + "/cls.safetensors")
assert patch("memory_bank.index")[:49] == golden("prototype_patch")
near(patch("memory_bank.value")[:49], golden("value_patch"), 1e-5)
assert one("memory_bank.index") == golden("prototype_cls")
near(one("memory_bank.value"), golden("value_cls"), 1e-5)
# of a and b together, by a third implementation
sizes = patch("num_per_cluster")
assert {k: n for k, n in enumerate(sizes) if n} == {59: 8, 62: 67, 87: 4, 92: 19}
assert [c["cluster"] for c in lines("patterns")] == [62, 92, 59, 87]
print(f"attention within {worst:.1e}; masks, matches, prototypes and pixels are the references'")
END
