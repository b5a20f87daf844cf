#!/usr/bin/env python3
"""iBOT in plain PyTorch on the batches that ibot-train recorded: the other side of learn_cifar10.sh.

The official formulation, written down straightforwardly: two student passes, a teacher pass, the
head on every token, both losses with centres, gradients clipped tensor by tensor with .item(),
AdamW with two groups, the teacher average as a loop over parameters; fp16 with a scaler on a GPU,
float32 on the CPU. Options, schedules and initial weights are those of the run that was recorded
(run.yaml, and its step 0 as ibot-convert --to official writes it); so are crops, masks and their
order. Only stochastic depth draws its own numbers.

  learn_cifar10_torch.py --recording DIR --start start.pth --run run.yaml --output_dir DIR

Writes epoch_NNNN.pth (the teacher, for ibot-eval) every few epochs and last.pth (all of it); the
same command goes on from there. SIGTERM ends it after the epoch under way, with status 75.
"""
import argparse
import json
import math
import os
import re
import signal
import struct
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

# ------------------------------------------------------------------------------ run file


def scalar(text):
    text = text.strip().strip("'\"")
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def read_run(path):
    """A run.yaml: one `key: value` or `key: [a, b]` in each line."""
    run = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            found = re.match(r"(\w+):\s*(.*?)\s*(#.*)?$", line)
            if found:
                key, text = found[1], found[2]
                run[key] = ([scalar(t) for t in text[1:-1].split(",")] if text.startswith("[")
                            else scalar(text))
    return run


# ------------------------------------------------------------------------------ recording


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """(number, value) of a protobuf message: whole numbers, and bytes as views."""
    data, at = memoryview(data), 0
    while at < len(data):
        tag, at = varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 2:
            n, at = varint(data, at)
            value, at = data[at:at + n], at + n
        else:
            n = 8 if kind == 1 else 4
            value, at = int.from_bytes(data[at:at + n], "little"), at + n
        yield tag >> 3, value


class Recording:
    """The batches of a recording from a step on: files in order, each until the next begins."""

    HEAD, PAYLOAD, FIRST_STEP, PER_EPOCH, BATCH = 11, 15, 9, 8, 6

    def __init__(self, folder, run):
        names = sorted(n for n in os.listdir(folder) if n.endswith(".tfrecord"))
        if not names or any(not n.startswith("rank00000-") for n in names):
            sys.exit(f"'{folder}': wanted the recording of one rank")
        self.files = [os.path.join(folder, n) for n in names]
        heads = [dict(fields(dict(fields(next(self.records(f))))[self.HEAD])) for f in self.files]
        self.first = [head.get(self.FIRST_STEP, 0) for head in heads]
        self.per_epoch, self.batch = heads[0][self.PER_EPOCH], heads[0][self.BATCH]
        self.g, self.n_local = run["global_crops_number"], run["local_crops_number"]
        self.large, self.small = run["global_crop_size"], run["local_crop_size"]
        self.grid = self.large // run["patch_size"]
        self.mask_bytes = (self.grid**2 + 7) // 8
        self.image_bytes = (self.g * self.large**2 * 3 + self.n_local * self.small**2 * 3
                            + self.g * self.mask_bytes)

    @staticmethod
    def records(path):
        with open(path, "rb") as file:
            while len(head := file.read(12)) == 12:
                (length,) = struct.unpack_from("<Q", head)
                data = file.read(length)
                if len(data) < length or len(file.read(4)) < 4:
                    return  # its writer was interrupted
                yield data

    def payloads(self, step):
        """Bytes of one batch after the other, from a step on."""
        for i, path in enumerate(self.files):
            at, end = self.first[i], self.first[i + 1] if i + 1 < len(self.files) else 1 << 62
            if end <= step:
                continue
            batch = bytearray()
            for data in self.records(path):
                if at >= end:
                    break
                batch += dict(fields(data)).get(self.PAYLOAD, b"")
                if len(batch) == self.batch * self.image_bytes:
                    if at >= step:
                        yield batch
                    batch, at = bytearray(), at + 1

    def batches(self, step, device):
        mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)
        bits = torch.arange(8, device=device, dtype=torch.uint8)
        for payload in self.payloads(step):
            rows = torch.frombuffer(payload, dtype=torch.uint8).view(self.batch, -1).to(device)

            def crops(first, n, side):
                part = rows[:, first:first + n * side * side * 3]
                views = part.reshape(self.batch, n, side, side, 3).permute(1, 0, 4, 2, 3)
                return (views.reshape(-1, 3, side, side).float() / 255 - mean) / std

            at = self.g * self.large**2 * 3
            globals_ = crops(0, self.g, self.large)
            locals_ = crops(at, self.n_local, self.small) if self.n_local else None
            at += self.n_local * self.small**2 * 3
            masks = rows[:, at:].reshape(self.batch, self.g, self.mask_bytes, 1) >> bits & 1
            masks = masks.flatten(2)[:, :, :self.grid**2].transpose(0, 1).bool()
            yield globals_, locals_, masks.reshape(-1, self.grid, self.grid)


# ------------------------------------------------------------------------------ network


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    def __init__(self, dim, heads, rate):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})
        self.rate = rate

    def keep(self, x):
        if self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x / keep * torch.floor(keep + torch.rand(x.shape[0], 1, 1, device=x.device))

    def forward(self, x):
        x = x + self.keep(self.attn(self.norm1(x)))
        return x + self.keep(self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))))


class PatchEmbed(nn.Module):
    def __init__(self, dim, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)


class Backbone(nn.Module):
    def __init__(self, dim, depth, heads, patch, grid, drop_path, student):
        super().__init__()
        self.grid = grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, dim))
        if student:
            self.masked_embed = nn.Parameter(torch.zeros(1, dim))
        self.patch_embed = PatchEmbed(dim, patch)
        rates = torch.linspace(0, drop_path if student else 0.0, depth).tolist()
        self.blocks = nn.ModuleList(Block(dim, heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def position(self, g):
        if g == self.grid:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=(g + 0.1) / self.grid, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, images, mask=None):
        x = self.patch_embed.proj(images)
        g = x.shape[-1]
        if mask is not None:
            x = torch.where(mask[:, None], self.masked_embed.to(x.dtype)[..., None, None], x)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.position(g)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class LastLayer(nn.Module):
    """Weight norm by hand: rows of weight_v of length 1, times weight_g."""

    def __init__(self, dim, out_dim):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1))
        self.weight_v = nn.Parameter(torch.zeros(out_dim, dim))

    def forward(self, x):
        return F.linear(x, self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True)))


class Head(nn.Module):
    def __init__(self, dim, hidden, bottleneck, out_dim):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden),
                                 nn.GELU(), nn.Linear(hidden, bottleneck))
        self.last_layer = LastLayer(bottleneck, out_dim)

    def forward(self, x):
        logits = self.last_layer(F.normalize(self.mlp(x), dim=-1))
        return logits[:, 0], logits[:, 1:]


class Network(nn.Module):
    def __init__(self, run, state, student):
        super().__init__()
        dim = state["backbone.cls_token"].shape[-1]
        depth = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("backbone.blocks."))
        heads = run["num_heads"] or {"vit_test": 3, "vit_tiny": 3, "vit_small": 6,
                                     "vit_base": 12, "vit_large": 16}[run["arch"]]
        self.backbone = Backbone(dim, depth, heads, run["patch_size"],
                                 run["global_crop_size"] // run["patch_size"], run["drop_path"],
                                 student)
        self.head = Head(dim, run["head_hidden_dim"], run["bottleneck_dim"], run["out_dim"])
        wanted = self.state_dict()
        self.load_state_dict({k: v.reshape(wanted[k].shape) for k, v in state.items()
                              if k in wanted})
        missing = [k for k in wanted if k not in state]
        if missing:
            sys.exit(f"the weights to start from lack {missing}")
        if student and run["norm_last_layer"]:
            self.head.last_layer.weight_g.requires_grad = False

    def forward(self, images, mask=None):
        return self.head(self.backbone(images, mask))


# ------------------------------------------------------------------------------ training


class Loss:
    def __init__(self, run, device):
        self.run, self.n_global = run, run["global_crops_number"]
        self.centre = torch.zeros(1, run["out_dim"], device=device)
        self.centre2 = torch.zeros(1, 1, run["out_dim"], device=device)

    def __call__(self, student, teacher, mask, temp, temp2):
        """student, teacher: ([CLS], patches) logits; the centres move afterwards."""
        run, g = self.run, self.n_global
        views = student[0].shape[0] * g // teacher[0].shape[0]
        students = (student[0] / run["student_temp"]).chunk(views)
        patches = (student[1] / run["student_temp"]).chunk(g)
        targets = F.softmax((teacher[0] - self.centre) / temp, dim=-1).chunk(g)
        targets2 = F.softmax((teacher[1] - self.centre2) / temp2, dim=-1).chunk(g)
        masks = mask.flatten(1).chunk(g)
        cls = patch = 0.0
        terms = 0
        for q in range(g):
            for v in range(views):
                if v == q:
                    loss = torch.sum(-targets2[q] * F.log_softmax(patches[v], dim=-1), dim=-1)
                    m = masks[v].float()
                    patch = patch + (torch.sum(loss * m, dim=-1) / m.sum(-1).clamp(min=1.0)).mean()
                else:
                    loss = torch.sum(-targets[q] * F.log_softmax(students[v], dim=-1), dim=-1)
                    cls = cls + loss.mean()
                    terms += 1
        with torch.no_grad():
            m, m2 = run["center_momentum"], run["center_momentum2"]
            mean = teacher[0].float().mean(0, keepdim=True)
            mean2 = teacher[1].float().mean(1).mean(0).view(1, 1, -1)
            self.centre.mul_(m).add_(mean, alpha=1 - m)
            self.centre2.mul_(m2).add_(mean2, alpha=1 - m2)
        return run["lambda1"] * cls / terms, run["lambda2"] * patch / g


def cosine(base, final, warm, n, step):
    if step < warm:
        return base * step / (warm - 1) if warm > 1 else 0.0
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * (step - warm) / (n - warm)))


def ramp(first, last, n, i):
    return last if i >= n else first + (last - first) * (i / (n - 1) if n > 1 else 0.0)


class Training:
    def __init__(self, args, run, recording):
        self.run, self.device, self.per_epoch = run, args.device, recording.per_epoch
        start = torch.load(args.start, map_location="cpu", weights_only=False)
        states = [{k.removeprefix("module."): v for k, v in start[key].items()}
                  for key in ("student", "teacher")]
        self.student = Network(run, states[0], True).to(args.device)
        self.teacher = Network(run, states[1], False).to(args.device)
        for parameter in self.teacher.parameters():
            parameter.requires_grad = False
        self.loss = Loss(run, args.device)
        trained = [(n, p) for n, p in self.student.named_parameters() if p.requires_grad]
        decay = [p for n, p in trained if p.ndim > 1 and not n.endswith(".bias")]
        plain = [p for n, p in trained if p.ndim == 1 or n.endswith(".bias")]
        self.optimizer = torch.optim.AdamW([{"params": decay},
                                            {"params": plain, "weight_decay": 0.0}])
        self.half = args.device == "cuda"
        self.scaler = torch.amp.GradScaler(args.device, enabled=self.half)
        self.lr = run["lr"] * recording.batch * run["accumulation_steps"] / 256
        self.n_steps = recording.per_epoch * run["epochs"]
        self.epoch = 0

    def state(self):
        return {"student": self.student.state_dict(), "teacher": self.teacher.state_dict(),
                "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
                "centres": [self.loss.centre, self.loss.centre2], "epoch": self.epoch}

    def load(self, state):
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.loss.centre, self.loss.centre2 = (c.to(self.device) for c in state["centres"])
        self.epoch = state["epoch"]

    def step(self, step, globals_, locals_, mask):
        run, epoch = self.run, step // self.per_epoch
        for i, group in enumerate(self.optimizer.param_groups):
            group["lr"] = cosine(self.lr, run["min_lr"], run["warmup_epochs"] * self.per_epoch,
                                 self.n_steps, step)
            if i == 0:
                group["weight_decay"] = cosine(run["weight_decay"], run["weight_decay_end"], 0,
                                               self.n_steps, step)
        momentum = cosine(run["momentum_teacher"], 1.0, 0, self.n_steps, step)
        warm = run["warmup_teacher_temp_epochs"]
        temp = ramp(run["warmup_teacher_temp"], run["teacher_temp"], warm, epoch)
        temp2 = ramp(run["warmup_teacher_patch_temp"], run["teacher_patch_temp"], warm, epoch)
        with torch.autocast(self.device, torch.float16, enabled=self.half):
            with torch.no_grad():
                teacher = self.teacher(globals_)
            cls, patch = self.student(globals_, mask)
            if locals_ is not None:
                cls = torch.cat([cls, self.student(locals_)[0]])
            parts = self.loss((cls, patch), teacher, mask, temp, temp2)
        loss = parts[0] + parts[1]
        if not math.isfinite(loss.item()):
            sys.exit(f"step {step}: the loss is {loss.item()}")
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        for name, parameter in self.student.named_parameters():
            if parameter.grad is None:
                continue
            if run["clip_grad"] > 0:
                coefficient = run["clip_grad"] / (parameter.grad.norm(2).item() + 1e-6)
                if coefficient < 1:
                    parameter.grad.mul_(coefficient)
            if epoch < run["freeze_last_layer"] and "last_layer" in name:
                parameter.grad = None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            student = dict(self.student.named_parameters())
            for name, parameter in self.teacher.named_parameters():
                parameter.mul_(momentum).add_(student[name].detach(), alpha=1 - momentum)
        return [loss.item(), parts[0].item(), parts[1].item()]


def save(state, path):
    torch.save(state, path + ".tmp")
    os.replace(path + ".tmp", path)


def check(run, recording):
    """What of ibot-train this script does not know."""
    plain = {"shared_head": True, "shared_head_teacher": True, "use_masked_im_modeling": True,
             "norm_in_head": "none", "act_in_head": "gelu", "optimizer": "adamw",
             "clip_mode": "per_tensor", "accumulation_steps": 1, "pred_start_epoch": 0}
    for key, value in plain.items():
        if run[key] != value:
            sys.exit(f"{key}: {run[key]} in the run, this script knows {value} alone")
    if recording.batch != run["batch_size_per_gpu"]:
        sys.exit(f"batches of {recording.batch} were recorded, the run has "
                 f"{run['batch_size_per_gpu']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recording", required=True, metavar="DIR")
    parser.add_argument("--start", required=True, metavar="FILE")
    parser.add_argument("--run", required=True, metavar="FILE")
    parser.add_argument("--output_dir", required=True, metavar="DIR")
    parser.add_argument("--every", type=int, default=1, help="epochs between two epoch_NNNN.pth")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))

    torch.manual_seed(0)
    run = read_run(args.run)
    recording = Recording(args.recording, run)
    check(run, recording)
    training = Training(args, run, recording)
    last = os.path.join(args.output_dir, "last.pth")
    if os.path.exists(last):
        training.load(torch.load(last, map_location=args.device, weights_only=False))
    batches = recording.batches(training.epoch * recording.per_epoch, args.device)
    for training.epoch in range(training.epoch + 1, run["epochs"] + 1):
        first, begin, sums = (training.epoch - 1) * recording.per_epoch, time.time(), [0.0] * 3
        for step in range(first, first + recording.per_epoch):
            batch = next(batches, None)
            if batch is None:
                sys.exit(f"the recording ends before step {step}")
            sums = [a + b for a, b in zip(sums, training.step(step, *batch))]
        means = [s / recording.per_epoch for s in sums]
        line = dict(zip(("train_loss", "train_cls", "train_patch"), means), epoch=training.epoch - 1,
                    images_per_second=recording.per_epoch * recording.batch / (time.time() - begin))
        with open(os.path.join(args.output_dir, "log.txt"), "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), file=sys.stderr, flush=True)
        if training.epoch % args.every == 0 or training.epoch == run["epochs"]:
            save({"teacher": training.teacher.state_dict()},
                 os.path.join(args.output_dir, f"epoch_{training.epoch:04d}.pth"))
        if stop or training.epoch % args.every == 0 or training.epoch == run["epochs"]:
            save(training.state(), last)
        if stop and training.epoch < run["epochs"]:
            sys.exit(75)


if __name__ == "__main__":
    main()
