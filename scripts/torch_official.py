"""iBOT's training step in plain PyTorch, in the formulation of the original: what other
implementations are compared with in speed and memory.

Written down as the original does it, costs included: two passes of the student (masked global
crops, then local crops), each joining its crops first; the head on every token of both, its
weight-normalised layer once for [CLS] and once for patches; attention with its scores in memory;
masks put in through boolean indices; both losses with their loops over pairs of views; gradients
clipped tensor by tensor, with .item(); AdamW with two groups, as torch.optim.AdamW comes; the
teacher average as a loop over parameters; a loss that is read on the host, and a synchronisation,
in every step. float16 by autocast with a GradScaler, or bfloat16, or float32.

Left out, which is to its advantage: DistributedDataParallel around the student, the collectives
of its single rank, and its console.

Parameters have the original's names, so that its state dicts can be loaded.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

ARCHITECTURES = {  # width, depth, heads; of a Swin by stage
    "vit_test": (96, 3, 3),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "swin_tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}


@dataclass
class Options:
    """Of network and step. A Swin has tuples for depth and heads."""
    width: int
    depth: object
    heads: object
    patch_size: int = 16
    window_size: int = 7
    image_size: int = 224  # that the grid of positions is stored for
    drop_path: float = 0.1
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    out_dim: int = 8192
    n_global: int = 2
    n_local: int = 10
    student_temp: float = 0.1
    teacher_temp: float = 0.04
    teacher_patch_temp: float = 0.04
    centre_momentum: float = 0.9
    clip_grad: float = 3.0
    lambda1: float = 1.0
    lambda2: float = 1.0
    lr: float = 1e-4
    weight_decay: float = 0.04
    teacher_momentum: float = 0.996
    freeze_last_layer: bool = False

    @property
    def swin(self):
        return isinstance(self.depth, tuple)

    @property
    def cell(self):
        """Side of a mask cell in pixels: that of a token of the features."""
        return self.patch_size * 2 ** (len(self.depth) - 1) if self.swin else self.patch_size


# ------------------------------------------------------------------------------ blocks


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = (q @ k.transpose(-2, -1)) * self.scale
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """`given`: an iterator over keep vectors (0 or 1 of each sample) in place of random ones."""
    given = None

    def __init__(self, width, heads, rate):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.rate = rate

    def keep(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        keep, shape = 1.0 - self.rate, (x.shape[0],) + (1,) * (x.ndim - 1)
        if self.given is not None:
            mask = next(self.given).to(x).view(shape)
        else:
            mask = torch.floor(keep + torch.rand(shape, dtype=x.dtype, device=x.device))
        return x.div(keep) * mask

    def forward(self, x):
        x = x + self.keep(self.attn(self.norm1(x)))
        return x + self.keep(self.mlp(self.norm2(x)))


class WindowAttention(nn.Module):
    """Over windows [n, w*w, d], with relative position bias; mask [windows of an image, w*w, w*w]."""

    def __init__(self, width, heads, window):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(
            torch.randn((2 * window - 1) ** 2, heads) * 0.02)
        places = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window),
                                            indexing="ij")).flatten(1)
        distance = places[:, :, None] - places[:, None, :] + window - 1
        self.register_buffer("index", distance[0] * (2 * window - 1) + distance[1],
                             persistent=False)

    def bias(self):
        n = self.index.shape[0]
        return self.relative_position_bias_table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)

    def forward(self, x, mask):
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        scores = q @ k.transpose(-2, -1) + self.bias()[None]
        if mask is not None:
            scores = scores.view(-1, mask.shape[0], self.heads, n, n) + mask[None, :, None]
            scores = scores.view(-1, self.heads, n, n)
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, d))


class SwinBlock(Block):
    def __init__(self, width, heads, rate, window, shift):
        super().__init__(width, heads, rate)
        self.window, self.shift = window, shift
        self.attn = WindowAttention(width, heads, window)

    def cut(self, x):  # [b, h, h, d] -> [b * windows, w*w, d]
        b, h, _, d = x.shape
        w = self.window
        return x.view(b, h // w, w, h // w, w, d).transpose(2, 3).reshape(-1, w * w, d)

    def mask(self, h, device):
        parts = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        regions = torch.zeros(1, h, h, 1, device=device)
        for i, rows in enumerate(parts):
            for j, columns in enumerate(parts):
                regions[:, rows, columns] = 3 * i + j
        cut = self.cut(regions).squeeze(-1)
        return (cut[:, None] != cut[:, :, None]).float() * -100.0

    def attend(self, x):  # [b, n, d]
        b, n, d = x.shape
        h, w = math.isqrt(n), self.window
        more = -h % w
        y = F.pad(x.view(b, h, h, d), (0, 0, 0, more, 0, more))
        if self.shift > 0:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        p = h + more
        y = self.attn(self.cut(y), self.mask(p, x.device) if self.shift > 0 else None)
        y = y.view(b, p // w, p // w, w, w, d).transpose(2, 3).reshape(b, p, p, d)
        if self.shift > 0:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        return y[:, :h, :h].reshape(b, n, d)

    def forward(self, x):
        x = x + self.keep(self.attend(self.norm1(x)))
        return x + self.keep(self.mlp(self.norm2(x)))


class Merge(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, eps=1e-6)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x):
        b, n, d = x.shape
        h = math.isqrt(n)
        x = F.pad(x.view(b, h, h, d), (0, 0, 0, h % 2, 0, h % 2))
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=-1)
        return self.reduction(self.norm(x.flatten(1, 2)))


# ------------------------------------------------------------------------------ backbones


class PatchEmbed(nn.Module):
    def __init__(self, width, patch, norm):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)
        self.norm = nn.LayerNorm(width, eps=1e-6) if norm else None


class Vit(nn.Module):
    def __init__(self, o, student):
        super().__init__()
        self.grid = o.image_size // o.patch_size
        self.patch_embed = PatchEmbed(o.width, o.patch_size, False)
        self.cls_token = nn.Parameter(torch.randn(1, 1, o.width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + self.grid**2, o.width) * 0.02)
        if student:
            self.masked_embed = nn.Parameter(torch.zeros(1, o.width))
        rates = torch.linspace(0, o.drop_path if student else 0.0, o.depth).tolist()
        self.blocks = nn.ModuleList(Block(o.width, o.heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(o.width, eps=1e-6)

    def position(self, g):
        if g == self.grid:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=((g + 0.1) / self.grid,) * 2, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)

    def forward(self, images, mask=None):
        x = self.patch_embed.proj(images)
        g = x.shape[-1]
        if mask is not None:
            x.permute(0, 2, 3, 1)[mask, :] = self.masked_embed.to(x.dtype)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.position(g)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Stage(nn.Module):
    def __init__(self, blocks, downsample):
        super().__init__()
        self.blocks, self.downsample = nn.ModuleList(blocks), downsample

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Swin(nn.Module):
    def __init__(self, o, student):
        super().__init__()
        width, side = o.width, o.image_size // o.patch_size
        self.patch_embed = PatchEmbed(width, o.patch_size, True)
        if student:
            self.masked_embed = nn.Parameter(torch.zeros(1, width))
        rates = iter(torch.linspace(0, o.drop_path if student else 0.0, sum(o.depth)).tolist())
        self.layers = nn.ModuleList()
        for s, (depth, heads) in enumerate(zip(o.depth, o.heads)):
            last, w = s + 1 == len(o.depth), min(o.window_size, side)
            blocks = [SwinBlock(width, heads, next(rates), w,
                                w // 2 if i % 2 == 1 and side > o.window_size else 0)
                      for i in range(depth)]
            self.layers.append(Stage(blocks, None if last else Merge(width)))
            if not last:
                width, side = 2 * width, (side + 1) // 2
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images, mask=None):
        x = self.patch_embed.proj(images)
        x = self.patch_embed.norm(x.permute(0, 2, 3, 1))
        if mask is not None:
            times = x.shape[1] // mask.shape[1]
            wide = mask.repeat_interleave(times, 1).repeat_interleave(times, 2)
            x[wide, :] = self.masked_embed.to(x.dtype)
        x = x.flatten(1, 2)
        for stage in self.layers:
            x = stage(x)
        x = self.norm(x)
        return torch.cat([x.mean(1, keepdim=True), x], dim=1)


class WeightNorm(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(n_out, 1))
        self.weight_v = nn.Parameter(torch.empty(n_out, n_in).uniform_(-n_in**-0.5, n_in**-0.5))

    def weight(self):
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    def forward(self, x):
        return F.linear(x, self.weight())


class Head(nn.Module):
    """One last layer for [CLS] and patches."""

    def __init__(self, width, o):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, o.hidden_dim), nn.GELU(),
                                 nn.Linear(o.hidden_dim, o.hidden_dim), nn.GELU(),
                                 nn.Linear(o.hidden_dim, o.bottleneck_dim))
        self.last_layer = WeightNorm(o.bottleneck_dim, o.out_dim)

    def forward(self, x):
        x = F.normalize(self.mlp(x), dim=-1, p=2)
        return self.last_layer(x[:, 0]), self.last_layer(x[:, 1:])


class Network(nn.Module):
    def __init__(self, o, student):
        super().__init__()
        self.backbone = (Swin if o.swin else Vit)(o, student)
        self.head = Head(self.backbone.norm.weight.shape[0], o)

    def forward(self, crops, masks=None):
        """Crops of one size."""
        return self.head(self.backbone(torch.cat(crops), None if masks is None else torch.cat(masks)))


def make_pair(o, device):
    """Student and teacher with the student's weights."""
    student, teacher = Network(o, True), Network(o, False)
    teacher.load_state_dict(student.state_dict(), strict=False)
    for parameter in teacher.parameters():
        parameter.requires_grad = False
    return student.to(device), teacher.to(device)


def decay_groups(student, weight_decay):
    decay, plain = [], []
    for name, parameter in student.named_parameters():
        (plain if parameter.ndim == 1 or name.endswith(".bias") else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


# ------------------------------------------------------------------------------ step


class OfficialStep:
    """step(batch) makes one: batch.globals_, batch.locals_ are lists of crops [B, 3, S, S], batch.masks of
    [B, h, w] for the global ones."""

    def __init__(self, options, device, precision):
        self.options, self.device, self.precision = options, torch.device(device), precision
        self.student, self.teacher = make_pair(options, self.device)
        self.optimizer = torch.optim.AdamW(decay_groups(self.student, options.weight_decay),
                                           lr=options.lr)
        self.scaler = torch.amp.GradScaler(self.device.type) if precision == "fp16" else None
        self.centre = torch.zeros(1, options.out_dim, device=self.device)
        self.centre_patch = torch.zeros(1, 1, options.out_dim, device=self.device)

    def autocast(self):
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision)
        return torch.autocast(self.device.type, half, enabled=half is not None)

    def loss(self, student_cls, student_patch, teacher_cls, teacher_patch, masks):
        """Cross-view loss on [CLS], same-view loss on masked patches; moves the centres."""
        o = self.options
        students = (student_cls / o.student_temp).chunk(o.n_global + o.n_local)
        patches = (student_patch / o.student_temp).chunk(o.n_global)
        targets = F.softmax((teacher_cls - self.centre) / o.teacher_temp, dim=-1)
        targets = targets.detach().chunk(o.n_global)
        patch_targets = F.softmax((teacher_patch - self.centre_patch) / o.teacher_patch_temp, dim=-1)
        patch_targets = patch_targets.detach().chunk(o.n_global)
        cls, patch, n_cls, n_patch = 0, 0, 0, 0
        for q, target in enumerate(targets):
            for v, student in enumerate(students):
                if v == q:
                    each = torch.sum(-patch_targets[q] * F.log_softmax(patches[v], dim=-1), dim=-1)
                    mask = masks[v].flatten(-2, -1)
                    each = torch.sum(each * mask.float(), dim=-1) / mask.sum(dim=-1).clamp(min=1.0)
                    patch, n_patch = patch + each.mean(), n_patch + 1
                else:
                    each = torch.sum(-target * F.log_softmax(student, dim=-1), dim=-1)
                    cls, n_cls = cls + each.mean(), n_cls + 1
        with torch.no_grad():
            m = o.centre_momentum
            mean = torch.sum(teacher_cls, dim=0, keepdim=True) / len(teacher_cls)
            self.centre = self.centre * m + mean * (1 - m)
            mean = torch.sum(teacher_patch.mean(1, keepdim=True), dim=0, keepdim=True)
            self.centre_patch = self.centre_patch * m + mean / len(teacher_patch) * (1 - m)
        return cls / n_cls * o.lambda1, patch / n_patch * o.lambda2

    def clip(self):
        for parameter in self.student.parameters():
            if parameter.grad is not None:
                norm = parameter.grad.data.norm(2)
                norm.item()  # the original keeps a list of them
                coefficient = self.options.clip_grad / (norm + 1e-6)
                if coefficient < 1:
                    parameter.grad.data.mul_(coefficient)

    def clip_and_freeze(self):
        if self.options.clip_grad > 0:
            self.clip()
        if self.options.freeze_last_layer:
            for name, parameter in self.student.named_parameters():
                if "last_layer" in name:
                    parameter.grad = None

    def forward(self, batch):
        """Losses, and the share of images on which teacher and student agree."""
        with self.autocast():
            with torch.no_grad():
                teacher_cls, teacher_patch = self.teacher(batch.globals_)
            student_cls, student_patch = self.student(batch.globals_, batch.masks)
            all_cls = student_cls
            if batch.locals_:
                all_cls = torch.cat([student_cls, self.student(batch.locals_)[0]])
            losses = self.loss(all_cls, student_patch, teacher_cls, teacher_patch, batch.masks)
        teacher_cluster = teacher_cls.chunk(self.options.n_global)[0].max(dim=1)[1]
        student_cluster = student_cls.chunk(self.options.n_global)[1].max(dim=1)[1]
        return losses + ((teacher_cluster == student_cluster).sum() / len(teacher_cluster),)

    def backward(self, loss):
        self.optimizer.zero_grad()
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def update(self):
        for i, group in enumerate(self.optimizer.param_groups):
            group["lr"] = self.options.lr
            if i == 0:
                group["weight_decay"] = self.options.weight_decay
        if self.scaler is None:
            self.clip_and_freeze()
            self.optimizer.step()
        else:
            self.scaler.unscale_(self.optimizer)
            self.clip_and_freeze()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        with torch.no_grad():
            m, own = self.options.teacher_momentum, dict(self.student.named_parameters())
            for name, k in self.teacher.named_parameters():
                k.data.mul_(m).add_((1 - m) * own[name].detach().data)

    def step(self, batch):
        cls, patch, agreement = self.forward(batch)
        loss = cls + patch
        if not math.isfinite(loss.item()):
            raise SystemExit(f"the loss is {loss.item()}")
        self.backward(loss)
        self.update()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return loss.item(), cls.item(), patch.item(), agreement.item()
