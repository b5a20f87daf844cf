#!/usr/bin/env python3
"""Holds the PyTorch steps that ours is compared with against stored steps of the original.

  scripts/check_torch_step.py DATA

DATA: tests/data. torch_official.py and torch_tuned.py replay the training steps of the golden files
in float32, which our own step does in trainer.golden.*: losses, gradients, centres, weights and the
teacher after the last step are compared; in 16 bits, losses within 1 %. Then the two are compared with each other on random data,
with stochastic depth, crops without masks, and each way that the tuned one can be put together. So
all three compute the same function. Exit status 77: no PyTorch.
"""
import json
import os
import subprocess
import sys
from types import SimpleNamespace

try:
    import torch
    import torch_official as official
    import torch_safetensors
    import torch_tuned as tuned
except ImportError as error:
    print(f"skipped: {error}: scripts/setup_torch.sh installs PyTorch", file=sys.stderr)
    sys.exit(77)

TOLERANCE, DIRECTIONS = 1e-5, 1e-4  # of a tensor's greatest magnitude; as in the golden tests
HALF_TOLERANCE = 0.01               # of a loss, with 16-bit products


def numbers(text):
    values = tuple(int(n) for n in text.split(","))
    return values if len(values) > 1 else values[0]


class Worst:
    """The greatest error of each kind of value."""

    def __init__(self, title):
        self.title, self.kinds = title, {}

    def compare(self, kind, name, got, wanted, trained=False):
        """trained: without what has no gradient but rounding (the key third of a qkv bias)."""
        limit = DIRECTIONS if trained and "weight_v" in name else TOLERANCE
        got, wanted = got.detach().double().flatten(), wanted.detach().double().flatten()
        if trained and name.endswith("qkv.bias"):
            third = len(got) // 3
            got, wanted = (torch.cat([x[:third], x[2 * third:]]) for x in (got, wanted))
        error = ((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)).item()
        n, worst, where = self.kinds.get(kind, (0, -1.0, ""))
        share = error / limit if error == error else float("inf")
        self.kinds[kind] = (n + 1, max(worst, share), name if share > worst else where)

    def report(self):
        line = [f"{kind}: {n} values, {worst * TOLERANCE:.1e}" for kind, (n, worst, _) in self.kinds.items()]
        print(f"{self.title}: " + "; ".join(line))
        for kind, (_, worst, name) in self.kinds.items():
            if not worst <= 1.0:
                raise SystemExit(f"FAIL: {self.title}: {kind}: {name}: {worst:.2f} of what is allowed")


# ------------------------------------------------------------------------------ golden steps


def golden_options(meta, tensors):
    swin = meta["kind"] == "swin"
    side = int(meta["global_size"])
    if not swin:
        places = tensors["init/student/backbone.pos_embed"].shape[1] - 1
        side = round(places**0.5) * int(meta["patch_size"])
    return official.Options(
        width=int(meta["embed_dim"]), depth=numbers(meta["depth"]), heads=numbers(meta["heads"]),
        patch_size=int(meta["patch_size"]), window_size=int(meta["window"]), image_size=side,
        drop_path=float(meta["drop_path"]), hidden_dim=int(meta["head_hidden"]),
        bottleneck_dim=int(meta["bottleneck"]), out_dim=int(meta["out_dim"]),
        n_global=int(meta["global_crops"]), n_local=int(meta["local_crops"]),
        student_temp=float(meta["student_temp"]), centre_momentum=float(meta["center_momentum"]),
        clip_grad=float(meta["clip_grad"]), lambda1=float(meta["lambda1"]),
        lambda2=float(meta["lambda2"]))


def load(step, tensors):
    for kind, network in (("student", step.student), ("teacher", step.teacher)):
        for name, parameter in network.named_parameters():
            parameter.data.copy_(tensors[f"init/{kind}/{name}"])
    if getattr(step, "copies", []):
        for name, master in zip(step.names, step.masters):
            master.copy_(tensors["init/student/" + name])
        for name, master in step.teacher_masters.items():
            master.copy_(tensors["init/teacher/" + name])


def step_options(o, tensors, meta, k):
    epoch = k // int(meta["niter_per_epoch"])
    schedule = {name: tensors[f"schedule/{name}"] for name in
                ("lr", "weight_decay", "momentum", "teacher_temp", "teacher_patch_temp")}
    o.lr, o.weight_decay = schedule["lr"][k].item(), schedule["weight_decay"][k].item()
    o.teacher_momentum = schedule["momentum"][k].item()
    o.teacher_temp = schedule["teacher_temp"][epoch].item()
    o.teacher_patch_temp = schedule["teacher_patch_temp"][epoch].item()
    o.freeze_last_layer = epoch < int(meta["freeze_last_layer"])


def golden_batch(tensors, o, k):
    return SimpleNamespace(
        globals_=[tensors[f"step{k}/global{i}"] for i in range(o.n_global)],
        locals_=[tensors[f"step{k}/local{i}"] for i in range(o.n_local)],
        masks=[tensors[f"step{k}/mask{i}"].bool() for i in range(o.n_global)])


def forward_backward(step, batch):
    """Losses (cls, patch) with gradients in place."""
    if isinstance(step, official.OfficialStep):
        cls, patch, _ = step.forward(batch)
        step.backward(cls + patch)
        return cls, patch
    step.prepare(batch)
    step.zero()
    cls, patch, means, _ = step.run(step.crops, step.scales(), step.tables, step.centre,
                                    step.centre_patch)
    (cls + patch).backward()
    with torch.no_grad():
        step.move_centres(means)
    return cls, patch


def update(step):
    if isinstance(step, official.OfficialStep):
        return step.update()
    for i, group in enumerate(step.optimizer.param_groups):
        group["lr"] = step.options.lr
        group["weight_decay"] = step.options.weight_decay if i == 0 else 0.0
    with torch.no_grad():
        return step.update()


def check_golden(path, title, make):
    tensors, meta = torch_safetensors.read(path)
    o = golden_options(meta, tensors)
    step, worst = make(o), Worst(title)
    load(step, tensors)
    n_steps = int(meta["epochs"]) * int(meta["niter_per_epoch"])
    for k in range(n_steps):
        step_options(o, tensors, meta, k)
        cls, patch = forward_backward(step, golden_batch(tensors, o, k))
        worst.compare("losses", f"step {k} cls", cls, tensors[f"step{k}/loss_cls"])
        worst.compare("losses", f"step {k} patch", patch, tensors[f"step{k}/loss_patch"])
        if k == 0:
            for name, parameter in step.student.named_parameters():
                worst.compare("gradients", name, parameter.grad, tensors[f"step0/grad/{name}"])
        update(step)
        worst.compare("centres", f"step {k} cls", step.centre, tensors[f"step{k}/center_cls"])
        worst.compare("centres", f"step {k} patch", step.centre_patch, tensors[f"step{k}/center_patch"])
    for kind, network in (("student", step.student), ("teacher", step.teacher)):
        for name, parameter in network.named_parameters():
            worst.compare(kind, name, parameter, tensors[f"final/{kind}/{name}"], True)
    worst.report()


def check_half(path):
    """The losses of a few steps with products of 16 bits, of each kind."""
    def official_in(precision):
        def make(o):
            step = official.OfficialStep(o, "cpu", precision)
            if step.scaler is not None:  # the first scale is too large: its steps would be left out
                step.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
            return step
        return make

    kinds = {"official, fp16": official_in("fp16"), "official, bf16": official_in("bf16")}
    for name, settings in (("autocast", {}), ("masters", {}), ("autocast", {"stream": "bf16", "packed": True})):
        title = ", ".join(["tuned", name, *(f"{key} {value}" for key, value in settings.items())])
        kinds[title] = lambda o, name=name, settings=settings: tuned.TunedStep(o, "cpu", name, **settings)
    tensors, meta = torch_safetensors.read(path)
    for title, make in kinds.items():
        o, worst = golden_options(meta, tensors), 0.0
        step = make(o)
        load(step, tensors)
        for k in range(int(meta["epochs"]) * int(meta["niter_per_epoch"])):
            step_options(o, tensors, meta, k)
            for name, loss in zip(("cls", "patch"), forward_backward(step, golden_batch(tensors, o, k))):
                wanted = tensors[f"step{k}/loss_{name}"].item()
                worst = max(worst, abs(loss.item() - wanted) / wanted)
            update(step)
        print(f"{title}: losses within {worst:.1e}")
        if not worst <= HALF_TOLERANCE:
            raise SystemExit(f"FAIL: {title}: a loss differs by {worst:.1e}, allowed {HALF_TOLERANCE}")


# ------------------------------------------------------------------------------ each other


def random_batch(o, b, masked):
    side = o.image_size // o.cell
    masks = [torch.zeros(b, side, side, dtype=torch.bool) for _ in range(o.n_global)]
    if masked:
        masks[0] = torch.rand(b, side, side) < 0.4
    return SimpleNamespace(
        globals_=[torch.randn(b, 3, o.image_size, o.image_size) for _ in range(o.n_global)],
        locals_=[torch.randn(b, 3, o.image_size // 2, o.image_size // 2) for _ in range(o.n_local)],
        masks=masks)


def give_keep_vectors(first, second, o, b):
    """The same stochastic depth for both."""
    n_global, n = o.n_global * b, (o.n_global + o.n_local) * b
    blocks = [m for m in first.student.backbone.modules() if isinstance(m, official.Block)]
    drawn = (torch.rand(2 * len(blocks), n) < 0.5).float()
    drawn[0:2] = 1.0  # the first block has no rate
    second.given = drawn
    for i, block in enumerate(blocks):
        rows = [drawn[2 * i], drawn[2 * i + 1]]
        block.given = iter([r[:n_global] for r in rows] + [r[n_global:] for r in rows])


def check_each_other(title, o, n_steps=3, **settings):
    torch.manual_seed(1)
    first = official.OfficialStep(o, "cpu", "f32")
    second, worst = tuned.TunedStep(o, "cpu", "f32", **settings), Worst(title)
    for mine, theirs in ((first.student, second.student), (first.teacher, second.teacher)):
        for parameter in mine.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        theirs.load_state_dict(mine.state_dict())
    for k in range(n_steps):
        o.lr = 0.001 * k  # Adam's first step takes signs of what may be rounding
        batch = random_batch(o, 3, k != 1)
        give_keep_vectors(first, second, o, 3)
        losses = [forward_backward(step, batch) for step in (first, second)]
        for name, mine, theirs in zip(("cls", "patch"), *losses):
            worst.compare("losses", f"step {k} {name}", theirs, mine)
        if k == 0:
            own = dict(first.student.named_parameters())
            for name, parameter in second.student.named_parameters():
                worst.compare("gradients", name, parameter.grad, own[name].grad)
        update(first)
        update(second)
        worst.compare("centres", f"step {k}", second.centre, first.centre)
        worst.compare("centres", f"step {k} patch", second.centre_patch, first.centre_patch)
    for kind in ("student", "teacher"):
        own = dict(getattr(first, kind).named_parameters())
        for name, parameter in getattr(second, kind).named_parameters():
            worst.compare(kind, name, parameter, own[name], True)
    worst.report()


# ------------------------------------------------------------------------------ the benchmark


def check_benchmark():
    """What bench_torch_step.py prints, at a toy size."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bench_torch_step.py")
    toy = """--device cpu --arch vit_test --patch_size 8 --global_size 32 --local_size 16 --out_dim 64
        --local_crops_number 2 --batch_size_per_gpu 2 --steps 2 --warmup 1 --threads 1 --json"""
    for mode, more in (("official", ["--best_batch", "--max_seconds", "0"]), ("tuned", [])):
        done = subprocess.run([sys.executable, script, "--mode", mode, *toy.split(), *more],
                              stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"FAIL: bench_torch_step.py --mode {mode}: exit status {done.returncode}")
        result = json.loads(done.stdout)
        fine = [run for run in result["runs"] if "error" not in run]
        rates = [run["images_per_second"] for run in fine]
        if len(fine) != (1 if mode == "official" else 2) or result["images_per_second"] != max(rates) or \
                any(abs(run["images_per_second"] * run["seconds_per_step"] - 2) > 1e-6 for run in fine):
            raise SystemExit(f"FAIL: bench_torch_step.py --mode {mode}: {done.stdout}")
        print(f"bench_torch_step.py --mode {mode}: {len(fine)} measurements")


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    data = sys.argv[1]
    torch.set_num_threads(1)  # the networks are small
    plain = {"official": lambda o: official.OfficialStep(o, "cpu", "f32"),
             "tuned": lambda o: tuned.TunedStep(o, "cpu", "f32")}
    for file in ("vit_shared", "swin"):
        for name, make in plain.items():
            check_golden(f"{data}/golden/{file}.safetensors", f"{file}, {name}", make)
    check_half(f"{data}/golden/vit_shared.safetensors")
    vit = dict(width=32, depth=3, heads=2, patch_size=8, image_size=32, drop_path=0.5, hidden_dim=48,
               bottleneck_dim=16, out_dim=64, n_local=3, clip_grad=0.3)
    check_each_other("packed", official.Options(**vit), packed=True)
    check_each_other("two passes", official.Options(**vit))
    check_each_other("every row", official.Options(**vit), last_rows=False)
    check_each_other("no local crops", official.Options(**{**vit, "n_local": 0}))
    swin = {**vit, "width": 16, "depth": (2, 2), "heads": (1, 2), "patch_size": 4, "window_size": 3}
    check_each_other("swin", official.Options(**swin))
    check_benchmark()
    return 0


if __name__ == "__main__":
    sys.exit(main())
