"""`ibot-eval retrieval` against PyTorch, Pillow and NumPy: pictures, positions, network, features and
measures made again here, from their definitions.

  check_torch_retrieval.py make FOLDER IMAGES   # a data set, and a random network, in FOLDER
  ibot-eval retrieval --checkpoint FOLDER/vit.pth --num_heads 3 --data FOLDER/revisited --dataset made --imsize 200 \\
      --multiscale --json -o FOLDER/kept > FOLDER/retrieval.jsonl
  check_torch_retrieval.py check FOLDER [--imsize 200] [--scales 3] [--crop]

IMAGES is a folder of folders of images. Says the largest difference of features, and of each measure.
"""
import argparse
import json
import os
import pickle
import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from safetensors.numpy import load_file

D, DEPTH, HEADS, PATCH, STORED = 48, 3, 3, 8, 56


# ------------------------------------------------------------------------------ data

def make_network(path):
    torch.manual_seed(0)

    def r(*shape, s=.08):
        return torch.randn(*shape) * s
    w = {"cls_token": r(1, 1, D, s=.5), "pos_embed": r(1, (STORED // PATCH) ** 2 + 1, D, s=.5),
         "patch_embed.proj.weight": r(D, 3, PATCH, PATCH), "patch_embed.proj.bias": r(D),
         "norm.weight": 1 + r(D), "norm.bias": r(D)}
    for i in range(DEPTH):
        b = f"blocks.{i}."
        for n in ("norm1", "norm2"):
            w[b + n + ".weight"], w[b + n + ".bias"] = 1 + r(D), r(D)
        for n, o, k in (("attn.qkv", 3 * D, D), ("attn.proj", D, D), ("mlp.fc1", 4 * D, D), ("mlp.fc2", D, 4 * D)):
            w[b + n + ".weight"], w[b + n + ".bias"] = r(o, k, s=.2), r(o)
    torch.save({"teacher": w}, path)


def make_data(folder, images):
    rng = random.Random(0)
    paths = sorted(os.path.join(a, f) for a, _, fs in os.walk(images) for f in fs)[:24]
    jpg = os.path.join(folder, "revisited/made/jpg")
    for f in (jpg,):
        os.makedirs(f, exist_ok=True)
    names, owner, queries, gnd = [], [], [], []
    for i, p in enumerate(paths):
        image = Image.open(p).convert("RGB")
        image.thumbnail((500, 500))
        w, h = image.size
        box = [w // 10, h // 8, w - w // 9, h - h // 11]
        variants = [image.filter(ImageFilter.GaussianBlur(2)), image.crop(box), image.rotate(9),
                    image.resize((w * 2 // 3, h // 2)), image.convert("L").convert("RGB")]
        for j, v in enumerate(variants[:3 + i % 3]):
            names.append(f"image_{i:03d}_{j}")
            owner.append(i)
            v.save(f"{jpg}/{names[-1]}.jpg", quality=85)
        if i % 2 == 0:
            queries.append(f"query_{i:03d}")
            image.save(f"{jpg}/{queries[-1]}.jpg", quality=90)
            gnd.append([float(x) + .5 for x in box])
    truth = []
    for q, box in zip(queries, gnd):
        mine = [k for k, o in enumerate(owner) if o == int(q[-3:])]
        others = rng.sample([k for k in range(len(names)) if k not in mine], 5)
        easy = mine[:1] if len(truth) != 3 else []
        entry = {"bbx": box, "easy": np.array(easy, dtype=np.int64), "hard": mine[1:-1],
                 "junk": np.array(mine[-1:] + others, dtype=np.int64)}
        truth.append(entry)
    with open(os.path.join(folder, "revisited/made/gnd_made.pkl"), "wb") as f:
        pickle.dump({"imlist": names, "qimlist": queries, "gnd": truth}, f, protocol=2)


# ------------------------------------------------------------------------------ network

class Network:
    def __init__(self, path):
        self.w = torch.load(path, weights_only=True)["teacher"]

    def norm(self, x, name):
        return F.layer_norm(x, (D,), self.w[name + ".weight"], self.w[name + ".bias"], 1e-6)

    def linear(self, x, name):
        return F.linear(x, self.w[name + ".weight"], self.w[name + ".bias"])

    def positions(self, h, w):
        stored, n = self.w["pos_embed"], STORED // PATCH
        if h == n and w == n:
            return stored
        grid = stored[:, 1:].reshape(1, n, n, D).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=((h + .1) / n, (w + .1) / n), mode="bicubic")
        assert grid.shape[-2:] == (h, w)
        return torch.cat([stored[:, :1], grid.permute(0, 2, 3, 1).reshape(1, h * w, D)], 1)

    def tokens(self, x):
        h, w = x.shape[-2] // PATCH, x.shape[-1] // PATCH
        x = F.conv2d(x, self.w["patch_embed.proj.weight"], self.w["patch_embed.proj.bias"], stride=PATCH)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.w["cls_token"].expand(len(x), -1, -1), x], 1) + self.positions(h, w)
        for i in range(DEPTH):
            b, n, d = x.shape
            q, k, v = self.linear(self.norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").reshape(
                b, n, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
            a = (q @ k.transpose(-2, -1) * (d // HEADS) ** -.5).softmax(-1) @ v
            x = x + self.linear(a.transpose(1, 2).reshape(b, n, d), f"blocks.{i}.attn.proj")
            y = F.gelu(self.linear(self.norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
            x = x + self.linear(y, f"blocks.{i}.mlp.fc2")
        return self.norm(x, "norm")


def normalise(image):
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    mean, std = torch.tensor([.485, .456, .406]), torch.tensor([.229, .224, .225])
    return (x - mean[:, None, None]) / std[:, None, None]


# ------------------------------------------------------------------------------ measures

def area(ranks, n):
    """Trapezoids under precision over recall, as a polygon."""
    total, recall, precision = 0.0, 0.0, 1.0
    for found, rank in enumerate(ranks):
        left = precision if rank == 0 else found / rank
        right = (found + 1) / (rank + 1)
        total += (left + right) / 2 / n
    return total


def score(order, right, junk, ks):
    kept = [k for k in order if k not in junk]
    ranks = [r for r, k in enumerate(kept) if k in right]
    return [area(ranks, len(right))] + [sum(r < min(k, ranks[-1] + 1) for r in ranks) / min(k, ranks[-1] + 1) for k in ks]


def report(name, got, wanted):
    print(f"{name}: got {got:.6f}, wanted {wanted:.6f}, difference {abs(got - wanted):.1e}")


def check_retrieval(folder, args):
    network, root = Network(f"{folder}/vit.pth"), f"{folder}/revisited/made"
    with open(f"{root}/gnd_made.pkl", "rb") as f:
        truth = pickle.load(f)

    def features(names, boxes=None):
        rows = []
        for i, name in enumerate(names):
            image = Image.open(f"{root}/jpg/{name}.jpg").convert("RGB")
            if boxes is not None:
                image = image.crop(boxes[i])
            image.thumbnail((args.imsize, args.imsize), Image.Resampling.LANCZOS)
            x, row = normalise(image), 0
            for scale in (1, 2 ** -.5, .5)[:args.scales]:
                y = x if scale == 1 else F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
                row = row + network.tokens(y)[0, 0]
            rows.append(F.normalize(row, dim=0).numpy())
        return np.stack(rows)
    images = features(truth["imlist"])
    queries = features(truth["qimlist"], [g["bbx"] for g in truth["gnd"]] if args.crop else None)
    for name, wanted in (("images", images), ("queries", queries)):
        got = load_file(f"{folder}/kept/made-{name}.safetensors")["values"]
        print(f"features of {name}: {got.shape}, largest difference {np.abs(got - wanted).max():.1e}")
    got = {r["protocol"]: r for r in map(json.loads, open(f"{folder}/retrieval.jsonl"))}
    order = np.argsort(-(queries @ images.T), axis=1, kind="stable")
    for protocol, right, junk in (("easy", ["easy"], ["junk", "hard"]), ("medium", ["easy", "hard"], ["junk"]),
                                  ("hard", ["hard"], ["junk", "easy"])):
        scores = []
        for q, g in enumerate(truth["gnd"]):
            rights = {int(k) for name in right for k in g[name]}
            if rights:
                scores.append(score(order[q], rights, {int(k) for name in junk for k in g[name]}, (1, 5, 10)))
        assert got[protocol]["queries"] == len(scores)
        for name, value in zip(("map", "mp@1", "mp@5", "mp@10"), np.mean(scores, 0) * 100):
            report(f"{protocol} {name}", got[protocol][name], value)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["make", "check"])
    parser.add_argument("folder")
    parser.add_argument("images", nargs="?")
    parser.add_argument("--imsize", type=int, default=200)
    parser.add_argument("--scales", type=int, default=3)
    parser.add_argument("--crop", action="store_true")
    args = parser.parse_args()
    if args.what == "make":
        os.makedirs(args.folder, exist_ok=True)
        make_network(f"{args.folder}/vit.pth")
        make_data(args.folder, args.images)
        return
    with torch.no_grad():
        check_retrieval(args.folder, args)


if __name__ == "__main__":
    main()
