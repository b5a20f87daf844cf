"""`ibot-eval copy_detection` against PyTorch, Pillow and NumPy: pictures, network, features, whitening and
measures made again here, from their definitions.

  check_torch_copy_detection.py make FOLDER IMAGES   # a data set, and a random network, in FOLDER
  ibot-eval copy_detection --checkpoint FOLDER/vit.pth --num_heads 3 --data FOLDER/copydays --imsize 100 \\
      --distractors FOLDER/distractors --whitening FOLDER/whitening --json -o FOLDER/kept > FOLDER/copies.jsonl
  check_torch_copy_detection.py check FOLDER [--imsize 100] [--no_distractors] [--no_whitening]

IMAGES is a folder of folders of images. Says the largest difference of features, and each measure. Without an
option of the command leave out what it made. Features agree to 1e-5 with Pillow 11; Pillow 13.0 resizes some
shapes by columns before rows, which rounds some pixels otherwise.
"""
import argparse
import glob
import json
import os
import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from safetensors.numpy import load_file

from check_torch_retrieval import Network, area, make_network, normalise, report

QUALITIES, SHARES = (3, 5, 8, 10, 15, 20, 30, 50, 75), (10, 15, 20, 30, 40, 50, 60, 70, 80)
BLOCKS = ["original", "strong"] + [f"jpegqual/{q}" for q in QUALITIES] + [f"crops/{s}" for s in SHARES]


# ------------------------------------------------------------------------------ data

def attacks(image, rng):
    w, h = image.size
    noise = Image.effect_noise(image.size, 120).convert("RGB")
    yield image.rotate(rng.uniform(10, 40), expand=True)
    yield Image.blend(image.filter(ImageFilter.GaussianBlur(3)), noise, .3)
    yield image.crop((w // 2, h // 2, w, h)).convert("L").convert("RGB")


def make_data(folder, images):
    rng = random.Random(0)
    paths = sorted(os.path.join(a, f) for a, _, fs in os.walk(images) for f in fs)
    rng.shuffle(paths)
    for name in BLOCKS + ["../distractors", "../whitening/a", "../whitening/b"]:
        os.makedirs(f"{folder}/copydays/{name}", exist_ok=True)

    def read(path, i):
        return Image.open(path).convert("RGB").resize((120 + 7 * i % 50, 90 + 11 * i % 60), Image.Resampling.LANCZOS)
    for i, path in enumerate(paths[:30]):
        image, number = read(path, i), 2000 + i
        w, h = image.size
        image.save(f"{folder}/copydays/original/{number}00.jpg", quality=95)
        for j, changed in enumerate(attacks(image, rng)):
            if j <= i % 3:
                changed.save(f"{folder}/copydays/strong/{number}{j + 1:02d}.jpg", quality=40)
        for quality in QUALITIES:
            image.resize((w // 4, h // 4)).save(f"{folder}/copydays/jpegqual/{quality}/{number}00.jpg", quality=quality)
        for share in SHARES:
            side = (1 - share / 100) ** .5
            left, top = rng.uniform(0, w * (1 - side)), rng.uniform(0, h * (1 - side))
            image.crop((int(left), int(top), int(left + w * side), int(top + h * side))).save(
                f"{folder}/copydays/crops/{share}/{number}00.jpg", quality=75)
    for i, path in enumerate(paths[30:430]):
        if i < 60:
            read(path, i).save(f"{folder}/distractors/{i:03d}.{'png' if i % 7 == 0 else 'jpg'}")
        else:
            read(path, i).save(f"{folder}/whitening/{'ab'[i % 2]}/{i:03d}.jpg", quality=90)


# ------------------------------------------------------------------------------ features

def features_of(network, paths, imsize):
    rows = []
    for path in paths:
        image = Image.open(path).convert("RGB").resize((imsize, imsize), Image.Resampling.BICUBIC)
        tokens = network.tokens(normalise(image))
        patches = tokens[:, 1:].clamp(min=1e-6)
        rows.append(torch.cat([tokens[:, 0], patches.pow(4).mean(1).pow(.25)], 1)[0].numpy())
    return np.stack(rows)


def files_of(*patterns):
    return sorted(path for pattern in patterns for path in glob.glob(pattern))


def learn_whitening(x):
    """The mean; and directions, from second moments that are not centred."""
    values, vectors = np.linalg.eigh(x.astype(np.float64).T @ x.astype(np.float64) / len(x))
    small = values < values.max() * 1e-5
    print(f"whitening: {len(x)} images, {len(values)} directions, of which {small.sum()} count as larger than they are")
    return x.astype(np.float64).mean(0), vectors / np.sqrt(np.where(small, values.max() * 1e-5, values))


def check(folder, args):
    network, kept = Network(f"{folder}/vit.pth"), f"{folder}/kept"
    names = [files_of(f"{folder}/copydays/{block}/*.jpg") for block in BLOCKS]
    sets = {"copydays": [path for block in names for path in block]}
    if args.distractors:
        sets["distractors"] = files_of(f"{folder}/distractors/*")
    if args.whitening:
        sets["whitening"] = files_of(f"{folder}/whitening/a/*") + files_of(f"{folder}/whitening/b/*")
    made = {}
    for name, paths in sets.items():
        made[name] = features_of(network, paths, args.imsize)
        got = load_file(f"{kept}/{name}.safetensors")["values"]
        print(f"features of {name}: {got.shape}, largest difference {np.abs(got - made[name]).max():.1e}")
    queries = made["copydays"].astype(np.float64)
    n = len(names[0])
    database = np.concatenate([queries[:n], made.get("distractors", queries[:0])])
    if args.whitening:
        mean, directions = learn_whitening(made["whitening"])
        queries, database = (queries - mean) @ directions, (database - mean) @ directions
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    database /= np.linalg.norm(database, axis=1, keepdims=True)
    order = np.argsort(-(queries @ database.T), axis=1, kind="stable")[:, :20]
    originals = [os.path.basename(path)[:4] for path in names[0]]
    first = 0
    lines = {line["block"]: line for line in map(json.loads, open(f"{folder}/copies.jsonl"))}
    assert list(lines) == BLOCKS
    for block, paths in zip(BLOCKS, names):
        scores = []
        for i, path in enumerate(paths):
            right = {i}
            if block == "strong":
                right = {j for j, prefix in enumerate(originals) if prefix == os.path.basename(path)[:4]}
            ranks = [rank for rank, j in enumerate(order[first + i]) if j in right]
            scores.append(area(ranks, len(right)))
        first += len(paths)
        assert (lines[block]["queries"], lines[block]["images"]) == (len(paths), len(database))
        report(block, lines[block]["map"], np.mean(scores) * 100)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["make", "check"])
    parser.add_argument("folder")
    parser.add_argument("images", nargs="?")
    parser.add_argument("--imsize", type=int, default=100)
    parser.add_argument("--no_distractors", dest="distractors", action="store_false")
    parser.add_argument("--no_whitening", dest="whitening", action="store_false")
    args = parser.parse_args()
    if args.what == "make":
        os.makedirs(args.folder, exist_ok=True)
        make_network(f"{args.folder}/vit.pth")
        make_data(args.folder, args.images)
        return
    with torch.no_grad():
        check(args.folder, args)


if __name__ == "__main__":
    main()
