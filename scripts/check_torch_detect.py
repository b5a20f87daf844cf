#!/usr/bin/env python3
"""The detector's losses, gradients and detections by PyTorch and torchvision, from the same weights and taps.

  python3 scripts/check_torch_detect.py > tests/trainer/detector_values.h    needs torch and torchvision

The case is small enough that no anchor and no region has to be left out by chance: what detector_torch_test.c
computes is then defined to the last digit. Written from the papers and the documented behaviour of mmdetection 2.
"""
import math
import sys

import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss, nms, roi_align

ROWS, COLUMNS, PATCH, D, C, HIDDEN, CLASSES = 5, 6, 128, 8, 16, 24, 3
REGIONS, BEFORE, MOST, DETECTIONS = 48, 40, 20, 12
LEVELS, STAGES = 5, 3
STDS = [(0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)]
FRAMES = [(640.0, 768.0), (560.0, 700.0)]
BOXES = [[(61, 43, 323, 307), (31, 130, 601, 597), (400, 300, 451, 363), (503, 101, 640, 233)],
         [(50, 61, 331, 303), (300, 200, 361, 253), (101, 20, 640, 543)]]
LABELS = [[0, 2, 1, 1], [1, 0, 2]]
B = len(FRAMES)
torch.set_num_threads(2)
torch.set_default_dtype(torch.float64)  # inputs are rounded to float32


def wave(t, n):
    k = torch.arange(n, dtype=torch.float64)
    return torch.sin(0.7 * t + 0.37 * k + 0.013 * k * k)


def names():
    c, d = C, D
    table = [("fpn1.0.weight", (2, 2, d, d)), ("fpn1.3.weight", (2, 2, d, d)), ("fpn2.0.weight", (2, 2, d, d))]
    table += batchnorm("fpn1.1", d)
    for i in range(4):
        table += layer(f"neck.lateral_convs.{i}.conv", (c, d)) + layer(f"neck.fpn_convs.{i}.conv", (c, 3, 3, c))
    table += layer("rpn_head.rpn_conv", (c, 3, 3, c)) + layer("rpn_head.rpn_cls", (3, c))
    table += layer("rpn_head.rpn_reg", (12, c))
    for s in range(STAGES):
        for i in range(4):
            table.append((f"bbox_head.{s}.shared_convs.{i}.conv.weight", (c, 3, 3, c)))
            table += batchnorm(f"bbox_head.{s}.shared_convs.{i}.bn", c)
        table += layer(f"bbox_head.{s}.shared_fcs.0", (HIDDEN, 7, 7, c))
        table += layer(f"bbox_head.{s}.fc_cls", (CLASSES + 1, HIDDEN))
        table += layer(f"bbox_head.{s}.fc_reg", (4 * CLASSES, HIDDEN))
        for i in range(4):
            table += layer(f"mask_head.{s}.convs.{i}.conv", (c, 3, 3, c))
        table += layer(f"mask_head.{s}.upsample", (2, 2, c, c), c)
        table += layer(f"mask_head.{s}.conv_logits", (CLASSES, c))
    return table


def layer(name, shape, n_out=None):
    return [(name + ".weight", shape), (name + ".bias", (n_out or shape[0],))]


def batchnorm(name, n):
    return [(f"{name}.{part}", (n,)) for part in ("weight", "bias", "running_mean", "running_var")]


def make_weights():
    weights = {}
    for t, (name, shape) in enumerate(names()):
        value = 0.15 * wave(t, math.prod(shape))
        if (".bn." in name or "fpn1.1." in name) and name.endswith(("weight", "running_var")):
            value = value + 1
        weights[name] = value.float().double().reshape(shape).requires_grad_("running" not in name)
    return weights


def conv(x, weight, bias=None):
    """weight [Out, 3, 3, In]"""
    return F.conv2d(x, weight.permute(0, 3, 1, 2), bias, padding=1)


def double(x, weight, bias=None):
    """weight [2, 2, Out, In] as PyTorch's [In, Out, 2, 2]"""
    return F.conv_transpose2d(x, weight.permute(3, 2, 0, 1), bias, stride=2)


class Detector:
    def __init__(self, weights, train):
        self.w, self.train = weights, train

    def norm(self, x, name):
        w = self.w
        return F.batch_norm(x, w[name + ".running_mean"].clone(), w[name + ".running_var"].clone(),
                            w[name + ".weight"], w[name + ".bias"], self.train, 0.1, 1e-5)

    def pyramid(self, taps):
        w = self.w
        maps = [t.reshape(B, ROWS, COLUMNS, D).permute(0, 3, 1, 2) for t in taps]
        first = F.gelu(self.norm(double(maps[0], w["fpn1.0.weight"]), "fpn1.1"))
        scales = [double(first, w["fpn1.3.weight"]), double(maps[1], w["fpn2.0.weight"]), maps[2],
                  F.max_pool2d(maps[3], 2, 2)]
        merged = []
        for i in range(4):
            name = f"neck.lateral_convs.{i}.conv"
            merged.append(F.conv2d(scales[i], w[name + ".weight"][:, :, None, None], w[name + ".bias"]))
        for i in (3, 2, 1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[2:], mode="nearest")
        levels = [conv(merged[i], w[f"neck.fpn_convs.{i}.conv.weight"], w[f"neck.fpn_convs.{i}.conv.bias"])
                  for i in range(4)]
        return levels + [F.max_pool2d(levels[3], 1, stride=2)]

    def proposal_maps(self, levels):
        w, objectness, shift = self.w, [], []
        for x in levels:
            h = F.relu(conv(x, w["rpn_head.rpn_conv.weight"], w["rpn_head.rpn_conv.bias"]))
            for out, name in ((objectness, "rpn_cls"), (shift, "rpn_reg")):
                y = F.conv2d(h, w[f"rpn_head.{name}.weight"][:, :, None, None], w[f"rpn_head.{name}.bias"])
                out.append(y.permute(0, 2, 3, 1).reshape(B, -1, 1 if name == "rpn_cls" else 4))
        return [o.squeeze(-1) for o in objectness], shift

    def cut(self, levels, rois, side):
        """rois [n, 5] with the picture first; features [n, C, side, side]"""
        scale = torch.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
        level = torch.floor(torch.log2(scale / 56 + 1e-6)).clamp(0, 3)
        out = levels[0].new_zeros(len(rois), C, side, side)
        for i in range(4):
            here = level == i
            if here.any():
                out[here] = roi_align(levels[i], rois[here], side, 1 / ((PATCH // 4) << i), -1, aligned=True)
        return out

    def box_head(self, x, s):
        w = self.w
        for i in range(4):
            name = f"bbox_head.{s}.shared_convs.{i}"
            x = F.relu(self.norm(conv(x, w[name + ".conv.weight"]), name + ".bn"))
        fc = w[f"bbox_head.{s}.shared_fcs.0.weight"].permute(0, 3, 1, 2).reshape(HIDDEN, -1)
        x = F.relu(F.linear(x.flatten(1), fc, w[f"bbox_head.{s}.shared_fcs.0.bias"]))
        return (F.linear(x, w[f"bbox_head.{s}.fc_cls.weight"], w[f"bbox_head.{s}.fc_cls.bias"]),
                F.linear(x, w[f"bbox_head.{s}.fc_reg.weight"], w[f"bbox_head.{s}.fc_reg.bias"]))

    def mask_head(self, x, s):
        w = self.w
        for i in range(4):
            name = f"mask_head.{s}.convs.{i}.conv"
            x = F.relu(conv(x, w[name + ".weight"], w[name + ".bias"]))
        x = F.relu(double(x, w[f"mask_head.{s}.upsample.weight"], w[f"mask_head.{s}.upsample.bias"]))
        return F.conv2d(x, w[f"mask_head.{s}.conv_logits.weight"][:, :, None, None],
                        w[f"mask_head.{s}.conv_logits.bias"])


def encode(source, to, std):
    sw, sh, tw, th = source[:, 2] - source[:, 0], source[:, 3] - source[:, 1], to[:, 2] - to[:, 0], to[:, 3] - to[:, 1]
    delta = torch.stack([((to[:, 0] + to[:, 2]) - (source[:, 0] + source[:, 2])) / 2 / sw,
                         ((to[:, 1] + to[:, 3]) - (source[:, 1] + source[:, 3])) / 2 / sh,
                         torch.log(tw / sw), torch.log(th / sh)], 1)
    return delta / torch.tensor(std)


def decode(source, delta, std, frame=None):
    delta = delta * torch.tensor(std)
    w, h = source[:, 2] - source[:, 0], source[:, 3] - source[:, 1]
    x = (source[:, 0] + source[:, 2]) / 2 + w * delta[:, 0]
    y = (source[:, 1] + source[:, 3]) / 2 + h * delta[:, 1]
    most = math.log(1000 / 16)
    w, h = w * delta[:, 2].clamp(-most, most).exp(), h * delta[:, 3].clamp(-most, most).exp()
    box = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    if frame is not None:
        box = torch.stack([box[:, 0].clamp(0, frame[1]), box[:, 1].clamp(0, frame[0]),
                           box[:, 2].clamp(0, frame[1]), box[:, 3].clamp(0, frame[0])], 1)
    return box


def overlaps(a, b):
    low, high = torch.max(a[:, None, :2], b[None, :, :2]), torch.min(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clamp(min=0).prod(2)
    area = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b)]
    return both / (area[0][:, None] + area[1][None] - both).clamp(min=1e-6)


def anchors_of(levels):
    out = []
    for i, x in enumerate(levels):
        stride = (PATCH // 4) << i
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                for ratio in (0.5, 1.0, 2.0):
                    w, h = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                    out.append((column * stride - w / 2, row * stride - h / 2, column * stride + w / 2,
                                row * stride + h / 2))
    return torch.tensor(out)


def find_proposals(objectness, shift, anchors, image):
    boxes, scores, group, at = [], [], [], 0
    for i, o in enumerate(objectness):
        n = o.shape[1]
        top = o[image].topk(min(BEFORE, n)).indices
        boxes.append(decode(anchors[at:at + n][top], shift[i][image][top], (1, 1, 1, 1), FRAMES[image]))
        scores.append(o[image][top])
        group += [i] * len(top)
        at += n
    boxes, scores, group = torch.cat(boxes), torch.cat(scores), torch.tensor(group)
    keep = nms(boxes + group[:, None] * 2000.0, scores, 0.7)[:MOST]
    return boxes[keep]


def proposal_losses(objectness, shift, anchors):
    pieces, n = [], 0
    for image in range(B):
        truth = torch.tensor(BOXES[image], dtype=torch.float64)
        inside = ((anchors[:, 0] >= 0) & (anchors[:, 1] >= 0) & (anchors[:, 2] < FRAMES[image][1])
                  & (anchors[:, 3] < FRAMES[image][0]))
        iou = overlaps(anchors, truth)
        iou[~inside] = -1
        most, which = iou.max(1)
        label = torch.full((len(anchors),), -2)
        label[(most < 0.3) & (most >= 0)] = -1
        label[most >= 0.7] = which[most >= 0.7]
        for k in range(len(truth)):
            if iou[:, k].max() >= 0.3:
                label[iou[:, k] == iou[:, k].max()] = k
        assert (label >= -1).sum() <= 1024 and (label >= 0).sum() <= 512
        o, s = torch.cat([x[image] for x in objectness]), torch.cat([x[image] for x in shift])
        positive = label >= 0
        used = label >= -1
        pieces.append((F.binary_cross_entropy_with_logits(o[used], positive[used].double(), reduction="sum"),
                       F.smooth_l1_loss(s[positive],
                                        encode(anchors[positive], truth[label[positive]], (1, 1, 1, 1)),
                                        beta=1 / 9, reduction="sum")))
        n += int(used.sum())
    return sum(p[0] for p in pieces) / n, sum(p[1] for p in pieces) / n


def ellipse(box, height, width):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cx, cy, rx, ry = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    inside = ((x + 0.5 - cx) / rx) ** 2 + ((y + 0.5 - cy) / ry) ** 2 <= 1
    return inside.double()


def train(weights, taps):
    detector = Detector(weights, True)
    levels = detector.pyramid(taps)
    objectness, shift = detector.proposal_maps(levels)
    anchors = anchors_of(levels)
    losses = list(proposal_losses(objectness, shift, anchors))
    with torch.no_grad():
        candidates = [find_proposals(objectness, shift, anchors, i) for i in range(B)]
    total = losses[0] + losses[1]
    for s in range(STAGES):
        threshold, weight = (0.5, 0.6, 0.7)[s], (1, 0.5, 0.25)[s]
        rois, label, target, owner, truth_box = [], [], [], [], []
        used = []
        for i in range(B):
            truth = torch.tensor(BOXES[i], dtype=torch.float64)
            boxes = torch.cat([truth, candidates[i]])
            most, which = overlaps(boxes, truth).max(1)
            most[:len(truth)], which[:len(truth)] = 1, torch.arange(len(truth))
            positive = most >= threshold
            assert len(boxes) <= REGIONS and positive.sum() <= REGIONS // 4, (len(boxes), positive.sum())
            order = torch.cat([positive.nonzero()[:, 0], (~positive).nonzero()[:, 0]])
            pad = order[-1:].repeat(REGIONS - len(order))
            used += [True] * len(order) + [False] * len(pad)
            order = torch.cat([order, pad])
            for n in order.tolist():
                rois.append(torch.cat([torch.tensor([float(i)]), boxes[n]]))
                label.append(LABELS[i][which[n]] if positive[n] else CLASSES)
                target.append(truth[which[n]])
                owner.append(int(which[n]))
                truth_box.append(n < len(truth))
        rois, label, target, used = torch.stack(rois), torch.tensor(label), torch.stack(target), torch.tensor(used)
        cls, reg = detector.box_head(detector.cut(levels, rois, 7), s)
        n = int(used.sum())
        loss_class = F.cross_entropy(cls[used], label[used], reduction="sum") / n
        positive = (used & (label < CLASSES)).nonzero()[:, 0]
        own = reg.reshape(-1, CLASSES, 4)[positive, label[positive]]
        found = decode(rois[positive, 1:], own, STDS[s])
        loss_box = 10 * generalized_box_iou_loss(found, target[positive], reduction="sum", eps=0) / n
        logits = detector.mask_head(detector.cut(levels, rois[positive], 14), s)
        goals = []
        for p in positive.tolist():
            i = int(rois[p, 0])
            bits = ellipse(BOXES[i][owner[p]], ROWS * PATCH, COLUMNS * PATCH)[None, None]
            box = torch.cat([torch.zeros(1), rois[p, 1:]])[None]
            goals.append((roi_align(bits, box, 28, 1.0, -1, aligned=True)[0, 0] >= 0.5).double())
        own = logits[torch.arange(len(positive)), label[positive]]
        loss_mask = F.binary_cross_entropy_with_logits(own, torch.stack(goals))
        losses += [loss_class, loss_box, loss_mask]
        total = total + weight * (loss_class + loss_box + loss_mask)
        with torch.no_grad():
            moved = torch.where(label == CLASSES, cls[:, :CLASSES].argmax(1), label)
            delta = reg.reshape(-1, CLASSES, 4)[torch.arange(len(rois)), moved]
            next_candidates = []
            for i in range(B):
                here = (rois[:, 0] == i) & used & ~torch.tensor(truth_box)
                next_candidates.append(decode(rois[here, 1:], delta[here], STDS[s], FRAMES[i]))
            candidates = next_candidates
    return losses, total


@torch.no_grad()
def find(weights, taps):
    detector = Detector(weights, False)
    levels = detector.pyramid(taps)
    objectness, shift = detector.proposal_maps(levels)
    anchors = anchors_of(levels)
    out = []
    rois = torch.cat([torch.cat([torch.full((len(p), 1), float(i)), p], 1) for i, p in enumerate(
        find_proposals(objectness, shift, anchors, i) for i in range(B))])
    sums = 0
    for s in range(STAGES):
        cls, reg = detector.box_head(detector.cut(levels, rois, 7), s)
        sums = sums + cls
        reg = reg.reshape(-1, CLASSES, 4)
        if s + 1 < STAGES:
            delta = reg[torch.arange(len(rois)), cls[:, :CLASSES].argmax(1)]
            for i in range(B):
                here = rois[:, 0] == i
                rois[here, 1:] = decode(rois[here, 1:], delta[here], STDS[s], FRAMES[i])
    scores = (sums / STAGES).softmax(1)
    for i in range(B):
        here = (rois[:, 0] == i).nonzero()[:, 0]
        boxes, share, label = [], [], []
        for c in range(CLASSES):
            sure = here[scores[here, c] > 0.05]
            boxes.append(decode(rois[sure, 1:], reg[sure, c], STDS[-1], FRAMES[i]))
            share.append(scores[sure, c])
            label += [c] * len(sure)
        boxes, share, label = torch.cat(boxes), torch.cat(share), torch.tensor(label)
        keep = nms(boxes + label[:, None] * 2000.0, share, 0.5)[:DETECTIONS]
        found = torch.cat([torch.full((len(keep), 1), float(i)), boxes[keep]], 1)
        masks = sum(detector.mask_head(detector.cut(levels, found, 14), s).sigmoid() for s in range(STAGES)) / STAGES
        for n, k in enumerate(keep.tolist()):
            mask = masks[n, label[k]].flatten()
            out.append([i, int(label[k]), float(share[k])] + boxes[k].tolist() + project(mask))
    return out


def project(x):
    x = x.detach().double().flatten()
    k = torch.arange(len(x), dtype=torch.float64)
    return [float((x * torch.cos(0.3 * k)).sum()), float(x.abs().sum())]


def show(name, values):
    print(f"\nstatic const double {name}[] = {{")
    for i in range(0, len(values), 4):
        print("    " + " ".join(f"{v:.9g}," for v in values[i:i + 4]))
    print("};")


def main():
    weights = make_weights()
    n = B * ROWS * COLUMNS * D
    taps = wave(500, 4 * n).float().double().reshape(4, n).requires_grad_()
    losses, total = train(weights, taps)
    total.backward()
    gradients = []
    for name, _ in names():
        if weights[name].requires_grad:
            gradients += project(weights[name].grad)
    for i in range(4):
        gradients += project(taps.grad[i])
    found = find(weights, taps)
    print("/* What PyTorch and torchvision make of the detector of detector_torch_test.c: its losses (of the proposals'\n"
          " * classes and boxes, then class, box and mask of each stage); of the gradient of each parameter that is trained,\n"
          " * and of each tap, the sum over elements k times cos 0.3 k, and of the magnitudes; of each detection the picture,\n"
          " * class, score, edges, and the same two sums of its mask. Written by scripts/check_torch_detect.py. */\n"
          "#ifndef IBOT_TESTS_TRAINER_DETECTOR_VALUES_H\n#define IBOT_TESTS_TRAINER_DETECTOR_VALUES_H")
    show("torch_losses", [float(x.detach()) for x in losses + [total]])
    show("torch_gradients", gradients)
    show("torch_found", [v for f in found for v in f])
    print("\n#endif")
    print(len(found), "detections, total", float(total.detach()), file=sys.stderr)


main()
