#!/usr/bin/env python3
"""One iBOT training step in plain PyTorch, for comparison with step_bench.

The official formulation, written down straightforwardly: two student passes (masked global crops,
local crops), a teacher pass over the global crops, the head on every token, both losses with
centres, gradient clipping per tensor with .item(), AdamW with two groups, the teacher average as a
loop over parameters. CPU float32 by default. Random data, so that only the step is timed.

  python3 scripts/bench_torch_step.py --arch vit_small --batch_size_per_gpu 8 --threads 2 --json
"""
import argparse
import json
import resource
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

ARCHITECTURES = {  # width, depth, heads; of a Swin by stage
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "swin_tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attention = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    def __init__(self, dim, heads, rate):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.rate = rate

    def keep(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = torch.floor(keep + torch.rand(x.shape[0], 1, 1, dtype=x.dtype, device=x.device))
        return x / keep * mask

    def forward(self, x):
        x = x + self.keep(self.attn(self.norm1(x)))
        return x + self.keep(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class WindowAttention(nn.Module):
    """Over windows [n, w*w, d], with relative position bias; mask [windows of an image, w*w, w*w]."""

    def __init__(self, dim, heads, window):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(
            torch.randn((2 * window - 1) ** 2, heads) * 0.02)
        places = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window),
                                            indexing="ij")).flatten(1)
        distance = places[:, :, None] - places[:, None, :] + window - 1
        self.register_buffer("index", distance[0] * (2 * window - 1) + distance[1])

    def forward(self, x, mask):
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        scores = q @ k.transpose(-2, -1)
        scores = scores + self.relative_position_bias_table[self.index].permute(2, 0, 1)[None]
        if mask is not None:
            scores = scores.view(-1, mask.shape[0], self.heads, n, n) + mask[None, :, None]
            scores = scores.view(-1, self.heads, n, n)
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, d))


class SwinBlock(Block):
    def __init__(self, dim, heads, rate, window, shift):
        super().__init__(dim, heads, rate)
        self.window, self.shift = window, shift
        self.attn = WindowAttention(dim, heads, window)

    def cut(self, x):  # [b, h, h, d] -> [b * windows, w*w, d]
        b, h, _, d = x.shape
        w = self.window
        return x.view(b, h // w, w, h // w, w, d).transpose(2, 3).reshape(-1, w * w, d)

    def mask(self, h, x):
        parts = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        regions = torch.zeros(1, h, h, 1, device=x.device)
        for i, rows in enumerate(parts):
            for j, columns in enumerate(parts):
                regions[:, rows, columns] = 3 * i + j
        cut = self.cut(regions).squeeze(-1)
        return (cut[:, None] != cut[:, :, None]).float() * -100.0

    def attend(self, x):  # [b, n, d]
        b, n, d = x.shape
        h, w = int(n**0.5), self.window
        more = -h % w
        y = F.pad(x.view(b, h, h, d), (0, 0, 0, more, 0, more))
        if self.shift > 0:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        p = h + more
        y = self.attn(self.cut(y), self.mask(p, x) if self.shift > 0 else None)
        y = y.view(b, p // w, p // w, w, w, d).transpose(2, 3).reshape(b, p, p, d)
        if self.shift > 0:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        return y[:, :h, :h].reshape(b, n, d)

    def forward(self, x):
        x = x + self.keep(self.attend(self.norm1(x)))
        return x + self.keep(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class Merge(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=1e-6)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):
        b, n, d = x.shape
        h = int(n**0.5)
        x = F.pad(x.view(b, h, h, d), (0, 0, 0, h % 2, 0, h % 2))
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=-1)
        return self.reduction(self.norm(x.flatten(1, 2)))


def projection(dim, out_dim):
    mlp = nn.Sequential(nn.Linear(dim, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(),
                        nn.Linear(2048, 256))
    return mlp, nn.utils.weight_norm(nn.Linear(256, out_dim, bias=False))


class Swin(nn.Module):
    """Backbone and head."""

    def __init__(self, dim, depths, heads, window, out_dim, drop_path):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 4, stride=4)
        self.patch_norm = nn.LayerNorm(dim, eps=1e-6)
        self.masked_embed = nn.Parameter(torch.zeros(1, dim))
        rates = iter(torch.linspace(0, drop_path, sum(depths)).tolist())
        layers, side = [], 56
        for s, (depth, n_heads) in enumerate(zip(depths, heads)):
            w = min(window, side)
            layers += [SwinBlock(dim, n_heads, next(rates), w,
                                 w // 2 if i % 2 == 1 and side > window else 0)
                       for i in range(depth)]
            if s + 1 < len(depths):
                layers.append(Merge(dim))
                dim, side = 2 * dim, side // 2
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp, self.last_layer = projection(dim, out_dim)

    def forward(self, images, mask=None):
        x = self.patch_embed(images).permute(0, 2, 3, 1)
        x = self.patch_norm(x)
        if mask is not None:
            wide = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)
            x = torch.where(wide[..., None], self.masked_embed.to(x.dtype), x)
        x = self.norm(self.layers(x.flatten(1, 2)))
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1)
        logits = self.last_layer(F.normalize(self.mlp(x), dim=-1))
        return logits[:, 0], logits[:, 1:]


class Network(nn.Module):
    """Backbone and head."""

    def __init__(self, dim, depth, heads, patch, out_dim, drop_path):
        super().__init__()
        self.patch, self.grid = patch, 224 // patch
        self.patch_embed = nn.Conv2d(3, dim, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + self.grid**2, dim) * 0.02)
        self.masked_embed = nn.Parameter(torch.zeros(1, dim))
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.ModuleList(Block(dim, heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp, self.last_layer = projection(dim, out_dim)

    def position(self, g):
        if g == self.grid:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=(g + 0.1) / self.grid, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, images, mask=None):
        x = self.patch_embed(images)
        g = x.shape[-1]
        if mask is not None:
            x.permute(0, 2, 3, 1)[mask, :] = self.masked_embed.to(x.dtype)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.position(g)
        for block in self.blocks:
            x = block(x)
        logits = self.last_layer(F.normalize(self.mlp(self.norm(x)), dim=-1))
        return logits[:, 0], logits[:, 1:]


def loss_of(student_cls, student_patch, teacher_cls, teacher_patch, centre, centre2, mask, n_global):
    """Cross-view loss on [CLS], same-view loss on masked patches; moves the centres."""
    students, patches = (student_cls / 0.1).chunk(student_cls.shape[0] // (teacher_cls.shape[0] // n_global)), \
        (student_patch / 0.1).chunk(n_global)
    targets = F.softmax((teacher_cls - centre) / 0.04, dim=-1).detach().chunk(n_global)
    targets2 = F.softmax((teacher_patch - centre2) / 0.04, dim=-1).detach().chunk(n_global)
    masks = mask.flatten(1).chunk(n_global)
    cls, patch, terms = 0.0, 0.0, 0
    for q in range(n_global):
        for v, student in enumerate(students):
            if v == q:
                loss = torch.sum(-targets2[q] * F.log_softmax(patches[v], dim=-1), dim=-1)
                m = masks[v].float()
                patch = patch + (torch.sum(loss * m, dim=-1) / m.sum(dim=-1).clamp(min=1.0)).mean()
            else:
                cls = cls + torch.sum(-targets[q] * F.log_softmax(student, dim=-1), dim=-1).mean()
                terms += 1
    with torch.no_grad():
        centre.mul_(0.9).add_(teacher_cls.mean(0, keepdim=True), alpha=0.1)
        centre2.mul_(0.9).add_(teacher_patch.mean(1).mean(0, keepdim=True), alpha=0.1)
    return cls / terms + patch / n_global


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", default="vit_small", choices=ARCHITECTURES)
    parser.add_argument("--patch_size", type=int, default=16)
    parser.add_argument("--window_size", type=int, default=7)
    parser.add_argument("--out_dim", type=int, default=8192)
    parser.add_argument("--batch_size_per_gpu", type=int, default=8)
    parser.add_argument("--local_crops_number", type=int, default=10)
    parser.add_argument("--drop_path", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    dim, depth, heads = ARCHITECTURES[args.arch]
    swin = args.arch.startswith("swin")
    student, teacher = (
        (Swin if swin else Network)(dim, depth, heads,
                                    args.window_size if swin else args.patch_size, args.out_dim, rate)
        for rate in (args.drop_path, 0.0))
    teacher.load_state_dict(student.state_dict())
    for parameter in teacher.parameters():
        parameter.requires_grad = False
    decay = [p for n, p in student.named_parameters() if p.ndim > 1 and not n.endswith("bias")]
    plain = [p for n, p in student.named_parameters() if p.ndim == 1 or n.endswith("bias")]
    optimizer = torch.optim.AdamW([{"params": decay}, {"params": plain, "weight_decay": 0.0}],
                                  lr=1e-4, weight_decay=0.04)

    b, n_global = args.batch_size_per_gpu, 2
    side = 7 if swin else 224 // args.patch_size
    globals_ = torch.randn(n_global * b, 3, 224, 224)
    locals_ = torch.randn(args.local_crops_number * b, 3, 96, 96)
    # the published mixture: half of the crops unmasked, the others about 0.3
    ratio = torch.where(torch.rand(n_global * b) < 0.5, torch.zeros(n_global * b),
                        torch.empty(n_global * b).uniform_(0.1, 0.5))
    order = torch.rand(n_global * b, side * side).argsort(dim=1).argsort(dim=1)
    mask = (order < (ratio * side * side).long()[:, None]).reshape(-1, side, side)
    centre, centre2 = torch.zeros(1, args.out_dim), torch.zeros(1, 1, args.out_dim)

    times = []
    for step in range(args.warmup + args.steps):
        start = time.perf_counter()
        with torch.no_grad():
            teacher_cls, teacher_patch = teacher(globals_)
        student_cls, student_patch = student(globals_, mask)
        if args.local_crops_number > 0:
            student_cls = torch.cat([student_cls, student(locals_)[0]])
        loss = loss_of(student_cls, student_patch, teacher_cls, teacher_patch, centre, centre2, mask,
                       n_global)
        optimizer.zero_grad()
        loss.backward()
        for parameter in student.parameters():
            if parameter.grad is not None:
                norm = parameter.grad.norm(2)
                coefficient = 3.0 / (norm.item() + 1e-6)
                if coefficient < 1:
                    parameter.grad.mul_(coefficient)
        optimizer.step()
        with torch.no_grad():
            for q, k in zip(student.parameters(), teacher.parameters()):
                k.mul_(0.996).add_(q, alpha=0.004)
        if step >= args.warmup:
            times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    result = {
        "what": "torch_step", "torch": torch.__version__, "arch": args.arch, "threads": args.threads,
        "batch_size_per_gpu": b, "seconds_per_step": seconds, "images_per_second": b / seconds,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
