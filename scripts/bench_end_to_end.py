#!/usr/bin/env python3
"""How much of the step's speed a whole run keeps: ibot-train fed by a replayed recording, and by
loaders on this machine, against step_bench with the same network and batch.

  scripts/bench_end_to_end.py --backend cuda --batch_size_per_gpu 256 --data IMAGES --json
  scripts/bench_end_to_end.py --steps 200 --batch_size_per_gpu 4 --tiny       anywhere, in seconds

Rates and waits are the differences of ibot-train's own counters (--metrics) between a first and a
last look, both after --warmup steps. IMAGES is a folder of images, of which as many links are made
as the steps need, so that the run stays within one epoch; without it noise is made.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

TINY = ["arch=vit_test", "patch_size=8", "global_size=32", "local_size=16", "local_crops_number=2",
        "out_dim=64", "head_hidden_dim=32", "bottleneck_dim=16"]
TRAINER_NAMES = {"global_size": "global_crop_size", "local_size": "local_crop_size"}
IMAGE_ENDS = (".jpg", ".jpeg", ".png", ".webp", ".ppm", ".tif", ".tiff", ".bmp")


def program(args, name):
    suffix = {"step_bench": "_emulated", "ibot-train": "-emulated"}.get(name, "")
    path = os.path.join(args.bin, name + (suffix if args.backend == "cuda_emulated" else ""))
    if not os.access(path, os.X_OK):
        raise SystemExit(f"bench_end_to_end: {path} is missing: build it, or say where with --bin")
    return path


# ------------------------------------------------------------------------------ data


def make_noise(folder, n, size):
    for i in range(n):
        with open(os.path.join(folder, f"noise{i:04}.ppm"), "wb") as file:
            file.write(b"P6\n%d %d\n255\n" % (size, size) + os.urandom(3 * size * size))


def make_data(args, work):
    """A class folder with enough links for one epoch of all steps."""
    source, target = args.data, os.path.join(work, "data", "images")
    if source is None:
        source = os.path.join(work, "noise")
        os.makedirs(source)
        make_noise(source, 16 if args.tiny else 64, 48 if args.tiny else 320)
    files = sorted(os.path.join(at, name) for at, _, names in os.walk(source) for name in names
                   if name.lower().endswith(IMAGE_ENDS))
    if not files:
        raise SystemExit(f"bench_end_to_end: --data {source}: no images in it")
    os.makedirs(target)
    for i in range((args.steps + args.warmup + 8) * args.batch_size_per_gpu):
        path = files[i % len(files)]
        os.symlink(os.path.abspath(path), os.path.join(target, f"{i:08}{os.path.splitext(path)[1]}"))
    return os.path.dirname(target)


# ------------------------------------------------------------------------------ measurements


def step_only(args):
    command = [program(args, "step_bench"), "--backend", args.backend, "--json", "--upload",
               "--matmul_cache", args.matmul_cache,
               "--profile", "0", "--ceilings", "off", "--steps", str(args.step_steps),
               "--batch_size_per_gpu", str(args.batch_size_per_gpu), "--threads", str(args.threads)]
    for name, value in args.network.items():
        command += [f"--{name}", value]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"bench_end_to_end: step_bench ended with {done.returncode}")
    result = json.loads(done.stdout)
    return {key: result[key] for key in ("device", "images_per_second", "seconds_per_step",
                                         "seconds_per_step_quartiles", "peak_memory_mib")}


def trainer_command(args, work, name, more):
    command = [program(args, "ibot-train"), "--backend", args.backend.replace("_emulated", ""),
               "--batch_size_per_gpu", str(args.batch_size_per_gpu), "--threads", str(args.threads),
               "--matmul_cache", args.matmul_cache, "--pred_ratio", "0", "0.3", "--pred_ratio_var", "0", "0.2", "--metrics", "127.0.0.1:0",
               "--output_dir", os.path.join(work, name)]
    for option, value in args.network.items():
        command += [f"--{TRAINER_NAMES.get(option, option)}", value]
    return command + more


def scrape(address):
    """The counters without labels; none once the trainer has ended."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=2) as reply:
            text = reply.read().decode()
    except OSError:
        return {}
    return {m.group(1): float(m.group(2)) for m in re.finditer(r"^(\w+) (\S+)$", text, re.M)}


def follow(args, work, name, more):
    """Runs a trainer to its end; its counters at the first and the last look after the warm-up."""
    log_path = os.path.join(work, name + ".log")
    looks, address = [], None
    deadline = time.monotonic() + args.max_seconds
    with open(log_path, "wb") as log:
        child = subprocess.Popen(trainer_command(args, work, name, more), stdout=log, stderr=log,
                                 env={**os.environ, "IBOT_LOG_LEVEL": "info"})
        try:
            while child.poll() is None and time.monotonic() < deadline:
                if address is None:
                    with open(log_path, encoding="utf-8", errors="replace") as file:
                        found = re.search(r"metrics at http://(\S+?)/metrics", file.read())
                    address = found.group(1) if found else None
                else:
                    values, now = scrape(address), time.monotonic()
                    steps = values.get("ibot_train_steps_total", 0.0)
                    if steps >= args.warmup and (not looks or steps > looks[-1][1]["ibot_train_steps_total"]):
                        looks.append((now, values))
                time.sleep(0.02)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    with open(log_path, encoding="utf-8", errors="replace") as file:
        last = (file.read().strip().splitlines() or ["no output"])[-1]
    return child.returncode, looks, last


def rates(status, looks, last):
    if status not in (0, 75):
        return {"error": f"exit status {status}: {last}"}
    if len(looks) < 2:
        return {"error": "too few steps to time: more --steps"}
    (t0, a), (t1, b) = looks[0], looks[-1]
    steps, images, seconds, waited, waiting = (
        b[f"ibot_train_{name}"] - a[f"ibot_train_{name}"] for name in
        ("steps_total", "images_total", "step_seconds_sum", "wait_seconds_sum", "waiting_steps_total"))
    return {"steps": int(steps), "images_per_second": images / (t1 - t0),
            "share_of_steps_that_waited": waiting / steps, "share_of_time_waiting": waited / seconds}


def with_loaders(args, work, data):
    return rates(*follow(args, work, "loaders", [
        "--data", data, "--loaders", str(args.loaders), "--loader_threads", str(args.loader_threads),
        "--stop_at_step", str(args.steps + args.warmup)]))


def replayed(args, work, data):
    """Records a few steps with loaders, then trains on them round and round."""
    recording, endpoint = os.path.join(work, "recording"), "ipc://" + os.path.join(work, "stream")
    status, _, last = follow(args, work, "recorded", [
        "--data", data, "--loaders", str(args.loaders), "--loader_threads", str(args.loader_threads),
        "--record", recording, "--stop_at_step", str(args.recorded)])
    if status not in (0, 75):
        return {"error": f"recording: exit status {status}: {last}"}
    with open(os.path.join(work, "replay.log"), "wb") as log:
        server = subprocess.Popen([program(args, "ibot-stream"), "replay", recording, "--connect",
                                   endpoint, "--loop"], stdout=log, stderr=log)
        try:
            return rates(*follow(args, work, "replayed", [
                "--loaders", "0", "--listen", endpoint, "--stop_at_step",
                str(args.steps + args.warmup)]))
        finally:
            server.terminate()
            server.wait()


# ------------------------------------------------------------------------------ all of it


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    add = parser.add_argument
    add("--bin", default=os.path.join(here, "build", "bin"), help="folder of the programs")
    add("--backend", default="cpu", choices=("cpu", "cuda", "cuda_emulated"))
    add("--threads", type=int, default=0, help="of the CPU backend; 0: one per core")
    add("--data", help="folder of images; noise without it")
    add("--loaders", type=int, default=1)
    add("--loader_threads", type=int, default=0, help="0: as ibot-train does by itself")
    add("--batch_size_per_gpu", type=int, default=64)
    add("--steps", type=int, default=60)
    add("--warmup", type=int, default=10)
    add("--step_steps", type=int, default=50, help="timed steps of step_bench")
    add("--recorded", type=int, default=4, help="steps that are recorded and replayed")
    add("--matmul_cache", help="measured algorithms of products, the same for all; else a file of this run")
    add("--max_seconds", type=float, default=150, help="of each run of the trainer")
    add("--tiny", action="store_true", help="a small network on small crops")
    for name in ("arch", "patch_size", "window_size", "out_dim", "global_size", "local_size",
                 "local_crops_number", "drop_path", "head_hidden_dim", "bottleneck_dim"):
        add(f"--{name}", help=argparse.SUPPRESS if name != "arch" else "as of ibot-train, and other "
            "options of the network")
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    args.network = dict(word.split("=") for word in TINY) if args.tiny else {
        "arch": "vit_small", "local_crops_number": "10"}
    args.network.update({name: value for name, value in vars(args).items()
                         if name in ("arch", "patch_size", "window_size", "out_dim", "global_size",
                                     "local_size", "local_crops_number", "drop_path",
                                     "head_hidden_dim", "bottleneck_dim") and value is not None})
    return args


def main():
    args = parse()
    work = tempfile.mkdtemp(prefix="ibot-end-to-end-")
    args.matmul_cache = args.matmul_cache or os.path.join(work, "matrix_products")
    try:
        data = make_data(args, work)
        result = {"what": "end_to_end", "backend": args.backend, "network": args.network,
                  "batch_size_per_gpu": args.batch_size_per_gpu, "loaders": args.loaders,
                  "loader_threads": args.loader_threads, "data": args.data or "noise",
                  "step_only": step_only(args), "replayed": replayed(args, work, data),
                  "with_loaders": with_loaders(args, work, data)}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    best = result["step_only"]["images_per_second"]
    for name in ("replayed", "with_loaders"):
        if "error" not in result[name]:
            result[name]["share_of_step_only"] = result[name]["images_per_second"] / best
    if args.json:
        print(json.dumps(result))
    else:
        print(f"step only     {best:10.1f} images/s")
        for name in ("replayed", "with_loaders"):
            r = result[name]
            print(f"{name:13} {r['error']}" if "error" in r else
                  f"{name:13} {r['images_per_second']:10.1f} images/s, "
                  f"{100 * r['share_of_step_only']:.1f} % of step only; "
                  f"{100 * r['share_of_steps_that_waited']:.1f} % of {r['steps']} steps waited for "
                  f"data, {100 * r['share_of_time_waiting']:.1f} % of the time")
    return 1 if any("error" in result[name] for name in ("replayed", "with_loaders")) else 0


if __name__ == "__main__":
    sys.exit(main())
