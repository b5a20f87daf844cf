#!/usr/bin/env python3
"""Holds ibot-eval video against the same evaluation written with PyTorch, numpy and Pillow.

  scripts/check_torch_video.py PHOTOS [--bin build/bin] [--keep DIR] [--patch 16]

Makes two sequences of photographs that move, with pieces of other photographs pasted on that move
their own way, as DAVIS lays out a data set; random weights; then labels by the program and by the
code below, compared pixel by pixel, and J and F by both. OpenCV resizes where it is installed (cv2),
else its arithmetic in numpy does.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

try:
    import cv2
except ImportError:
    cv2 = None

WIDTH, DEPTH, HEADS, GRID = 96, 3, 3, 14
LAST, REACH, TOPK, TEMPERATURE = 7, 12, 5, 0.1


# ------------------------------------------------------------------------------ data


def photographs(folder, n):
    paths = sorted(os.path.join(r, f) for r, _, fs in os.walk(folder) for f in fs
                   if f.lower().endswith((".jpg", ".jpeg")))
    return [Image.open(p).convert("RGB") for p in paths[:: max(1, len(paths) // n)][:n]]


def make_sequence(root, name, photos, size, n_frames, shapes):
    w, h = size
    palette = Image.new("P", (1, 1))
    colours = []
    for i in range(256):
        rgb = [0, 0, 0]
        for bit in range(8):
            for c in range(3):
                rgb[c] |= ((i >> (3 * bit + c)) & 1) << (7 - bit)
        colours += rgb
    palette.putpalette(colours)
    frames, labels = (os.path.join(root, k, "480p", name) for k in ("JPEGImages", "Annotations"))
    os.makedirs(frames)
    os.makedirs(labels)
    back = photos[0].resize((w + 120, h + 60), Image.BICUBIC)
    for t in range(n_frames):
        image = back.crop((3 * t, t, 3 * t + w, t + h))
        label = np.zeros((h, w), np.uint8)
        for k, (cx, cy, r, vx, vy) in enumerate(shapes):
            y, x = np.mgrid[0:h, 0:w]
            u, v = x - (cx + vx * t), y - (cy + vy * t)
            inside = (np.abs(u) ** 3 + np.abs(v * 1.3) ** 3 < r ** 3) if k % 2 else (
                u * u + v * v < r * r * (1 + 0.3 * np.sin(5 * np.arctan2(v, u))))
            patch = np.asarray(photos[1 + k].resize((w, h), Image.BICUBIC))
            shifted = np.roll(patch, (int(vy * t), int(vx * t)), (0, 1))
            picture = np.array(image)
            picture[inside] = shifted[inside]
            image = Image.fromarray(picture)
            label[inside] = k + 1
        image.save(os.path.join(frames, f"{t:05d}.jpg"), quality=92)
        png = Image.fromarray(label)
        png.putpalette(colours)
        png.save(os.path.join(labels, f"{t:05d}.png"))


# ------------------------------------------------------------------------------ network


def make_weights(patch):
    torch.manual_seed(7)
    w = {"cls_token": torch.randn(1, 1, WIDTH) * 0.02,
         "pos_embed": torch.randn(1, 1 + GRID * GRID, WIDTH) * 0.05,
         "patch_embed.proj.weight": torch.randn(WIDTH, 3, patch, patch) / patch,
         "patch_embed.proj.bias": torch.randn(WIDTH) * 0.02}
    for i in range(DEPTH):
        for name, shape in (("attn.qkv", (3 * WIDTH, WIDTH)), ("attn.proj", (WIDTH, WIDTH)),
                            ("mlp.fc1", (4 * WIDTH, WIDTH)), ("mlp.fc2", (WIDTH, 4 * WIDTH))):
            w[f"blocks.{i}.{name}.weight"] = torch.randn(shape) * 0.05
            w[f"blocks.{i}.{name}.bias"] = torch.randn(shape[0]) * 0.02
        for name in ("norm1", "norm2"):
            w[f"blocks.{i}.{name}.weight"] = 1 + torch.randn(WIDTH) * 0.1
            w[f"blocks.{i}.{name}.bias"] = torch.randn(WIDTH) * 0.02
    w["norm.weight"] = 1 + torch.randn(WIDTH) * 0.1
    w["norm.bias"] = torch.randn(WIDTH) * 0.02
    return w


def patch_features(w, image, patch):
    """image [3, h, w] -> [rows * columns, width]"""
    x = F.conv2d(image[None], w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    rows, columns = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    grid = w["pos_embed"][:, 1:].reshape(1, GRID, GRID, WIDTH).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, mode="bicubic",
                         scale_factor=((rows + 0.1) / GRID, (columns + 0.1) / GRID))
    pos = torch.cat([w["pos_embed"][:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, WIDTH)], 1)
    x = torch.cat([w["cls_token"], x], 1) + pos
    for i in range(DEPTH):
        b = f"blocks.{i}."
        norm = lambda x, n: F.layer_norm(x, (WIDTH,), w[n + ".weight"], w[n + ".bias"], 1e-6)
        linear = lambda x, n: F.linear(x, w[b + n + ".weight"], w[b + n + ".bias"])
        q, k, v = linear(norm(x, b + "norm1"), "attn.qkv").reshape(
            1, -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-1, -2)) * (WIDTH // HEADS) ** -0.5).softmax(-1) @ v
        x = x + linear(y.transpose(1, 2).reshape(1, -1, WIDTH), "attn.proj")
        x = x + linear(F.gelu(linear(norm(x, b + "norm2"), "mlp.fc1")), "mlp.fc2")
    x = F.layer_norm(x, (WIDTH,), w["norm.weight"], w["norm.bias"], 1e-6)
    return x[0, 1:], rows, columns


# ------------------------------------------------------------------------------ frames


def axis(n_in, n_out, clamp):
    scale = 1.0 / (n_out / n_in)
    index, weight = [], []
    for i in range(n_out):
        at = np.float32((i + 0.5) * scale - 0.5)
        first = int(math.floor(at))
        part = np.float32(at - np.float32(first))
        if clamp and (first < 0 or first >= n_in - 1):
            part, first = np.float32(0), min(max(first, 0), n_in - 1)
        index.append((min(max(first, 0), n_in - 1), min(max(first + 1, 0), n_in - 1)))
        weight.append((int(np.rint((np.float32(1) - part) * np.float32(2048))),
                       int(np.rint(part * np.float32(2048)))))
    return np.array(index), np.array(weight)


def resize(rgb, w, h):
    if cv2 is not None:
        return cv2.resize(rgb, (w, h))
    if rgb.shape[:2] == (2 * h, 2 * w):
        i = rgb.astype(int)
        return ((i[0::2, 0::2] + i[0::2, 1::2] + i[1::2, 0::2] + i[1::2, 1::2] + 2) >> 2).astype(
            np.uint8)
    x, xw = axis(rgb.shape[1], w, True)
    y, yw = axis(rgb.shape[0], h, False)
    i = rgb.astype(np.int64)
    across = i[:, x[:, 0]] * xw[None, :, :1] + i[:, x[:, 1]] * xw[None, :, 1:]
    a, b = ((yw[:, k, None, None] * (across[y[:, k]] >> 4)) >> 16 for k in (0, 1))
    return ((a + b + 2) >> 2).astype(np.uint8)


def frame_size(w, h, side=480):
    if h > w:
        return side, int((side * h / w) // 64 * 64)
    return int((side * w / h) // 64 * 64), side


def read_frame(path):
    rgb = np.asarray(Image.open(path).convert("RGB"))
    h, w, _ = rgb.shape
    x = torch.from_numpy(resize(rgb, *frame_size(w, h)).astype(np.float32) / 255.0).permute(2, 0, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.228, 0.224, 0.225])
    return (x - mean[:, None, None]) / std[:, None, None]


# ------------------------------------------------------------------------------ propagation


def neighbourhood(rows, columns):
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return (((y[:, None] - y[None]).abs() <= REACH) & ((x[:, None] - x[None]).abs() <= REACH)).float()


def propagate(target, sources, labels, mask):
    """target [cells, d]; sources: list of [cells, d]; labels: list of [c, cells] -> [c, cells]"""
    target = F.normalize(target, dim=1)
    affinity = torch.cat([torch.exp(F.normalize(s, dim=1) @ target.T / TEMPERATURE) * mask
                          for s in sources])  # sources x targets
    least = affinity.topk(TOPK, dim=0).values[-1]
    affinity[affinity < least] = 0
    return torch.cat(labels, 1) @ (affinity / affinity.sum(0, keepdim=True))


def segment(root, name, w, patch):
    folder = os.path.join(root, "JPEGImages", "480p", name)
    names = sorted(os.listdir(folder))
    truth = Image.open(os.path.join(root, "Annotations", "480p", name, names[0][:-4] + ".png"))
    found, queue, mask, context = [np.asarray(truth)], [], None, None
    for t, file in enumerate(names):
        feature, rows, columns = patch_features(w, read_frame(os.path.join(folder, file)), patch)
        if t == 0:
            small = torch.from_numpy(np.array(truth.resize((columns, rows), 0)).astype(np.int64))
            context = (feature, F.one_hot(small.flatten()).T.float())
            mask = neighbourhood(rows, columns)
            continue
        pairs = [context] + queue
        label = propagate(feature, [p[0] for p in pairs], [p[1] for p in pairs], mask)
        queue = (queue + [(feature, label)])[-LAST:]
        big = F.interpolate(label.reshape(1, -1, rows, columns), scale_factor=patch, mode="bilinear",
                            align_corners=False, recompute_scale_factor=False)[0]
        for c in range(big.shape[0]):
            if big[c].max() > 0:
                big[c] -= big[c].min()
                big[c] /= big[c].max()
        found.append(np.asarray(Image.fromarray(big.argmax(0).numpy().astype(np.uint8)).resize(
            truth.size, 0)))
    return names, found


# ------------------------------------------------------------------------------ scores


def boundary(mask):
    b = np.zeros_like(mask)
    b[:-1, :-1] = ((mask[:-1, :-1] != mask[:-1, 1:]) | (mask[:-1, :-1] != mask[1:, :-1]) |
                   (mask[:-1, :-1] != mask[1:, 1:]))
    b[-1, :-1] = mask[-1, :-1] != mask[-1, 1:]
    b[:-1, -1] = mask[:-1, -1] != mask[1:, -1]
    return b


def near(b, r):
    padded, out = np.pad(b, r), np.zeros_like(b)
    for dy in range(-r, r + 1):
        for dx in range(-r, r + 1):
            if dx * dx + dy * dy <= r * r:
                out |= padded[r + dy: r + dy + b.shape[0], r + dx: r + dx + b.shape[1]]
    return out


def j_and_f(found, truth):
    union = (found | truth).sum()
    j = 1.0 if union == 0 else (found & truth).sum() / union
    r = int(np.ceil(0.008 * np.linalg.norm(truth.shape)))
    a, b = boundary(found), boundary(truth)
    if a.sum() == 0 or b.sum() == 0:
        return j, float(a.sum() == b.sum())
    precision, recall = (a & near(b, r)).sum() / a.sum(), (b & near(a, r)).sum() / b.sum()
    return j, 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def statistics(v):
    ids = (np.round(np.linspace(1, len(v), 5) + 1e-10) - 1).astype(int)
    bins = [v[ids[i]: ids[i + 1] + 1] for i in range(4)]
    return v.mean(), (v > 0.5).mean(), bins[0].mean() - bins[3].mean()


def scores_of(root, folder, sequence):
    truth = os.path.join(root, "Annotations", "480p", sequence)
    names = sorted(os.listdir(truth))
    labels = [(np.asarray(Image.open(os.path.join(folder, sequence, n))),
               np.asarray(Image.open(os.path.join(truth, n)))) for n in names]
    for k in range(1, labels[0][1].max() + 1):
        v = np.array([j_and_f(a == k, b == k) for a, b in labels[1:-1]])
        yield k, statistics(v[:, 0]), statistics(v[:, 1])


# ------------------------------------------------------------------------------ comparison


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--bin", default="build/bin")
    parser.add_argument("--keep", help="folder for data and results, which stay")
    parser.add_argument("--patch", type=int, default=16)
    args = parser.parse_args()
    work = args.keep or tempfile.mkdtemp()
    root, out = os.path.join(work, "data"), os.path.join(work, "out")
    photos = photographs(args.photos, 8)
    make_sequence(root, "wide", photos[:4], (854, 480), 12,
                  [(250, 200, 90, 14, 4), (600, 300, 110, -10, -3), (420, 90, 45, 2, 9)])
    make_sequence(root, "tall", photos[4:7], (360, 500), 9, [(150, 160, 70, 6, 10), (260, 380, 60, -8, 0)])
    os.makedirs(os.path.join(root, "ImageSets", "2017"))
    with open(os.path.join(root, "ImageSets", "2017", "val.txt"), "w") as file:
        file.write("wide\ntall\n")
    weights = make_weights(args.patch)
    torch.save(weights, os.path.join(work, "weights.pth"))
    result = subprocess.run([os.path.join(args.bin, "ibot-eval"), "video", "--checkpoint",
                             os.path.join(work, "weights.pth"), "--num_heads", str(HEADS),
                             "--data_path", root, "-o", out, "--json"],
                            capture_output=True, text=True)
    sys.stderr.write(result.stderr)
    if result.returncode != 0:
        return 1
    lines = {line["name"]: line for line in map(json.loads, result.stdout.splitlines())}
    wrong, everything, bad = 0, 0, False
    means = []
    for sequence in ("wide", "tall"):
        with torch.no_grad():
            names, found = segment(root, sequence, weights, args.patch)
        for name, label in zip(names, found):
            mine = Image.open(os.path.join(out, sequence, name[:-4] + ".png"))
            assert mine.mode == "P" and mine.size == label.shape[::-1]
            wrong += (np.asarray(mine) != label).sum()
            everything += label.size
        for k, j, f in scores_of(root, out, sequence):
            line = lines[f"{sequence}_{k}"]
            mine = [line[f"{m}_{s}"] for m in "jf" for s in ("mean", "recall", "decay")]
            bad |= not np.allclose(mine, [*j, *f], atol=1e-6)
            means.append([*j, *f])
            print(f"{sequence}_{k}: J {j[0]:.4f} F {f[0]:.4f}, ours J {mine[0]:.4f} F {mine[3]:.4f}")
    whole = np.mean(means, 0)
    line = lines["global"]
    bad |= not np.allclose([line[f"{m}_{s}"] for m in "jf" for s in ("mean", "recall", "decay")],
                           whole, atol=1e-6)
    print(f"resized by {'cv2 ' + cv2.__version__ if cv2 else 'numpy'}: {wrong} of {everything} pixels "
          f"have another label; scores {'differ' if bad else 'agree'}; J&F {(whole[0] + whole[3]) / 2:.4f}")
    return 1 if bad or wrong > everything * 1e-4 else 0


if __name__ == "__main__":
    sys.exit(main())
