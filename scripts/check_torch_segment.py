#!/usr/bin/env python3
"""Holds ibot-eval segment against the same written with PyTorch, numpy and, where it is installed, OpenCV.

  scripts/check_torch_segment.py [--bin build/bin] [--keep DIR] [--test tests/trainer/scene_crop_test.c]

Makes scenes of several shapes and random weights of a ViT with a linear layer on three of its blocks.
Then masks and scores of --eval by the program and by sliding windows as mmsegmentation has them: every
window's logits scaled up, added, divided by their number, the whole scaled to the picture. Then a few
steps of training, of a frozen backbone and of one that is trained: on scenes that their mirror images
are equal to and that are one crop each, so that no draw matters; losses, rates and weights. And the
numbers that crops are tested against are made again. Exit status 1: something differs; 77: no PyTorch.
"""
import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    from PIL import Image
except ImportError as error:
    print(f"skipped: {error}: scripts/setup_torch.sh installs PyTorch", file=sys.stderr)
    sys.exit(77)
try:
    import cv2
except ImportError:
    cv2 = None

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import torch_safetensors  # noqa: E402

WIDTH, DEPTH, HEADS, PATCH, CROP, STRIDE, CLASSES = 48, 4, 3, 8, 64, 42, 6
TAPS = (0, 2, 3)
GRID = CROP // PATCH
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


# ------------------------------------------------------------------------------ data and weights


def make_scene(rng, w, h, symmetric):
    y, x = np.mgrid[0:h, 0:w]
    if symmetric:
        x = np.minimum(x, w - 1 - x)
    rgb = rng.normal(110, 25, (h, w, 3))
    label = np.full((h, w), 1, np.uint8)
    for k in range(2, CLASSES + 1):
        cx, cy, r = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(8, 20)
        inside = (x - cx) ** 2 + (y - cy) ** 2 < r * r
        rgb[inside] = rng.normal(0, 25, (inside.sum(), 3)) + rng.uniform(30, 220, 3)
        label[inside] = k
    label[:1] = 0
    if symmetric:
        rgb = np.where((np.mgrid[0:h, 0:w][1] >= w // 2)[..., None], rgb[:, ::-1], rgb)
    return np.clip(rgb, 0, 255).astype(np.uint8), label


def write_scenes(root, part, scenes):
    for kind in ("images", "annotations"):
        os.makedirs(os.path.join(root, kind, part), exist_ok=True)
    for i, (rgb, label) in enumerate(scenes):
        Image.fromarray(rgb).save(os.path.join(root, "images", part, f"{i:03d}.png"))
        Image.fromarray(label).save(os.path.join(root, "annotations", part, f"{i:03d}.png"))


def make_weights():
    torch.manual_seed(7)
    w = {"cls_token": torch.randn(1, 1, WIDTH) * 0.02,
         "pos_embed": torch.randn(1, 1 + GRID * GRID, WIDTH) * 0.2,
         "patch_embed.proj.weight": torch.randn(WIDTH, 3, PATCH, PATCH) / PATCH,
         "patch_embed.proj.bias": torch.randn(WIDTH) * 0.02}
    for i in range(DEPTH):
        for name, shape in (("attn.qkv", (3 * WIDTH, WIDTH)), ("attn.proj", (WIDTH, WIDTH)),
                            ("mlp.fc1", (4 * WIDTH, WIDTH)), ("mlp.fc2", (WIDTH, 4 * WIDTH))):
            w[f"blocks.{i}.{name}.weight"] = torch.randn(shape) * 0.1
            w[f"blocks.{i}.{name}.bias"] = torch.randn(shape[0]) * 0.02
        for name in ("norm1", "norm2"):
            w[f"blocks.{i}.{name}.weight"] = 1 + torch.randn(WIDTH) * 0.1
            w[f"blocks.{i}.{name}.bias"] = torch.randn(WIDTH) * 0.02
    w["norm.weight"] = 1 + torch.randn(WIDTH) * 0.1
    w["norm.bias"] = torch.randn(WIDTH) * 0.02
    w["head.weight"] = torch.randn(CLASSES, len(TAPS) * WIDTH) * 0.1
    w["head.bias"] = torch.randn(CLASSES) * 0.1
    return w


def write_weights(path, w):
    header, at = {"__metadata__": {"arch": "vit_test", "num_heads": str(HEADS), "taps": " ".join(map(str, TAPS)),
                                   "global_crop_size": str(CROP)}}, 0
    for name, tensor in w.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape),
                        "data_offsets": [at, at + 4 * tensor.numel()]}
        at += 4 * tensor.numel()
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in w.values():
            file.write(tensor.contiguous().numpy().tobytes())


# ------------------------------------------------------------------------------ network


def normalised(rgb):
    return torch.from_numpy(((rgb - MEAN) / STD).astype(np.float32)).permute(2, 0, 1)


def logits_of(w, images):
    """[n, 3, CROP, CROP] -> [n, K, CROP, CROP]"""
    n = images.shape[0]
    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(n, -1, -1), x], 1) + w["pos_embed"]
    taps = []
    for i in range(DEPTH):
        b = f"blocks.{i}."

        def norm(x, name):
            return F.layer_norm(x, (WIDTH,), w[name + ".weight"], w[name + ".bias"], 1e-6)

        def linear(x, name):
            return F.linear(x, w[b + name + ".weight"], w[b + name + ".bias"])

        q, k, v = linear(norm(x, b + "norm1"), "attn.qkv").reshape(
            n, -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-1, -2)) * (WIDTH // HEADS) ** -0.5).softmax(-1) @ v
        x = x + linear(y.transpose(1, 2).reshape(n, -1, WIDTH), "attn.proj")
        x = x + linear(F.gelu(linear(norm(x, b + "norm2"), "mlp.fc1")), "mlp.fc2")
        if i in TAPS:
            taps.append(norm(x, "norm")[:, 1:])
    z = F.linear(torch.cat(taps, 2), w["head.weight"], w["head.bias"])
    z = z.transpose(1, 2).reshape(n, CLASSES, GRID, GRID)
    return F.interpolate(z, (CROP, CROP), mode="bilinear", align_corners=False)


# ------------------------------------------------------------------------------ evaluation


def resized(rgb, short):
    h, w = rgb.shape[:2]
    scale = min(4 * short / max(h, w), short / min(h, w))
    size = int(w * scale + 0.5), int(h * scale + 0.5)
    return rgb if size == (w, h) else cv2.resize(rgb, size)


def slide(w, image, size):
    """[3, h, w] -> [K, *size]"""
    h, width = image.shape[1:]
    total, count = torch.zeros(CLASSES, h, width), torch.zeros(h, width)
    for row in range(max(h - CROP + STRIDE - 1, 0) // STRIDE + 1):
        for column in range(max(width - CROP + STRIDE - 1, 0) // STRIDE + 1):
            y, x = min(row * STRIDE + CROP, h) - CROP, min(column * STRIDE + CROP, width) - CROP
            total[:, y:y + CROP, x:x + CROP] += logits_of(w, image[None, :, y:y + CROP, x:x + CROP])[0]
            count[y:y + CROP, x:x + CROP] += 1
    assert count.min() > 0
    return F.interpolate((total / count)[None], size, mode="bilinear", align_corners=False)[0]


def find(w, rgb, ratios, flip):
    total = 0
    for ratio in ratios:
        image = normalised(resized(rgb, int(CROP * ratio)))
        total = total + slide(w, image, rgb.shape[:2]).softmax(0)
        if flip:
            total = total + slide(w, image.flip(2), rgb.shape[:2]).softmax(0).flip(2)
    return total.argmax(0).numpy()


def scores_of(found, truth):
    matrix = np.zeros((CLASSES, CLASSES))
    for f, t in zip(found, truth):
        counts = t > 0
        np.add.at(matrix, (t[counts] - 1, f[counts]), 1)
    both, rows, columns = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    return (100 * np.nanmean(both / (rows + columns - both)), 100 * both.sum() / matrix.sum(),
            100 * np.nanmean(both / rows))


def run(args, work, *options):
    result = subprocess.run([os.path.join(args.bin, "ibot-eval"), "segment", "--num_classes", str(CLASSES),
                             "--data_path", os.path.join(work, "data"), "--json", *map(str, options)],
                            capture_output=True, text=True)
    sys.stderr.write(result.stderr)
    if result.returncode != 0:
        sys.exit(1)
    return [json.loads(line) for line in result.stdout.splitlines()]


def check_evaluation(args, work, w, ratios, flip):
    rng = np.random.default_rng(3)
    sizes = [(64, 64), (150, 64), (64, 106)] + ([(90, 70), (61, 200), (400, 300)] if cv2 else [])
    scenes = [make_scene(rng, *size, False) for size in sizes]
    masks = os.path.join(work, f"masks{len(ratios)}{flip}")
    write_scenes(os.path.join(work, "data"), "validation", scenes)
    lines = run(args, work, "--eval", "--checkpoint", os.path.join(work, "weights.safetensors"),
                "--masks", masks, "--img_ratios", *ratios, "--flip", "on" if flip else "off")
    with torch.no_grad():
        found = [find(w, rgb, ratios, flip) for rgb, _ in scenes]
    wrong = everything = 0
    for i, f in enumerate(found):
        mine = np.asarray(Image.open(os.path.join(masks, f"{i:03d}.png")))
        wrong += (mine != f + 1).sum()
        everything += f.size
    scores = scores_of(found, [label for _, label in scenes])
    mine = [lines[-1][key] for key in ("miou", "aacc", "macc")]
    bad = wrong > 1e-4 * everything or not np.allclose(mine, scores, atol=0.02)
    print(f"evaluation of {len(sizes)} pictures at {len(ratios)} sizes{', mirrored too' if flip else ''}: "
          f"{wrong} of {everything} pixels have another label; "
          f"mIoU {scores[0]:.4f}, ours {mine[0]:.4f}; aAcc {scores[1]:.4f}, {mine[1]:.4f}; "
          f"mAcc {scores[2]:.4f}, {mine[2]:.4f}")
    return bad


# ------------------------------------------------------------------------------ training


def layer_of(name):
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return DEPTH + 1 if name.startswith(("norm", "head")) else 0


def check_training(args, work, w, frozen):
    n, steps, warmup, lr, decay, layer_decay = 5, 7, 3, 0.01, 0.05, 0.7
    rng = np.random.default_rng(4)
    scenes = [make_scene(rng, CROP, CROP, True) for _ in range(n)]
    write_scenes(os.path.join(work, "data"), "training", scenes)
    options = ["--checkpoint", os.path.join(work, "weights.safetensors"), "--taps", *TAPS, "--crop_size", CROP,
               "--ratio_range", 1, 1, "--photometric", "off", "--batch_size_per_gpu", n, "--warmup_steps", warmup,
               "--frozen", "on" if frozen else "off", "--drop_path", 0, "--layer_decay", layer_decay,
               "--weight_decay", decay]
    start, out = os.path.join(work, f"start{frozen}"), os.path.join(work, f"out{frozen}")
    run(args, work, *options, "--steps", warmup, "--lr", 0, "-o", start)
    run(args, work, *options, "--steps", steps, "--lr", lr, "--val_freq", 1, "-o", out)

    head = torch_safetensors.read(os.path.join(start, "best.safetensors"))[0]
    w = {name: tensor.clone() for name, tensor in w.items()}
    w["head.weight"], w["head.bias"] = head["head.weight"].clone(), head["head.bias"].clone()
    trained = [name for name in w if not frozen or name.startswith("head")]
    groups = []
    for name in trained:
        w[name].requires_grad_(True)
        plain = name.endswith(".bias") or w[name].ndim == 1 or name in ("cls_token", "pos_embed")
        groups.append({"params": [w[name]], "weight_decay": 0.0 if plain else decay,
                       "scale": 1.0 if frozen else layer_decay ** (DEPTH + 1 - layer_of(name))})
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)
    images = torch.stack([normalised(rgb) for rgb, _ in scenes])
    labels = torch.stack([torch.from_numpy(label.astype(np.int64)) - 1 for _, label in scenes])
    labels[labels < 0] = 255
    lines = [json.loads(line) for line in open(os.path.join(out, "log.txt"))]
    worst = 0.0
    for step in range(steps):
        rate = lr * (1 - step / steps)
        if step < warmup:
            rate *= 1 - (1 - step / warmup) * (1 - 1e-6)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        # the mean is over all pixels, those without a class too
        loss = F.cross_entropy(logits_of(w, images), labels, ignore_index=255, reduction="none").mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        worst = max(worst, abs(lines[step]["train_loss"] / loss.item() - 1),
                    abs(lines[step]["train_lr"] / rate - 1))
    state = torch_safetensors.read(os.path.join(out, "state.safetensors"))[0]
    moved = 0.0
    for name in trained:
        key = "model." + name if name.startswith("head") else "model.backbone." + name
        moved = max(moved, (state[key] - w[name].detach()).abs().max().item())
    print(f"training, backbone {'frozen' if frozen else 'trained'}: loss {lines[0]['train_loss']:.4f} to "
          f"{lines[-1]['train_loss']:.4f}; losses and rates within {worst:.1e}, weights within {moved:.1e}")
    return worst > 2e-5 or moved > 2e-4


# ------------------------------------------------------------------------------ crops


def check_crops(path):
    """Every number that scene_crop_test.c has of OpenCV."""
    if cv2 is None:
        print("crops: not checked, OpenCV is not installed")
        return False

    def weighed(a):
        a = a.reshape(-1).astype(np.int64)
        return int((a * (np.arange(len(a)) % 9973 + 1)).sum() % 1000000007)

    def waves(h, w):
        y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
        return ((x * x * 7 + y * 13 + c * x * y * 5) % 256).astype(np.uint8)

    def changed(a, factor=1.0, summand=0.0):
        return np.clip(a.astype(np.float32) * factor + summand, 0, 255).astype(np.uint8)

    def distorted(a, brightness, contrast, last, saturation, hue):
        if brightness is not None:
            a = changed(a, summand=brightness)
        if contrast is not None and not last:
            a = changed(a, contrast)
        if saturation is not None:
            hsv = cv2.cvtColor(a, cv2.COLOR_RGB2HSV)
            hsv[..., 1] = changed(hsv[..., 1], saturation)
            a = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if hue is not None:
            hsv = cv2.cvtColor(a, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(int) + hue) % 180
            a = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        return changed(a, contrast) if contrast is not None and last else a

    i = np.arange(1 << 24, dtype=np.uint32)
    colours = np.stack([i >> 16, i >> 8 & 255, i & 255], -1).astype(np.uint8)
    numbers = [weighed(cv2.cvtColor(colours.reshape(4096, 4096, 3), cv2.COLOR_RGB2HSV)),
               weighed(cv2.cvtColor(colours[:180 << 16].reshape(-1, 4096, 3), cv2.COLOR_HSV2RGB))]
    for w, h, *size in ((37, 53, 64, 80), (100, 70, 33, 21), (640, 480, 683, 512), (7, 5, 3, 11),
                        (500, 375, 1013, 760)):
        labels = np.ascontiguousarray(waves(h, w)[..., 0])
        numbers.append(weighed(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)))
    for draws in ((None, None, False, None, None), (20.25, None, False, None, None),
                  (-31.5, 1.375, False, None, None), (None, 0.625, True, 1.3125, None),
                  (None, 1.4375, True, None, -18), (11.125, 1.1875, False, 0.5625, 17),
                  (11.125, 1.1875, True, 1.4921875, -3)):
        numbers.append(weighed(distorted(waves(96, 512), *draws)))
    text = open(path).read()
    missing = [n for n in numbers if str(n) not in text]
    print(f"crops: {len(numbers)} numbers of OpenCV {cv2.__version__}, {len(missing)} of them not in {path}")
    return bool(missing)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/bin")
    parser.add_argument("--keep", help="folder for data and results, which stay")
    parser.add_argument("--test", default="tests/trainer/scene_crop_test.c")
    args = parser.parse_args()
    work = args.keep or tempfile.mkdtemp()
    w = make_weights()
    write_weights(os.path.join(work, "weights.safetensors"), w)
    bad = check_evaluation(args, work, w, (1,), False)
    if cv2 is not None:
        bad |= check_evaluation(args, work, w, (1, 1.25, 1.75), True)
    bad |= check_training(args, work, w, True)
    bad |= check_training(args, work, w, False)
    bad |= check_crops(args.test)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
