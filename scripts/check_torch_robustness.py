"""The results of `ibot-eval robustness` against PyTorch, Pillow and NumPy: pictures, draws, network and
measures made again here, from their definitions.

  ibot-convert runs/small classifier.pth --linear runs/small/linear
  ibot-eval robustness --checkpoint classifier.pth … --json > results.jsonl
  check_torch_robustness.py classifier.pth results.jsonl [--saliency_head 1] [--seed 0]

Each line names its data; lines of means are made from the others. Says how many results there are,
and which differ: counts must be the same, measures to 1e-4.
"""
import argparse
import json
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

MASK = 0xffffffff
ALEXNET = {"gaussian_noise": .886428, "shot_noise": .894468, "impulse_noise": .922640,
           "defocus_blur": .819880, "glass_blur": .826268, "motion_blur": .785948,
           "zoom_blur": .798360, "snow": .866816, "frost": .826572, "fog": .819324,
           "brightness": .564592, "contrast": .853204, "elastic_transform": .646056,
           "pixelate": .717840, "jpeg_compression": .606500}


# ------------------------------------------------------------------------------ draws

def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & MASK, (a >> 32) ^ c[3] ^ k[1], a & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def words(seed, epoch, sample, view, purpose):
    block = 0
    while True:
        yield from philox([block, purpose << 16 | view, sample, epoch], [seed & MASK, seed >> 32])
        block += 1


def permutation(n, **key):
    source, order = words(**key), list(range(n))
    for i in range(n - 1, 0, -1):
        bound = i + 1
        while True:
            product = next(source) * bound
            if (product & MASK) >= (2**32 - bound) % bound:
                break
        j = product >> 32
        order[i], order[j] = order[j], order[i]
    return order


# ------------------------------------------------------------------------------ pictures

def pictures(folder):
    """Paths and labels as torchvision's ImageFolder has them."""
    classes = sorted(os.listdir(folder))
    return [(os.path.join(folder, c, f), label) for label, c in enumerate(classes)
            for f in sorted(os.listdir(os.path.join(folder, c)))]


def read(path, resize, size, kind):
    image = Image.open(path).convert("RGB")
    w, h = image.size
    if resize is not None and min(w, h) != resize:
        image = image.resize((resize, int(resize * h / w)) if w <= h else (int(resize * w / h), resize), kind)
    w, h = image.size
    left, top = round((w - size) / 2), round((h - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def normalise(rgb):
    x = torch.from_numpy(np.stack(rgb)).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([.485, .456, .406]), torch.tensor([.229, .224, .225])
    return (x - mean[:, None, None]) / std[:, None, None]


# ------------------------------------------------------------------------------ network

class Network:
    """A ViT and its linear classifier, from a file of ibot-convert --linear."""

    def __init__(self, path):
        file = torch.load(path, weights_only=True)
        self.w, args = file["state_dict"], file["args"]
        self.heads, self.patch = int(args["num_heads"]), int(args["patch_size"])
        self.size = int(args["global_crop_size"])
        self.n, self.a = int(args["n_last_blocks"]), int(args["avgpool_patchtokens"])
        self.depth = 1 + max(int(k.split(".")[1]) for k in self.w if k.startswith("blocks."))

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.w[name + ".weight"], self.w[name + ".bias"], 1e-6)

    def linear(self, x, name):
        return F.linear(x, self.w[name + ".weight"], self.w[name + ".bias"])

    def tokens(self, x):
        x = F.conv2d(x, self.w["patch_embed.proj.weight"], self.w["patch_embed.proj.bias"], stride=self.patch)
        x = x.flatten(2).transpose(1, 2)
        return torch.cat([self.w["cls_token"].expand(len(x), -1, -1), x], 1) + self.w["pos_embed"]

    def attention(self, x, i):
        b, n, d = x.shape
        qkv = self.linear(x, f"blocks.{i}.attn.qkv").reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (d // self.heads) ** -.5).softmax(-1)
        out = (weights @ v).transpose(1, 2).reshape(b, n, d)
        return self.linear(out, f"blocks.{i}.attn.proj"), weights

    def run(self, x):
        """Logits, and where [CLS] looks in the last block [b, heads, patches]."""
        x, features = self.tokens(x), []
        for i in range(self.depth):
            y, weights = self.attention(self.norm(x, f"blocks.{i}.norm1"), i)
            x = x + y
            y = F.gelu(self.linear(self.norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
            x = x + self.linear(y, f"blocks.{i}.mlp.fc2")
            if self.a != 1 and self.depth - i <= self.n:
                features.append(self.norm(x, "norm")[:, 0])
        if self.a == 1:
            features.append(x[:, 1:].mean(1))
        if self.a == 2:
            features.append(self.norm(x, "norm")[:, 1:].mean(1))
        return self.linear(torch.cat(features, -1), "linear"), weights[:, :, 0, 1:]


# ------------------------------------------------------------------------------ settings

def grid_of(text):
    rows, columns = text.split("x")
    return int(rows), int(columns)


def cells_of(image, rows, columns):
    h, w = image.shape[0] // rows, image.shape[1] // columns
    return [image[r * h:(r + 1) * h, c * w:(c + 1) * w] for r in range(rows) for c in range(columns)]


def from_cells(cells, rows, columns):
    return np.concatenate([np.concatenate(cells[r * columns:(r + 1) * columns], 1) for r in range(rows)], 0)


class Check:
    def __init__(self, args):
        self.args, self.net = args, Network(args.classifier)
        self.resize = self.net.size * 8 // 7
        self.kind = Image.BICUBIC if args.bicubic_resize else Image.BILINEAR

    def logits(self, x):
        return torch.cat([self.net.run(x[i:i + 64])[0] for i in range(0, len(x), 64)])

    def photographs(self, folder):
        files = pictures(folder)
        rgb = [read(path, self.resize, self.net.size, self.kind) for path, _ in files]
        return rgb, torch.tensor([label for _, label in files])

    def top1(self, x, labels):
        return 100 * (self.logits(x).argmax(1) == labels).double().mean().item()

    def occlusion(self, line):
        rgb, labels = self.photographs(line["data"])
        x, size = normalise(rgb), self.net.size
        keep = np.ones((len(rgb), size, size), bool)
        words_of = line["setting"].replace(",", "").split()
        attempt = int(words_of[-1]) - 1 if "try" in words_of else 0
        if words_of[0] == "random":
            rows, columns = grid_of(words_of[3])
            offset = int(words_of[words_of.index("px") - 1]) if "px" in words_of else 0
            count = int(round(float(words_of[1]) * 1000)) * rows * columns // 1000
            for i, mask in enumerate(keep):
                order = permutation(rows * columns, seed=self.args.seed, epoch=attempt, sample=i, view=0, purpose=20)
                cells = np.ones((rows, columns), bool)
                cells.flat[order[:count]] = False
                whole = np.kron(cells, np.ones((size // rows, size // columns), bool)).astype(bool)
                mask[offset:, offset:] = whole[:size - offset, :size - offset]
        else:
            mass = float(words_of[2])
            for i in range(len(rgb)):
                a = self.net.run(x[i:i + 1])[1][0, self.args.saliency_head].double()
                value, place = a.sort()
                chosen = torch.zeros(len(a), dtype=torch.bool)
                chosen[place] = (value / value.sum()).cumsum(0) > 1 - mass
                side = int(len(a) ** .5)
                whole = np.kron(chosen.reshape(side, side).numpy(), np.ones((size // side, size // side), bool)).astype(bool)
                keep[i] = ~whole if words_of[0] == "salient" else whole
        x = x * torch.from_numpy(keep)[:, None]
        return {"top1": self.top1(x, labels), "dropped": 1 - keep.mean()}

    def shuffle(self, line):
        rgb, labels = self.photographs(line["data"])
        words_of = line["setting"].replace(",", "").split()
        attempt = int(words_of[-1]) - 1 if "try" in words_of else 0
        rows, columns = grid_of(words_of[0])
        out = []
        for i, image in enumerate(rgb):
            order = permutation(rows * columns, seed=self.args.seed, epoch=attempt, sample=i, view=rows * 256 + columns, purpose=21)
            cells = cells_of(image, rows, columns)
            out.append(from_cells([cells[j] for j in order], rows, columns))
        return {"top1": self.top1(normalise(out), labels)}

    def in9(self, logits):
        answers = logits.argmax(1)
        if logits.shape[1] == 9:
            return answers
        with open(self.args.in_to_in9) as file:
            table = json.load(file)
        return torch.tensor([table[str(a.item())] for a in answers])

    def as_they_are(self, folder):
        files = pictures(folder)
        return [read(path, None, self.net.size, self.kind) for path, _ in files], torch.tensor([l for _, l in files])

    def backgrounds(self, line):
        if line["setting"] == "gap":
            top1 = {l["setting"]: l["top1"] for l in self.lines if l["test"] == "backgrounds" and "top1" in l}
            return {"mixed_same_less_mixed_rand": top1["mixed_same"] - top1["mixed_rand"]}
        rgb, labels = self.as_they_are(line["data"])
        return {"top1": 100 * (self.in9(self.logits(normalise(rgb))) == labels).double().mean().item()}

    def background_challenge(self, line):
        folder = line["data"]
        classes = sorted(os.listdir(f"{folder}/fg_mask/val"))
        if line["setting"] == "all":
            parts = [l for l in self.lines if l["test"] == "background_challenge" and l["setting"] != "all"]
            v, n = sum(l["vulnerable"] for l in parts), sum(l["images"] for l in parts)
            return {"vulnerable": v, "percent_vulnerable": 100 * v / n}
        backgrounds = np.stack(self.as_they_are(f"{folder}/only_bg_t/val")[0])
        name, vulnerable = line["setting"], 0
        for file in sorted(os.listdir(f"{folder}/fg_mask/val/{name}")):
            mask = np.load(f"{folder}/fg_mask/val/{name}/{file}").astype(bool)[..., None]
            image = np.asarray(Image.open(f"{folder}/original/val/{name}/{file[:-4]}.JPEG").convert("RGB"))
            x = normalise(list(np.where(mask, image, backgrounds)))
            vulnerable += (self.in9(self.logits(x)) != classes.index(name)).any().item()
        return {"vulnerable": vulnerable}

    def imagenet_a(self, line):
        from timm.data import ImageNetInfo  # names of the thousand classes
        synsets = ImageNetInfo().label_names()
        if self.args.imagenet_a_by_number:
            with open(self.args.imagenet_a_by_number) as file:
                chosen = [int(n) for n in file.read().split()]
        else:
            chosen = [synsets.index(c) for c in sorted(os.listdir(line["data"]))]
        files = pictures(line["data"])
        rgb = [read(path, self.resize, self.net.size, Image.BILINEAR) for path, _ in files]
        labels = torch.tensor([label for _, label in files])
        confidence, answer = self.logits(normalise(rgb))[:, chosen].double().softmax(1).max(1)
        right = (answer == labels).numpy()
        c, order = confidence.numpy(), np.argsort(confidence.numpy(), kind="stable")
        edges = [[i * 100, (i + 1) * 100] for i in range(len(c) // 100)]
        edges[-1][1] = len(c)
        squares = [(b - a) / len(c) * (c[order[a:b]].mean() - right[order[a:b]].mean()) ** 2 for a, b in edges]
        curve = np.cumsum(right[order[::-1]]) / np.arange(1, len(c) + 1)
        return {"top1": 100 * right.mean(), "rms_calibration_error": 100 * sum(squares[:-1]) ** .5,
                "rms_calibration_error_of_all": 100 * sum(squares) ** .5, "aurra": 100 * curve.mean()}

    def imagenet_c(self, line):
        name = line["setting"].split()
        top1 = {l["setting"]: l["top1"] for l in self.lines if l["test"] == "imagenet_c" and "top1" in l}
        errors = {}
        for key, value in top1.items():
            errors.setdefault(key.split()[0], []).append(100 - value)
        mean = {key: np.mean(values) for key, values in errors.items()}
        if name[0] == "mean":
            out = {"mce": np.mean([mean[k] / ALEXNET[k] for k in ALEXNET])}
            return dict(out, mean_error_of_19=np.mean(list(mean.values()))) if len(mean) == 19 else out
        if len(name) == 1:
            out = {"error": mean[name[0]]}
            return dict(out, error_of_alexnets=mean[name[0]] / ALEXNET[name[0]]) if name[0] in ALEXNET else out
        rgb, labels = self.as_they_are(line["data"])
        return {"top1": self.top1(normalise(rgb), labels)}

    def all(self):
        with open(self.args.results) as file:
            self.lines = [line for line in map(json.loads, file) if "test" in line]
        wrong, values = 0, 0
        for line in self.lines:
            for key, want in getattr(self, line["test"])(line).items():
                values += 1
                got = line[key]
                if not (got is not None and abs(got - want) <= 1e-4 * max(1, abs(want))):
                    wrong += 1
                    print(f"{line['test']}, {line['setting']}: {key} is {got}, wanted {want}")
        print(f"{len(self.lines)} results, {values} values, {wrong} differ")
        return 1 if wrong or not values else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier")
    parser.add_argument("results")
    parser.add_argument("--saliency_head", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bicubic_resize", action="store_true")
    parser.add_argument("--in_to_in9", help="the benchmark's table, JSON; for classifiers of 1000 classes")
    parser.add_argument("--imagenet_a_by_number", help="numbers of the 200 classes, where folders have other names")
    torch.set_grad_enabled(False)
    return Check(parser.parse_args()).all()


if __name__ == "__main__":
    sys.exit(main())
