#!/usr/bin/env python3
"""Holds the values that fine-tuning is tested against with PyTorch's and timm's own.

  scripts/check_torch_finetune.py FILE [--write]

FILE: tests/trainer/classifier_values.h, which tests/trainer/classifier_torch_test.c includes. Small
classifiers (timm's VisionTransformer and SwinTransformer; layers of a projection head in between) are
trained for three steps of two micro-batches: timm's mixing of images and targets, its layer decay
formula, PyTorch's AdamW and clipping. Losses, gradient norms and how every parameter moved are compared
with the file, or written to it. So are timm's cosine schedule by epochs, and what its mixing and erasing
draw: means over many draws. And dense classifiers, on maps of two blocks side by side, of labels for each
pixel: fine-tuned, and on a frozen backbone; and with UPerNet on four blocks, an auxiliary head beside it,
whose channels are dropped as our random numbers have it (Philox4x32-10). Exit status 1: a value differs; 77: no PyTorch or timm.
"""
import math
import re
import sys

try:
    import torch
    import torch.nn.functional as F
    from timm.data.mixup import Mixup, cutmix_bbox_and_lam, mixup_target
    from timm.loss import SoftTargetCrossEntropy
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer
except ImportError as error:
    print(f"skipped: {error}: scripts/setup_torch.sh installs PyTorch", file=sys.stderr)
    sys.exit(77)

B, K, SIDE, STEPS, MICRO = 4, 5, 32, 3, 2
AUXILIARY, DROPOUT = 256, 0.25
WIDTH, HIDDEN, BOTTLENECK, OUT = 32, 48, 16, 64
LR, DECAY, LAYER_DECAY, CLIP, SMOOTHING, AVERAGE = 2e-3, 0.05, 0.65, 0.5, 0.1, 0.9
LABELS = ([0, 3, 2, 4], [1, 1, 0, 2])
# of each micro-batch in turn: share of the images, cut box (top, left, bottom, right), share of labels
MIXES = ((0.7, None, 0.7), (1.0, (3, 5, 19, 30), None), (1.0, None, 1.0))


class Head(torch.nn.Module):
    """The first layers of a projection head, or all of it."""

    def __init__(self, layers):
        super().__init__()
        sizes = [WIDTH, HIDDEN, HIDDEN, BOTTLENECK][:layers + 1]
        self.linears = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.whole = layers == 3
        if self.whole:
            self.gain = torch.nn.Parameter(torch.ones(OUT, 1), requires_grad=False)
            self.direction = torch.nn.Parameter(torch.ones(OUT, BOTTLENECK))

    def forward(self, x):
        for i, linear in enumerate(self.linears):
            x = linear(x)
            if i < 2:
                x = F.gelu(x)
        if self.whole:
            weight = self.gain * self.direction / self.direction.norm(dim=1, keepdim=True)
            x = F.normalize(x, dim=1) @ weight.t()
        return x


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def channel_scales(head, step, channels):
    """[B, channels, 1, 1]: 0, or what makes up for it, of random numbers keyed as proto/base/rng.h says."""
    purpose, seed, scales = 23, 7, []
    for image in range(B):
        words = []
        while len(words) < channels:
            words += philox((len(words) // 4, purpose << 16 | head, image, step), (seed, 0))
        scales.append([0.0 if w / 2 ** 32 < DROPOUT else 1.0 / (1.0 - DROPOUT) for w in words[:channels]])
    return torch.tensor(scales, dtype=torch.float64).float()[:, :, None, None]


class UPerNet(torch.nn.Module):
    """mmsegmentation's UPerHead and FCNHead, and the original's scales of one map. Weights lie as ours do:
    3x3 [out, 3, 3, in], 1x1 [out, in], transposed 2x2 [2, 2, out, in], without bias: batch norm follows."""

    UNITS = [("decoder.fpn1.1", None)] + [(f"decoder.psp_modules.{i}.1", 1) for i in range(4)] + [
        ("decoder.bottleneck", 3)] + [(f"decoder.lateral_convs.{i}", 1) for i in range(3)] + [
        (f"decoder.fpn_convs.{i}", 3) for i in range(3)] + [("decoder.fpn_bottleneck", 3), ("auxiliary.convs.0", 3)]
    DOUBLES = ["decoder.fpn1.0", "decoder.fpn1.3", "decoder.fpn2.0"]

    def __init__(self):
        super().__init__()
        self.named, new = {}, lambda *shape: torch.nn.Parameter(torch.zeros(shape))
        for name in self.DOUBLES:
            self.named[name + ".weight"] = new(2, 2, WIDTH, WIDTH)
        for name, side in self.UNITS:
            out = AUXILIARY if name.startswith("auxiliary") else WIDTH
            inputs = {"decoder.bottleneck": 5, "decoder.fpn_bottleneck": 4}.get(name, 1) * WIDTH
            if side is not None:
                self.named[name + ".conv.weight"] = new(out, inputs) if side == 1 else new(out, 3, 3, inputs)
            norm = name if side is None else name + ".bn"
            self.named[norm + ".weight"], self.named[norm + ".bias"] = new(out), new(out)
            for what in (".running_mean", ".running_var"):
                self.named[norm + what] = torch.nn.Parameter(torch.zeros(out), requires_grad=False)
        self.named["auxiliary.conv_seg.weight"], self.named["auxiliary.conv_seg.bias"] = new(K, AUXILIARY), new(K)
        self.all = torch.nn.ParameterList(self.named.values())

    def norm(self, name, x, act):
        p = self.named  # the running moments are written in place
        return act(F.batch_norm(x, p[name + ".running_mean"], p[name + ".running_var"], p[name + ".weight"],
                                p[name + ".bias"], self.training, 0.1, 1e-5))

    def unit(self, name, x):
        weight = self.named[name + ".conv.weight"]
        weight = weight[:, :, None, None] if weight.ndim == 2 else weight.permute(0, 3, 1, 2)
        return self.norm(name + ".bn", F.conv2d(x, weight, padding=weight.shape[2] // 2), F.relu)

    def double(self, name, x):
        return F.conv_transpose2d(x, self.named[name + ".weight"].permute(3, 2, 0, 1), stride=2)

    def forward(self, taps, step):
        """[B, D, h, w] of four blocks -> [B, D, 4h, 4w], and logits of the auxiliary head."""
        up = lambda x, to: F.interpolate(x, size=to.shape[2:], mode="bilinear", align_corners=False)
        p0 = self.double("decoder.fpn1.3", self.norm("decoder.fpn1.1", self.double("decoder.fpn1.0", taps[0]), F.gelu))
        maps = [p0, self.double("decoder.fpn2.0", taps[1]), taps[2], F.max_pool2d(taps[3], 2)]
        pooled = [self.unit(f"decoder.psp_modules.{i}.1", F.adaptive_avg_pool2d(maps[3], side))
                  for i, side in enumerate((1, 2, 3, 6))]
        last = self.unit("decoder.bottleneck", torch.cat([maps[3]] + [up(x, maps[3]) for x in pooled], 1))
        lateral = [self.unit(f"decoder.lateral_convs.{i}", maps[i]) for i in range(3)] + [last]
        for i in (2, 1, 0):
            lateral[i] = lateral[i] + up(lateral[i + 1], lateral[i])
        levels = [self.unit(f"decoder.fpn_convs.{i}", lateral[i]) for i in range(3)] + [last]
        fused = self.unit("decoder.fpn_bottleneck", torch.cat([up(x, levels[0]) for x in levels], 1))
        if not self.training:
            return fused, None
        auxiliary = self.unit("auxiliary.convs.0", maps[2]) * channel_scales(1, step, AUXILIARY).to(maps[2].dtype)
        return fused * channel_scales(0, step, WIDTH).to(fused.dtype), F.conv2d(
            auxiliary, self.named["auxiliary.conv_seg.weight"][:, :, None, None], self.named["auxiliary.conv_seg.bias"])


class Net(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.head = Head(int(kind[4:])) if kind.startswith("head") else torch.nn.Identity()
        width = {"head1": HIDDEN, "head2": HIDDEN, "head3": OUT, "taps": 2 * WIDTH,
                 "taps_frozen": 2 * WIDTH}.get(kind, WIDTH)
        self.linear = torch.nn.Linear(width, K)
        if kind == "swin":
            self.backbone = SwinTransformer(img_size=SIDE, patch_size=4, window_size=4, embed_dim=16, depths=(2, 2),
                                            num_heads=(2, 4), num_classes=0, drop_path_rate=0.0)
            self.backbone.norm.eps = 1e-6
            for module in self.backbone.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.eps = 1e-6
        else:
            self.backbone = VisionTransformer(img_size=SIDE, patch_size=8, embed_dim=WIDTH,
                                              depth=4 if kind.startswith("upernet") else 2, num_heads=2,
                                              num_classes=0, global_pool="avg" if kind == "mean" else "token")
        self.kind = kind
        self.depth = 4 if kind == "swin" else len(self.backbone.blocks)
        self.decoder = UPerNet() if kind.startswith("upernet") else None
        if kind in FROZEN:
            self.backbone.norm = torch.nn.Identity()

    def maps(self, x, step=0):
        """Logits of each patch: a 1 x 1 convolution on the maps of both blocks; with UPerNet on its maps, and
        the auxiliary ones. Positions of images of another size are interpolated by the factor that the original
        has."""
        grid, stored = (x.shape[2] // 8, x.shape[3] // 8), SIDE // 8
        x = self.backbone.patch_embed.proj(x).flatten(2).transpose(1, 2)
        position = self.backbone.pos_embed
        if grid != (stored, stored):
            patches = position[:, 1:].reshape(1, stored, stored, WIDTH).permute(0, 3, 1, 2)
            patches = F.interpolate(patches, scale_factor=tuple((n + 0.1) / stored for n in grid), mode="bicubic")
            assert tuple(patches.shape[2:]) == grid
            position = torch.cat([position[:, :1], patches.flatten(2).transpose(1, 2)], 1)
        x = torch.cat([self.backbone.cls_token.expand(len(x), 1, WIDTH), x], 1) + position
        taps = []
        for block in self.backbone.blocks:
            x = block(x)
            taps.append(self.backbone.norm(x)[:, 1:].transpose(1, 2).reshape(len(x), WIDTH, *grid))
        classify = lambda x: F.conv2d(x, self.linear.weight[:, :, None, None], self.linear.bias)
        if self.decoder is None:
            return classify(torch.cat(taps, 1)), None
        fused, auxiliary = self.decoder(taps, step)
        return classify(fused), auxiliary

    def forward(self, x):
        return self.linear(self.head(self.backbone(x)))

    def ordered(self):
        """(our name, parameter), in the order of our table."""
        own = dict(self.backbone.named_parameters())
        blocks = ["norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight",
                  "attn.proj.bias", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias",
                  "mlp.fc2.weight", "mlp.fc2.bias"]
        both = lambda name: [name + ".weight", name + ".bias"]
        if self.kind == "swin":
            names = both("patch_embed.proj") + both("patch_embed.norm")
            table = "attn.relative_position_bias_table"
            for stage in range(2):
                for block in range(2):
                    names += [f"layers.{stage}.blocks.{block}.{n}" for n in blocks[:2] + [table] + blocks[2:]]
                if stage == 0:  # timm's merging is the beginning of the next stage
                    names += ["layers.0.downsample.reduction.weight"] + both("layers.0.downsample.norm")
            names += both("norm")
        else:
            names = ["cls_token", "pos_embed"] + both("patch_embed.proj")
            for block in range(self.depth):
                names += [f"blocks.{block}.{n}" for n in blocks]
            names += [] if self.kind in FROZEN else both("fc_norm" if self.kind == "mean" else "norm")
        result = []
        for name in names:
            theirs = name.replace("layers.0.downsample", "layers.1.downsample")
            ours = name if name.startswith("fc_norm") else "backbone." + name
            result.append((ours, own.pop(theirs)))
        assert not own, own.keys()
        if isinstance(self.head, Head):
            for i, linear in enumerate(self.head.linears):
                result += [(f"head.mlp.{2 * i}.weight", linear.weight), (f"head.mlp.{2 * i}.bias", linear.bias)]
            if self.head.whole:
                result += [("head.last_layer.weight_g", self.head.gain),
                           ("head.last_layer.weight_v", self.head.direction)]
        if self.decoder is not None:
            result += list(self.decoder.named.items())
        return result + [("head.weight", self.linear.weight), ("head.bias", self.linear.bias)]


FROZEN = ("taps_frozen", "upernet_frozen")


def layer_of(name, depth):
    """The numbering of the BEiT recipe; of a Swin, blocks counted over the stages."""
    name = name[len("backbone."):] if name.startswith("backbone.") else name
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1]) + 1
    if parts[0] == "layers":
        return 2 * int(parts[1]) + (int(parts[3]) + 1 if parts[2] == "blocks" else 2)
    return depth + 1


def fill(parameters):
    """The rule of tests/trainer/model_fixture.h."""
    for t, (name, p) in enumerate(parameters):
        k = torch.arange(p.numel(), dtype=torch.float64)
        value = 0.1 * torch.sin(0.7 * t + 0.37 * k)
        value = value.to(torch.float32)
        if name.endswith("weight_g"):
            value = torch.ones_like(value)
        elif ("norm" in name or ".bn." in name or "fpn1.1" in name) and name.endswith((".weight", ".running_var")):
            value = value + 1
        p.data.copy_(value.view_as(p))


def mixed(images, labels, mix):
    """timm's Mixup in batch mode, its draws replaced by given ones."""
    share, box, target_share = mix
    ours = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=SMOOTHING, num_classes=K)
    if box is not None:
        area = (box[2] - box[0]) * (box[3] - box[1])
        target_share = 1.0 - area / (SIDE * SIDE)
        ours._params_per_batch = lambda: (0.5, True)
        import timm.data.mixup as module
        module.cutmix_bbox_and_lam = lambda *a, **k: ((box[0], box[2], box[1], box[3]), target_share)
    else:
        ours._params_per_batch = lambda: (share, False)
    x, target = ours(images.clone(), labels)
    assert torch.equal(target, mixup_target(labels, K, target_share, SMOOTHING))
    return x, target


def rectangles(kind):
    """Logits of two images of 24 x 16 px."""
    net = Net(kind).float().eval()
    fill(net.ordered())
    images = torch.sin(0.05 * torch.arange(2 * 3 * 24 * 16, dtype=torch.float64) + 1.1).float().view(2, 3, 24, 16)
    with torch.no_grad():
        return net.maps(images)[0].permute(0, 2, 3, 1).flatten().tolist()


def label_maps(turn):
    i, y, x = torch.meshgrid(torch.arange(B), torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    label = (y // 5 + x // 7 + i + 3 * turn) % (K + 1)
    return torch.where(label == K, 255, label)


def loss_of(net, images, turn):
    """Of a dense one: the mean is over all pixels, those without a label too."""
    total = 0.0
    for maps, share in zip(net.maps(images, turn), (1.0, 0.4)):
        if maps is not None:
            maps = F.interpolate(maps, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
            total += share * F.cross_entropy(maps, label_maps(turn), ignore_index=255, reduction="none").mean()
    return total / MICRO


def images_of(turn):
    k = torch.arange(B * 3 * SIDE * SIDE, dtype=torch.float64)
    return torch.sin(0.05 * k + 0.3 * turn).to(torch.float32).view(B, 3, SIDE, SIDE)


def gradients(kind):
    """Of the first step, in double: loss and norm, then of each parameter the gradient's sum times a wave, and
    the sum of the magnitudes. What a step of AdamW makes of gradients near 0 is rounding alone."""
    net = Net(kind).double().train()
    parameters = net.ordered()
    fill(parameters)
    total = sum(loss_of(net, images_of(turn).double(), turn) for turn in range(MICRO))
    total.backward()
    trained = [p for _, p in parameters if p.requires_grad]
    numbers = [total.item(), torch.nn.utils.clip_grad_norm_(trained, float("inf")).item()]
    for name, p in parameters:
        weight = torch.cos(0.3 * torch.arange(p.numel(), dtype=torch.float64))
        gradient = torch.zeros_like(weight) if p.grad is None else p.grad.flatten().double()
        numbers += [(gradient * weight).sum().item(), (gradient * weight).abs().sum().item()]
    return numbers


def train(kind):
    net = Net(kind).float().train()
    parameters = net.ordered()
    fill(parameters)
    dense, frozen = kind.startswith(("taps", "upernet")), kind in FROZEN
    for name, p in parameters:
        p.requires_grad_(not name.endswith(("weight_g", ".running_mean", ".running_var")) and
                         (not frozen or not name.startswith("backbone.")))
    before = [p.detach().clone() for _, p in parameters]
    average = [p.detach().clone() for _, p in parameters]
    groups = []
    for name, p in parameters:
        if not p.requires_grad:
            continue
        plain = p.ndim == 1 or name.endswith(".bias") or name.split(".")[-1] in ("pos_embed", "cls_token")
        groups.append({"params": [p], "weight_decay": 0.0 if plain and kind != "taps_frozen" else DECAY,
                       "lr": LR * LAYER_DECAY ** (net.depth + 1 - layer_of(name, net.depth))})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    trained = [p for _, p in parameters if p.requires_grad]
    numbers = []
    for step in range(STEPS):
        optimizer.zero_grad()
        total = 0.0
        for micro in range(MICRO):
            turn = step * MICRO + micro
            images = images_of(turn)
            if dense:
                loss = loss_of(net, images, turn)
            else:
                x, target = mixed(images, torch.tensor(LABELS[micro]), MIXES[turn % len(MIXES)])
                loss = SoftTargetCrossEntropy()(net(x), target) / MICRO
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(trained, CLIP).item()
        optimizer.step()
        for a, (_, p) in zip(average, parameters):
            a.mul_(AVERAGE).add_(p.detach(), alpha=1 - AVERAGE)
        numbers += [total, norm]
    for (name, p), old, a in zip(parameters, before, average):
        if frozen and name.startswith("backbone."):
            assert torch.equal(p, old)
            continue
        weight = torch.cos(0.3 * torch.arange(p.numel(), dtype=torch.float64))
        if name.endswith("attn.qkv.bias"):  # its key third has no gradient but rounding
            third = p.numel() // 3
            weight[third:2 * third] = 0
        moved = (p.detach() - old).double().flatten()
        numbers += [(moved * weight).sum().item(), (moved * weight).abs().sum().item(),
                    ((a - old).double().flatten() * weight).sum().item()]
    return numbers


def rates():
    """timm's cosine by epochs, stepped as DeiT does: with the number of the epoch that has ended."""
    from timm.scheduler import CosineLRScheduler
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=7.5e-4)
    scheduler = CosineLRScheduler(optimizer, t_initial=12, lr_min=1e-5, warmup_lr_init=1e-6, warmup_t=3)
    values = []
    for epoch in range(12):
        values.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch)
    return values


def draws(n=40000, side=40):
    """Means: of CutMix's label share, its square, the share of cuts of nothing; of mixup's share times one
    less it, and of its fourth power; of erasing's area, height and width, their products."""
    import numpy
    import random
    from timm.data.random_erasing import RandomErasing
    numpy.random.seed(1)
    random.seed(1)
    cuts = numpy.array([cutmix_bbox_and_lam((4, 3, side, side), numpy.random.beta(1, 1))[1] for _ in range(n)])
    shares = numpy.random.beta(0.8, 0.8, n)
    eraser, boxes = RandomErasing(probability=1.0, mode="const", max_count=1, device="cpu"), []
    for _ in range(n // 4):
        image = eraser(torch.ones(1, side, side))[0]
        rows, columns = (image == 0).any(1).sum().item(), (image == 0).any(0).sum().item()
        boxes.append((rows * columns / side ** 2, rows / side, columns / side, (rows / side) ** 2))
    return [cuts.mean(), (cuts ** 2).mean(), (cuts == 1).mean(), (shares * (1 - shares)).mean(),
            (shares ** 4).mean()] + list(numpy.mean(boxes, 0))


def main():
    torch.manual_seed(0)
    path, write = sys.argv[1], "--write" in sys.argv[2:]
    kinds = ["cls", "mean", "head1", "head2", "head3", "swin", "taps", "taps_frozen", "upernet_frozen"]
    values = {kind: train(kind) for kind in kinds}
    values["upernet"] = gradients("upernet")
    values["rectangles"], values["upernet_rectangles"] = rectangles("taps"), rectangles("upernet")
    values["rates"], values["draws"] = rates(), draws()
    kinds += ["upernet", "rectangles", "upernet_rectangles", "rates", "draws"]
    if write:
        with open(path, "w") as out:
            out.write("/* What PyTorch and timm make of the classifiers of classifier_torch_test.c: loss and gradient norm of\n"
                      " * each step, then of each parameter the sum over elements k of its movement times cos 0.3 k, the\n"
                      " * sum of the magnitudes, and the movement of the average. Of UPerNet with its backbone: loss and norm of\n"
                      " * the first step, then of each parameter's gradient the sum times cos 0.3 k and the magnitudes. Then\n"
                      " * timm's rates by epochs, and means of what its mixing draws. Written by scripts/check_torch_finetune.py. */\n"
                      "#ifndef IBOT_TESTS_TRAINER_CLASSIFIER_VALUES_H\n#define IBOT_TESTS_TRAINER_CLASSIFIER_VALUES_H\n\n")
            for kind in kinds:
                out.write(f"static const double torch_{kind}[] = {{\n")
                for i in range(0, len(values[kind]), 3):
                    out.write("    " + ", ".join(f"{v:.9g}" if "e" in f"{v:.9g}" or "." in f"{v:.9g}" else f"{v:.1f}"
                                                 for v in values[kind][i:i + 3]) + ",\n")
                out.write("};\n\n")
            out.write("#endif\n")
        return 0
    text, bad = open(path).read(), 0
    for kind in kinds:
        stored = re.search(rf"torch_{kind}\[\] = {{(.*?)}};", text, re.S).group(1)
        stored = [float(v) for v in stored.replace("\n", " ").split(",") if v.strip()]
        assert len(stored) == len(values[kind]), kind
        scale = max(abs(v) for v in stored)
        worst = max(abs(a - b) / max(abs(b), 1e-3 * scale) for a, b in zip(values[kind], stored))
        limit = 0.03 if kind == "draws" else 1e-3
        print(f"{kind}: {len(stored)} values, worst error {worst:.2g}")
        bad += not (worst < limit and math.isfinite(worst))
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
