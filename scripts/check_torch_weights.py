#!/usr/bin/env python3
"""Holds our weight files against PyTorch, and against timm's models when timm is there.

  scripts/check_torch_weights.py BIN DATA

BIN: the folder of the programs. DATA: tests/data. Every file that ibot-convert writes is opened by
torch.load(weights_only=True), and every tensor compared with its source; what torch.save writes is
read, named and evaluated by us, and features are compared with timm's. Exit status 77: no PyTorch.
"""
import glob
import os
import subprocess
import sys
import tempfile

try:
    import numpy
    import torch
    import torch_safetensors
except ImportError as error:
    print(f"skipped: {error}: scripts/setup_torch.sh installs PyTorch", file=sys.stderr)
    sys.exit(77)
try:
    import timm
except ImportError:
    timm = None

BIN = DATA = WORK = ""


def run(program, *words):
    command = [os.path.join(BIN, program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"FAIL: {' '.join(command)}: {done.stderr}")
    return done.stdout


def path(name):
    return os.path.join(WORK, name)


def safetensors(name):
    return torch_safetensors.read(name)[0]


def load(name, **options):
    return torch.load(name, weights_only=True, **options)


def check(condition, what):
    if not condition:
        raise SystemExit(f"FAIL: {what}")


def same(got, wanted, what):
    check(list(got) and set(got) == set(wanted), f"{what}: other names: {set(got) ^ set(wanted)}")
    for name, tensor in wanted.items():
        check(got[name].dtype == tensor.dtype and got[name].shape == tensor.shape and
              torch.equal(got[name], tensor), f"{what}: {name} differs")


def strip(state):
    """The backbone of a network's state, as the original's extractor names it."""
    names = {n.removeprefix("module."): v for n, v in state.items()}
    return {n.removeprefix("backbone."): v for n, v in names.items() if n.startswith("backbone.")}


def check_official():
    source = torch.load(f"{DATA}/golden/official_checkpoint.pth", weights_only=False)
    for key in ("teacher", "student"):
        run("ibot-convert", f"{DATA}/golden/official_checkpoint.pth", path("b.pth"), "--key", key)
        run("ibot-convert", f"{DATA}/golden/official_checkpoint.pth", path("b.safetensors"), "--key", key)
        same(load(path("b.pth"))["state_dict"], strip(source[key]), f"backbone of {key}")
        same(load(path("b.pth"), mmap=True)["state_dict"], strip(source[key]), f"{key}, mapped")
        same(safetensors(path("b.safetensors")), strip(source[key]), f"safetensors of {key}")
    run("ibot-convert", f"{DATA}/golden/official_checkpoint.pth", path("h.pth"), "--with_head")
    wanted = strip(source["teacher"])
    wanted.update({n: v for n, v in source["teacher"].items() if n.startswith("head.")})
    same(load(path("h.pth"))["state_dict"], wanted, "teacher with its head")
    wanted = load(f"{DATA}/golden/official_checkpoint_backbone.pth")
    for name in ("backbone", "backbone_legacy"):
        run("ibot-convert", f"{DATA}/golden/official_checkpoint_{name}.pth", path("c.pth"))
        same(load(path("c.pth"))["state_dict"], wanted, name)


def check_types():
    wanted = load(f"{DATA}/weights/kinds.pth")
    for name in ("kinds", "kinds_legacy", "kinds_protocol4"):
        run("ibot-convert", f"{DATA}/weights/{name}.pth", path("k.pth"))
        run("ibot-convert", f"{DATA}/weights/{name}.pth", path("k.safetensors"))
        same(load(path("k.pth"))["state_dict"], wanted, name)
        same(safetensors(path("k.safetensors")), wanted, f"{name} as safetensors")


def images():
    folder = path("images")
    if not os.path.isdir(folder):
        os.makedirs(folder)
        subprocess.run(["tar", "--zstd", "-xf", f"{DATA}/cifar10_subset.tar.zst", "-C", folder], check=True)
        for kind in sorted(os.listdir(f"{folder}/test"))[:3]:
            os.makedirs(f"{folder}/few/{kind}")
            for file in sorted(glob.glob(f"{folder}/test/{kind}/*.jpg"))[:4]:
                os.link(file, f"{folder}/few/{kind}/{os.path.basename(file)}")
    return f"{folder}/few"


def check_run():
    """A run of ours as a whole checkpoint of the original, which PyTorch's optimizer goes on from."""
    run("ibot-train", "--arch", "vit_test", "--embed_dim", 32, "--depth", 2, "--num_heads", 2,
        "--patch_size", 8, "--out_dim", 64, "--head_hidden_dim", 32, "--bottleneck_dim", 16,
        "--global_crop_size", 32, "--local_crop_size", 16, "--local_crops_number", 2,
        "--batch_size_per_gpu", 6, "--epochs", 2, "--warmup_epochs", 1,
        "--warmup_teacher_temp_epochs", 0, "--threads", 1, "--data", images(), "-o", path("run"))
    run("ibot-convert", path("run"), path("full.pth"), "--to", "official")
    full = load(path("full.pth"))
    check(set(full) == {"student", "teacher", "optimizer", "epoch", "args", "ibot_loss"}, list(full))
    check(full["epoch"] == 2 and full["args"]["out_dim"] == 64, "epoch or arguments")
    newest = sorted(glob.glob(path("run/checkpoints/step_*")))[-1]
    ours = safetensors(f"{newest}/model.safetensors")
    for key, prefix in (("student", "module."), ("teacher", "")):
        for name, value in full[key].items():
            name = name.removeprefix(prefix).replace("last_layer2", "last_layer")
            check(torch.equal(value, ours[f"{key}.{name}"]), f"{key}: {name}")
    student = full["student"]
    check(student["module.head.last_layer2.weight_v"].data_ptr() ==
          student["module.head.last_layer.weight_v"].data_ptr(), "the shared layer is there twice")
    names = [n for n in student if "last_layer2" not in n]
    groups = [[n for n in names if not (n.endswith(".bias") or student[n].dim() == 1)],
              [n for n in names if n.endswith(".bias") or student[n].dim() == 1]]
    parameters = {n: torch.nn.Parameter(student[n].clone()) for n in names}
    optimizer = torch.optim.AdamW([{"params": [parameters[n] for n in g]} for g in groups])
    optimizer.load_state_dict(full["optimizer"])
    steps = int(newest.rsplit("_", 1)[1])
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        name = name.removeprefix("module.")
        check(torch.equal(state["exp_avg"], ours[f"moment1.{name}"]), f"exp_avg of {name}")
        check(torch.equal(state["exp_avg_sq"], ours[f"moment2.{name}"]), f"exp_avg_sq of {name}")
        frozen = steps // 2 if "last_layer" in name else 0
        check(state["step"].item() == steps - frozen, f"step of {name}: {state['step']}")
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def timm_model(name):
    torch.manual_seed(1)
    model = timm.create_model(name, pretrained=False, num_classes=10).eval()
    with torch.no_grad():
        for value in model.parameters():  # so that every term matters
            value.add_(0.02 * torch.randn_like(value))
    return model


def layouts(model):
    """The same weights as others have them in their files: name, object, key, kind of file."""
    state = model.state_dict()
    backbone = {n: v for n, v in state.items() if not n.startswith("head.")}
    return [
        ("deit.pth", {"model": state}, True),
        ("flat.pth", dict(state), True),
        ("old.pth", dict(backbone), False),
        ("parameters.pth", {"state_dict": {n: torch.nn.Parameter(v) if v.is_floating_point() else v
                                           for n, v in backbone.items()}}, True),
        ("dino.pth", {"student": {"module.backbone." + n: v for n, v in backbone.items()},
                      "teacher": {"backbone." + n: v for n, v in backbone.items()},
                      "epoch": 5}, True),
    ]


def features(model, folder):
    from PIL import Image
    rows = []
    for file in sorted(glob.glob(f"{folder}/*/*.jpg")):
        image = Image.open(file).convert("RGB").resize((256, 256), Image.BICUBIC).crop((16, 16, 240, 240))
        pixels = torch.from_numpy(numpy.array(image)).permute(2, 0, 1).float() / 255
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        with torch.no_grad():
            out = model.forward_features(((pixels - mean) / std)[None])
        out = out[0, 0] if out.dim() == 3 else out.mean(dim=(1, 2))[0]
        rows.append(out / out.norm())
    return torch.stack(rows)


def check_timm(name, files):
    model = timm_model(name)
    bare = timm.create_model(name, pretrained=False, num_classes=0)
    wanted = features(model, images())
    for file, value, new in layouts(model):
        if file not in files:
            continue
        torch.save(value, path(file), _use_new_zipfile_serialization=new)
        for out in ("timm.pth", "timm.safetensors"):
            run("ibot-convert", path(file), path(out), "--to", "timm")
            state = load(path(out)) if out.endswith(".pth") else safetensors(path(out))
            bare.load_state_dict(state, strict=True)
            for key, tensor in bare.state_dict().items():
                check(torch.equal(tensor, model.state_dict()[key]), f"{name} by way of {file}: {key}")
    for file in ("deit.pth", "dino.pth"):
        run("ibot-eval", "knn", "--checkpoint", path(file), "--train", images(), "--test", images(),
            "--nb_knn", 1, "--dump_features", path("features"))
        got = safetensors(path("features/train.safetensors"))["values"]
        worst = (got - wanted).abs().max().item() / wanted.abs().max().item()
        check(worst < 1e-4, f"{name} from {file}: features differ by {worst:.2e}")
    print(f"{name}: {len(files)} files of others are read, timm loads ours, features within {worst:.1e}")


def main():
    global BIN, DATA, WORK
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    BIN, DATA = sys.argv[1:]
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(prefix="ibot-torch-") as WORK:
        check_official()
        check_types()
        check_run()
        print(f"PyTorch {torch.__version__} opens what we write, tensor by tensor")
        if timm is None:
            print("timm is not installed: its models were not compared")
        else:
            check_timm("vit_tiny_patch16_224",
                       ["deit.pth", "flat.pth", "old.pth", "parameters.pth", "dino.pth"])
            check_timm("swin_tiny_patch4_window7_224", ["deit.pth", "dino.pth"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
