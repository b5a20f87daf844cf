"""The parts of the check that measure: step_bench, ops_bench, the same step in PyTorch, and a whole
run on a stream. The programs print JSON objects, one a line; whatever they print is kept under the
name of its measurement."""
import json
import os
import re
import shutil
import tempfile
import time
import urllib.request

from parts import not_run, verdict


def objects_in(text):
    """The JSON objects among the lines of a program's output."""
    found = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                pass
    return found


def number(value):
    return "%.4g" % value if isinstance(value, float) else str(value)


def measure(check, plan, seconds):
    """Runs [(name, argv)] in order, each at most `seconds`; those that no longer fit are not run."""
    results = {}
    for name, argv in plan:
        if not check.chooses(name):
            continue
        if check.commands.left() < check.least_seconds:
            results[name] = not_run("time")
            continue
        done = check.commands.run(argv, seconds)
        results[name] = verdict(done.code != 0, seconds=round(done.seconds, 1),
                                results=objects_in(done.output))
        if done.code != 0:
            results[name]["reason"] = done.reason()
            check.say("  %s: %s" % (name, done.reason()))
        elif not results[name]["results"]:
            results[name].update(status="failed", reason="it printed no JSON object")
            check.say("  %s: no JSON object" % name)
        for entry in results[name]["results"]:
            shown = ["%s %s" % (key, number(entry[key])) for key in (
                "mode", "precision", "batch_size_per_gpu", "images_per_second", "seconds_per_step",
                "peak_memory_bytes", "peak_memory_mib") if key in entry]
            if shown:
                check.say("  %s: %s" % (name, ", ".join(shown)))
    if not results:
        return not_run("nothing chosen")
    bad = [name for name, result in results.items() if result["status"] == "failed"]
    if not bad and all(result["status"] == "not run" for result in results.values()):
        return not_run("time", measurements=results)
    out = verdict(bad, measurements=results)
    if bad:
        out["reason"] = ", ".join(bad)
    return out


# ------------------------------------------------------------------------------ step, ops, torch

# In order of importance: architecture, images of a step.
STEPS = [("vit_small", 256), ("vit_base", 128), ("swin_tiny", 128), ("vit_large", 64),
         ("vit_small", 64), ("vit_base", 256), ("vit_small", 512)]


def step(check):
    program = check.program("step_bench")
    if program is None:
        return not_run("step_bench is not in this build")
    options = ["--backend", check.backend, "--json"]
    if check.emulated:
        plan = [("vit_tiny.2", [program, *options, *check.tiny_step])]
    else:
        plan = [("%s.%d" % (arch, batch), [program, "--arch", arch, "--batch_size_per_gpu", batch,
                                           "--warmup", 10, "--steps", 50, *options])
                for arch, batch in STEPS]
    return measure(check, plan, 45)


def ops(check):
    program = check.program("ops_bench")
    if program is None:
        return not_run("ops_bench is not in this build")
    options = ["--backend", check.backend, "--json"]
    if check.emulated:
        plan = [("tiny", [program, *options, *check.tiny_ops])]
    else:
        plan = [("width_%d" % width, [program, "--width", width, "--batch_size_per_gpu", batch,
                                      *options])
                for width, batch in ((384, 256), (768, 128), (1024, 64))]
    return measure(check, plan, 40)


TORCH = [("vit_small", "official", 64), ("vit_small", "tuned", 256), ("vit_base", "official", 64),
         ("vit_base", "tuned", 128), ("swin_tiny", "official", 64), ("vit_small", "official", 256)]


def torch(check):
    script = os.path.join(check.root, "scripts", "bench_torch_step.py")
    if "torch" not in check.wheels:
        return not_run("%s has no PyTorch" % check.python)
    options = ["--json", "--device", "cpu" if check.emulated else "cuda"]
    if check.emulated:
        plan = [("vit_tiny.official", [check.python, script, *options, *check.tiny_torch])]
    else:
        plan = [("%s.%s.%d" % (arch, mode, batch),
                 [check.python, script, "--arch", arch, "--mode", mode, "--batch_size_per_gpu", batch,
                  "--warmup", 10, "--steps", 50, *options]) for arch, mode, batch in TORCH]
    return measure(check, plan, 150)


# ------------------------------------------------------------------------------ a run on a stream

class Sizes:
    """What a run on a stream is made of."""

    def __init__(self, emulated):
        self.image_px = 48 if emulated else 320
        self.n_images = 16 if emulated else 64
        self.batch = 4 if emulated else 128
        self.recorded = 2 if emulated else 4
        self.steps = 5 if emulated else 90
        self.warm = 2 if emulated else 20
        self.options = ["--batch_size_per_gpu", self.batch, "--keep_checkpoints", 1]
        if emulated:
            self.options += """--arch vit_test --embed_dim 32 --depth 1 --num_heads 2 --patch_size 8
                --out_dim 64 --head_hidden_dim 32 --bottleneck_dim 16 --global_crop_size 32
                --local_crop_size 16 --local_crops_number 1 --slice_size 4 --threads 1""".split()
        else:
            self.options += ["--recipe", "vit_small_16"]


def make_images(folder, sizes):
    """Noise at several scales, and enough names for one epoch of all steps."""
    os.makedirs(folder)
    size = sizes.image_px
    total = max(sizes.steps + 8, 2 * sizes.recorded) * sizes.batch
    for i in range(total):
        path = os.path.join(folder, "%06d.ppm" % i)
        if i >= sizes.n_images:
            os.link(os.path.join(folder, "%06d.ppm" % (i % sizes.n_images)), path)
            continue
        coarse = os.urandom(3 * (size // 16 + 1))
        with open(path, "wb") as file:
            file.write(b"P6\n%d %d\n255\n" % (size, size))
            for y in range(size):
                noise = os.urandom(16)
                row = bytearray()
                for x in range(size):
                    base = 3 * ((x + y) // 2 // 16 % (size // 16 + 1))
                    row += bytes(((coarse[base + c] * 3 + noise[(x + c) % 16]) // 4) for c in range(3))
                file.write(row)


def scrape(address):
    """The numbers of /metrics that have no labels."""
    try:
        with urllib.request.urlopen("http://%s/metrics" % address, timeout=2) as reply:
            text = reply.read().decode()
    except OSError:
        return {}
    return {m.group(1): float(m.group(2)) for m in re.finditer(r"^(\w+) (\S+)$", text, re.M)}


def follow(check, argv, log, seconds, warm):
    """Runs a trainer to its end and follows its metrics: rate and share of waiting after the warm-up."""
    samples, address = [], None
    start = time.monotonic()
    with open(log, "w+b") as output:
        child = check.commands.start(argv, {"IBOT_LOG_LEVEL": "info"}, output=output)
        try:
            while child.poll() is None and time.monotonic() - start < min(seconds, check.commands.left()
                                                                          + time.monotonic() - start):
                if address is None:
                    with open(log, encoding="utf-8", errors="replace") as file:
                        found = re.search(r"metrics at http://(\S+?)/metrics", file.read())
                    address = found and found.group(1)
                else:
                    now = time.monotonic()
                    values = scrape(address)
                    if values.get("ibot_train_steps_total", 0) >= warm:
                        samples.append((now, values))
                time.sleep(0.02 if check.emulated else 0.1)
            ended = child.poll()
        finally:
            check.commands.stop(child, 20)
    with open(log, encoding="utf-8", errors="replace") as file:
        text = file.read()
    check.commands.log.write("$ %s\n%s\n" % (" ".join(str(word) for word in argv), text))
    if ended != 0:
        last = [line for line in text.strip().splitlines() if line.strip()] or ["no output"]
        return verdict(True, reason="exit status %s: %s" % (ended, last[-1][:300]))
    result = verdict(False, seconds=round(time.monotonic() - start, 1))
    # the same numbers again mean that it no longer trains, but saves
    steps = "ibot_train_steps_total"
    samples = [s for i, s in enumerate(samples) if i == 0 or s[1][steps] > samples[i - 1][1][steps]]
    if len(samples) >= 2:
        (t0, a), (t1, b) = samples[0], samples[-1]

        def rise(key):
            return b.get(key, 0.0) - a.get(key, 0.0)
        result.update(steps=int(rise(steps)),
                      images_per_second=round(rise("ibot_train_images_total") / (t1 - t0), 1))
        if rise("ibot_train_step_seconds_sum") > 0:
            result["waiting_share"] = round(rise("ibot_train_wait_seconds_sum") /
                                            rise("ibot_train_step_seconds_sum"), 4)
    return result


def stream(check):
    trainer, replayer = check.program("ibot-train"), check.program("ibot-stream", same=True)
    if trainer is None or replayer is None:
        return not_run("ibot-train and ibot-stream are not in this build: it lacks libraries (--packages)")
    sizes = Sizes(check.emulated)
    results = {}
    work = tempfile.mkdtemp(prefix="ibot-gpu-check-")
    try:
        images, recording = os.path.join(work, "images"), os.path.join(work, "recording")
        make_images(images, sizes)
        options = [*sizes.options, "--backend", "cuda", "--metrics", "127.0.0.1:0"]
        results["with_loaders"] = follow(
            check, [trainer, *options, "--data", images, "--loaders", 1, "--loader_threads", 0,
                    "--record", recording, "--stop_at_step", sizes.recorded,
                    "-o", os.path.join(work, "recorded")],
            os.path.join(work, "recorded.log"), 60, 1)
        if results["with_loaders"]["status"] == "passed":
            endpoint = "ipc://" + os.path.join(work, "stream")
            with open(os.path.join(work, "replay.log"), "wb") as output:
                child = check.commands.start([replayer, "replay", recording, "--connect", endpoint,
                                              "--loop"], output=output)
                results["replayed"] = follow(
                    check, [trainer, *options, "--loaders", 0, "--listen", endpoint,
                            "--stop_at_step", sizes.steps, "-o", os.path.join(work, "replayed")],
                    os.path.join(work, "replayed.log"), 90, sizes.warm)
                check.commands.stop(child)
            with open(os.path.join(work, "replay.log"), encoding="utf-8", errors="replace") as file:
                check.commands.log.write(file.read())
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for name, result in results.items():
        check.say("  %s: %s" % (name, ", ".join("%s %s" % (k, v) for k, v in result.items())))
    bad = [name for name, result in results.items() if result["status"] != "passed"]
    out = verdict(bad, runs=results, model="vit_test" if check.emulated else "vit_small_16",
                  batch_size_per_gpu=sizes.batch)
    if bad:
        out["reason"] = "; ".join("%s: %s" % (name, results[name]["reason"]) for name in bad)
    return out
