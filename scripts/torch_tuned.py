"""The same step as torch_official.py as fast as PyTorch goes, with the same results.

What is left out because no loss needs it: the head on anything but [CLS] and masked patches (of the
student), its last layer on anything but those (of the teacher), and after the attention of the
student's last block every other row. The teacher's centres stay exact: the mean of the logits is the
last layer of the mean bottleneck vector. Attention is one fused call; the losses are one pass over
each matrix of logits; clipping, AdamW and the teacher average work on all tensors at once; nothing
asks the device for a number. The whole forward of both networks is one function, to be compiled;
gradients come from autograd. bfloat16 by autocast, or by bfloat16 weights with float32 masters.

The number of rows is rounded up to a few sizes, with weight 0 for what is added, as a compiled step
needs.
"""
import math

import torch
import torch.nn.functional as F

import torch_official as official

ROW_PARTS, ROW_GRAIN = 32, 8  # as ibot-train rounds up its masked rows


class Tables:
    """Which rows a batch needs, and their weights: what a loader knows beforehand."""

    def __init__(self, options, masks, n_tokens, device):
        o, b = options, masks[0].shape[0]
        n_global, n_local = o.n_global * b, o.n_local * b
        mask = torch.cat([m.cpu() for m in masks]).flatten(1).bool()
        cells = mask.shape[1]
        rows = mask.flatten().nonzero().squeeze(1)
        counts = mask.sum(1)
        weight = (o.lambda2 / (n_global * counts.clamp(min=1).double()))[rows // cells]
        rows = rows // cells * (cells + 1) + 1 + rows % cells
        capacity = n_global * cells
        grain = max(ROW_GRAIN, -(-(capacity // ROW_PARTS) // ROW_GRAIN) * ROW_GRAIN)
        padded = max(grain, min(capacity, -(-len(rows) // grain) * grain))
        self.n_masked, self.n_rows = len(rows), padded
        rows = F.pad(rows, (0, padded - len(rows)))
        self.weight = F.pad(weight, (0, padded - weight.shape[0])).float().to(device)
        cls_global = torch.arange(n_global) * n_tokens[0]
        cls_local = torch.arange(n_local) * n_tokens[1]
        self.teacher = torch.cat([cls_global, rows]).to(device)
        self.globals_ = self.teacher
        self.locals_ = cls_local.to(device)
        self.packed = torch.cat([cls_global, n_global * n_tokens[0] + cls_local, rows]).to(device)
        self.mask = mask.view(n_global, *masks[0].shape[1:]).to(device)


def sample_of_rows(groups, device):
    """Which sample each row of a packed buffer belongs to."""
    first, parts = 0, []
    for n, length in groups:
        parts.append(torch.arange(first, first + n, device=device).repeat_interleave(length))
        first += n
    return torch.cat(parts)


# ------------------------------------------------------------------------------ backbones


def attend(attn, y, groups):
    """y [T, D]: groups of (number, length) sequences, one after the other."""
    qkv, first, outs = attn.qkv(y), 0, []
    for n, length in groups:
        part = qkv[first:first + n * length].view(n, length, 3, attn.heads, -1)
        q, k, v = part.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        outs.append(out.transpose(1, 2).reshape(n * length, -1))
        first += n * length
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def scaled(branch, scale, sample):
    return branch if scale is None else branch * scale[sample][:, None].to(branch.dtype)


def vit_tokens(vit, images, mask):
    x = F.linear(patches_of(images, vit.patch_embed.proj), vit.patch_embed.proj.weight.flatten(1),
                 vit.patch_embed.proj.bias)
    g = math.isqrt(x.shape[1])
    if mask is not None:
        x = torch.where(mask.flatten(1)[..., None], vit.masked_embed.to(x.dtype), x)
    x = torch.cat([vit.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + vit.position(g)
    return x.flatten(0, 1), (x.shape[0], x.shape[1])


def patches_of(images, proj):
    """The convolution as a matrix product: its patches do not overlap."""
    b, c, s, _ = images.shape
    p = proj.kernel_size[0]
    g = s // p
    x = images[:, :, :g * p, :g * p].reshape(b, c, g, p, g, p)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, g * g, c * p * p)


def vit_forward(vit, crops, mask, scales, rows, stream):
    """Features of `rows` (all if None) of the packed tokens of crops, one tensor for each size. scales:
    [2 * depth, samples] or None. stream: type of the residual stream."""
    parts = [vit_tokens(vit, images, mask if i == 0 else None) for i, images in enumerate(crops)]
    x = (parts[0][0] if len(parts) == 1 else torch.cat([part[0] for part in parts])).to(stream)
    groups = [part[1] for part in parts]
    sample = sample_of_rows(groups, x.device) if scales is not None else None
    for i, block in enumerate(vit.blocks):
        a = attend(block.attn, block.norm1(x), groups)
        if rows is not None and i + 1 == len(vit.blocks):
            a, x = a.index_select(0, rows), x.index_select(0, rows)
            sample = sample[rows] if sample is not None else None
        drop = scales is not None and block.rate > 0
        x = x + scaled(block.attn.proj(a), scales[2 * i] if drop else None, sample)
        x = x + scaled(block.mlp(block.norm2(x)), scales[2 * i + 1] if drop else None, sample)
    return vit.norm(x)


def window_attend(block, x, mask):
    """As SwinBlock.attend, with a fused attention."""
    b, n, d = x.shape
    h, w, attn = math.isqrt(n), block.window, block.attn
    more = -h % w
    p = h + more
    y = F.pad(x.view(b, h, h, d), (0, 0, 0, more, 0, more))
    if block.shift > 0:
        y = torch.roll(y, (-block.shift, -block.shift), (1, 2))
    y = block.cut(y)
    qkv = attn.qkv(y).view(-1, w * w, 3, attn.heads, d // attn.heads).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    bias = attn.bias()[None]
    if block.shift > 0:
        bias = (bias + mask[:, None]).repeat(b, 1, 1, 1)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype).expand(len(q), -1, -1, -1))
    y = attn.proj(y.transpose(1, 2).reshape(-1, w * w, d))
    y = y.view(b, p // w, p // w, w, w, d).transpose(2, 3).reshape(b, p, p, d)
    if block.shift > 0:
        y = torch.roll(y, (block.shift, block.shift), (1, 2))
    return y[:, :h, :h].reshape(b, n, d)


def swin_forward(swin, images, mask, scales, window_masks):
    """Features of all rows of one size of crops, the mean of each first."""
    x = F.linear(patches_of(images, swin.patch_embed.proj), swin.patch_embed.proj.weight.flatten(1),
                 swin.patch_embed.proj.bias)
    x = swin.patch_embed.norm(x)
    if mask is not None:
        times = math.isqrt(x.shape[1]) // mask.shape[1]
        wide = mask.repeat_interleave(times, 1).repeat_interleave(times, 2).flatten(1)
        x = torch.where(wide[..., None], swin.masked_embed.to(x.dtype), x)
    i = 0
    for s, stage in enumerate(swin.layers):
        for block in stage.blocks:
            drop = scales is not None and block.rate > 0
            y = window_attend(block, block.norm1(x), window_masks.get((s, x.shape[1])))
            x = x + (y * scales[2 * i][:, None, None].to(y.dtype) if drop else y)
            y = block.mlp(block.norm2(x))
            x = x + (y * scales[2 * i + 1][:, None, None].to(y.dtype) if drop else y)
            i += 1
        x = x if stage.downsample is None else stage.downsample(x)
    x = swin.norm(x)
    return torch.cat([x.mean(1, keepdim=True), x], dim=1).flatten(0, 1)


def masks_of_windows(swin, sides):
    """The masks of shifted windows by stage and number of tokens: they never change."""
    masks = {}
    for side in sides:
        for s, stage in enumerate(swin.layers):
            for block in stage.blocks:
                if block.shift > 0:
                    padded = side + -side % block.window
                    masks[s, side * side] = block.mask(padded, swin.norm.weight.device)
            side = (side + 1) // 2
    return masks


# ------------------------------------------------------------------------------ loss


def without_autocast(device):
    return torch.autocast(device.type, enabled=False)


def bottleneck(head, x):
    return F.normalize(head.mlp(x).float(), dim=-1)


def logits(z, weight, half):
    """[rows, K], float32 from products of `half`."""
    with without_autocast(z.device):
        return F.linear(z.to(half), weight.to(half)).float()


def cross_entropy(target, student):
    return -(target * F.log_softmax(student, dim=-1)).sum(-1)


# ------------------------------------------------------------------------------ step


class TunedStep:
    """step(batch): one step, without waiting for it.

    precision: f32, autocast (bfloat16), masters (bfloat16 copies of matrices, float32 masters)
    packed:    all crops in one token buffer, so that each layer is one product; else two passes
    last_rows: after the last block's attention only the rows that the loss reads
    stream:    type of the residual stream: f32, bf16
    compile_mode: "" (eager), default, max-autotune, max-autotune-no-cudagraphs, reduce-overhead
    graph:     the whole step, optimizer included, as one CUDA graph
    """

    def __init__(self, options, device, precision="autocast", packed=False, last_rows=True,
                 stream="f32", compile_mode="", graph=False):
        self.options, self.device = options, torch.device(device)
        self.precision, self.packed = precision, packed and not options.swin
        self.stream = torch.bfloat16 if stream == "bf16" and precision != "f32" else torch.float32
        self.last_rows, self.graph = last_rows and not options.swin, graph
        self.student, self.teacher = official.make_pair(options, self.device)
        self.half = torch.float32 if precision == "f32" else torch.bfloat16
        self.teacher_half = torch.float32 if precision == "f32" else torch.float16
        self.masters, self.copies = list(self.student.parameters()), []
        self.teacher_masters = dict(self.teacher.named_parameters())
        self.names = [name for name, _ in self.student.named_parameters()]
        cuda = self.device.type == "cuda"
        # a tensor where a graph is to read it again, and only there
        self.optimizer = torch.optim.AdamW(
            official.decay_groups(self.student, options.weight_decay), fused=True,
            lr=torch.tensor(options.lr, device=self.device) if graph and cuda else options.lr,
            capturable=graph and cuda)
        if precision == "masters":
            self.make_copies()
        self.centre = torch.zeros(options.out_dim, device=self.device)
        self.centre_patch = torch.zeros(options.out_dim, device=self.device)
        self.tables, self.given, self.recorded = None, None, None
        self.compile_mode = compile_mode
        self.run = self.forward
        if compile_mode:
            self.run = torch.compile(self.forward, mode=None if compile_mode == "default" else compile_mode,
                                     dynamic=False)
        blocks = [b for b in self.student.backbone.modules() if isinstance(b, official.Block)]
        rates = [block.rate for block in blocks for _ in range(2)]
        self.keep = 1.0 - torch.tensor(rates, device=self.device)[:, None]
        self.drops = max(rates) > 0

    # -------------------------------------------------------------------------- precision

    def make_copies(self):
        """The networks compute with bfloat16 matrices; float32 masters are what the optimizer has."""
        self.masters = [p.detach().clone() for p in self.student.parameters()]
        self.teacher_masters = {n: p.detach().clone() for n, p in self.teacher.named_parameters()}
        for network in (self.student, self.teacher):
            for module in network.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(torch.bfloat16)
        self.copies = list(self.student.parameters())
        place = {id(p): m for p, m in zip(self.copies, self.masters)}
        for group in self.optimizer.param_groups:
            group["params"] = [place[id(p)] for p in group["params"]]

    def autocast(self):
        half = self.precision != "f32"
        # a graph's cast weights would be those of the time it was recorded
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half,
                              cache_enabled=not self.graph)

    # -------------------------------------------------------------------------- forward

    def scales(self):
        """0 or 1/keep of every branch and crop; globals first."""
        if not self.drops:
            return None
        b = self.batch_size
        n = (self.options.n_global + self.options.n_local) * b
        if self.given is not None:
            return self.given.to(self.device) / self.keep
        return torch.floor(self.keep + torch.rand(len(self.keep), n, device=self.device)) / self.keep

    def prepare(self, batch):
        """Tables of a batch; to be called again when its masks change."""
        o = self.options
        self.batch_size = len(batch.globals_[0])
        if o.swin:
            sides = [crops[0].shape[-1] // o.patch_size for crops in (batch.globals_, batch.locals_) if crops]
            self.window_masks = masks_of_windows(self.student.backbone, sides)
        cells = [(c[0].shape[-1] // o.cell)**2 if not o.swin else self.last_tokens(c[0].shape[-1])
                 for c in (batch.globals_, batch.locals_ or batch.globals_)]
        self.tables = Tables(o, batch.masks, [1 + n for n in cells], self.device)
        self.crops = [torch.cat(crops) for crops in (batch.globals_, batch.locals_) if crops]
        for crops in self.crops:  # a graph need not copy them
            torch._dynamo.mark_static_address(crops)

    def last_tokens(self, size):
        side = size // self.options.patch_size
        for _ in range(len(self.options.depth) - 1):
            side = (side + 1) // 2
        return side * side

    def features(self, network, crops, mask, scales, rows):
        """Of rows of the packed tokens."""
        backbone = network.backbone
        if self.options.swin:
            assert len(crops) == 1
            x = swin_forward(backbone, crops[0], mask, scales, self.window_masks)
        else:
            x = vit_forward(backbone, crops, mask, scales, rows if self.last_rows else None,
                            self.stream)
        return x if rows is None or self.last_rows else x.index_select(0, rows)

    def student_features(self, crops, mask, scales, tables):
        """[CLS] of all crops in order, then the masked patches."""
        if self.packed:
            return self.features(self.student, crops, mask, scales, tables.packed)
        n = len(crops[0])
        first = self.features(self.student, crops[:1], mask, None if scales is None else scales[:, :n],
                              tables.globals_)
        if len(crops) == 1:
            return first
        second = self.features(self.student, crops[1:], None,
                               None if scales is None else scales[:, n:], tables.locals_)
        return torch.cat([first[:n], second, first[n:]])

    def teacher_forward(self, crops, tables, n):
        """Logits of [CLS] and masked rows, and the means of the logits of all [CLS] and patches."""
        head = self.teacher.head
        z = bottleneck(head, self.features(self.teacher, crops[:1], None, None, None))
        weight = head.last_layer.weight()
        length = len(z) // n
        parts = z.view(n, length, -1)
        means = torch.stack([parts[:, 0].mean(0), parts[:, 1:].mean((0, 1))])
        with without_autocast(z.device):
            means = F.linear(means, weight)
        return logits(z[tables.teacher], weight, self.teacher_half), means

    def forward(self, crops, scales, tables, centre, centre_patch):
        o = self.options
        n = len(crops[0])
        b, views = n // o.n_global, o.n_global + o.n_local
        with self.autocast():
            with torch.no_grad():
                teacher, means = self.teacher_forward(crops, tables, n)
                targets = F.softmax((teacher[:n] - centre) / o.teacher_temp, -1).view(o.n_global, b, -1)
                patch_targets = F.softmax((teacher[n:] - centre_patch) / o.teacher_patch_temp, -1)
                all_targets = targets.sum(0, keepdim=True)
            x = self.student_features(crops, tables.mask, scales, tables)
            z = bottleneck(self.student.head, x)
            student = logits(z, self.student.head.last_layer.weight(), self.half) / o.student_temp
        cls, patch = student[:views * b].view(views, b, -1), student[views * b:]
        terms = o.n_global * (views - 1)
        own = cross_entropy(all_targets - targets, cls[:o.n_global]).mean(1).sum()
        loss_cls = own
        if o.n_local > 0:
            loss_cls = own + cross_entropy(all_targets, cls[o.n_global:]).mean(1).sum()
        loss_cls = loss_cls * (o.lambda1 / terms)
        loss_patch = (cross_entropy(patch_targets, patch) * tables.weight).sum()
        with torch.no_grad():
            agreement = (teacher[:b].argmax(-1) == cls[1].argmax(-1)).float().mean()
        return loss_cls, loss_patch, means, agreement

    # -------------------------------------------------------------------------- update

    def clip(self, gradients):
        norms = torch.stack(torch._foreach_norm(gradients))
        factors = (self.options.clip_grad / (norms + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, list(factors.unbind()))

    def update(self):
        o = self.options
        parameters = self.copies or self.masters
        gradients = [p.grad for p in parameters]
        if self.copies:
            whole = [g.float() for g in gradients]
            for master, gradient in zip(self.masters, whole):
                master.grad = gradient
            gradients = whole
        if o.clip_grad > 0:
            self.clip(gradients)
        if o.freeze_last_layer:
            for name, master in zip(self.names, self.masters):
                if "last_layer" in name:
                    master.grad = None
        self.optimizer.step()
        own = dict(zip(self.names, self.masters))
        students = [own[name].detach() for name in self.teacher_masters]
        torch._foreach_lerp_(list(self.teacher_masters.values()), students, 1.0 - o.teacher_momentum)
        if self.copies:
            torch._foreach_copy_([p.detach() for p in self.copies], self.masters)
            torch._foreach_copy_(list(self.teacher.parameters()), list(self.teacher_masters.values()))

    def move_centres(self, means):
        m = self.options.centre_momentum
        self.centre.mul_(m).add_(means[0], alpha=1 - m)
        self.centre_patch.mul_(m).add_(means[1], alpha=1 - m)

    def zero(self):
        for parameter in self.copies or self.masters:
            parameter.grad = None

    def queue(self):
        """One step on what `prepare` was given."""
        self.zero()
        losses = self.run(self.crops, self.scales(), self.tables, self.centre, self.centre_patch)
        (losses[0] + losses[1]).backward()
        with torch.no_grad():
            self.move_centres(losses[2])
            self.update()
        return losses

    def record(self):
        """Warm-up beside the default stream, as recording asks for, then the whole step as a graph."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.queue()
        torch.cuda.current_stream().wait_stream(side)
        self.recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.recorded):
            self.losses = self.queue()

    def step(self):
        self.zero()  # before what they point to is used again
        if self.compile_mode in ("reduce-overhead", "max-autotune"):
            torch.compiler.cudagraph_mark_step_begin()
        if not self.graph or self.device.type != "cuda":
            return self.queue()
        if self.recorded is None:
            self.record()
        self.recorded.replay()
        return self.losses
