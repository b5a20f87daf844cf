#!/usr/bin/env python3
"""Times iBOT's training step in PyTorch, for comparison with step_bench: random data, so that only
the step is timed.

  official  the formulation of the original (torch_official.py): float16 by autocast, eager
  tuned     the same results as fast as PyTorch goes (torch_tuned.py): bfloat16, compiled, fused
            attention by the fastest of PyTorch's kernels, no more rows than needed, no waiting for
            the device; several ways to put it together are tried, each in a process of its own

  scripts/bench_torch_step.py --mode official --arch vit_small --device cuda --json
  scripts/bench_torch_step.py --mode tuned --arch vit_base --device cuda --max_seconds 400 --json

Each is measured at --batch_size_per_gpu, one or more, and with --best_batch at twice the last and so
on while the rate grows by 2 % and memory lasts. Of the tuned ways all are tried at the first batch,
and the fastest at the others; they are compiled beforehand, several at once, into PyTorch's cache. scripts/check_torch_step.py shows that both compute what the
original computes. On the CPU: --device cpu --precision f32, and small networks.
"""
import argparse
import concurrent.futures
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import torch
import torch_official as official
import torch_tuned as tuned

GROWTH = 1.02  # a larger batch must gain as much to be worth another try
RESERVE_SECONDS = 5.0
SHARE_OF_WAYS = 0.6  # of the time, for trying all ways at one batch; the rest is for larger batches
SHARE_OF_COMPILING = 0.4  # of the time, for compiling beforehand
CORES_OF_COMPILING = 4  # of one process

# Ways to put the tuned step together, most promising first: what a time limit cuts off is the rest.
TUNED = {
    "cuda": [
        {"compile": "default", "graph": 1},
        {"compile": "default"},
        {"compile": "default", "graph": 1, "packed": 1},
        {"compile": "max-autotune"},
        {"compile": "max-autotune-no-cudagraphs", "graph": 1},
        {"compile": "default", "graph": 1, "precision": "masters"},
        {"compile": "default", "graph": 1, "stream": "bf16"},
        {"compile": "reduce-overhead"},
        {"compile": "none", "graph": 1},
    ],
    "cpu": [{"compile": "none"}, {"compile": "none", "packed": 1}],
}


def network_options(args):
    width, depth, heads = official.ARCHITECTURES[args.arch]
    return official.Options(width, depth, heads, 4 if isinstance(depth, tuple) else args.patch_size,
                            args.window_size, args.global_size, args.drop_path,
                            out_dim=args.out_dim, n_local=args.local_crops_number)


def random_batch(o, args, b, device):
    """The published mixture of masks: half of the crops without one, the others about 0.3."""
    torch.manual_seed(0)
    side = args.global_size // o.cell
    ratio = torch.where(torch.rand(2 * b) < 0.5, torch.zeros(2 * b), torch.empty(2 * b).uniform_(0.1, 0.5))
    order = torch.rand(2 * b, side * side).argsort(dim=1).argsort(dim=1)
    mask = (order < (ratio * side * side).long()[:, None]).reshape(-1, side, side)
    crops = [[torch.randn(b, 3, size, size, device=device) for _ in range(n)]
             for size, n in ((args.global_size, 2), (args.local_size, o.n_local))]
    return SimpleNamespace(globals_=crops[0], locals_=crops[1],
                           masks=[m.contiguous().to(device) for m in mask.chunk(2)])


# ------------------------------------------------------------------------------ timing


def quartiles(values):
    values = sorted(values)
    return [values[len(values) // 4], values[3 * len(values) // 4]]


def time_steps(step, args):
    """Seconds of each step by the device's clock, and of the host to ask for one."""
    if args.device == "cpu":
        times = []
        for _ in range(args.warmup + args.steps):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        return times[args.warmup:], times[args.warmup:]
    host = []
    for _ in range(args.warmup):
        step()
    torch.cuda.synchronize()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(args.steps + 1)]
    events[0].record()
    for event in events[1:]:
        start = time.perf_counter()
        step()
        event.record()
        host.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in zip(events, events[1:])], host


def pick_attention(args, o, b):
    """Times PyTorch's kernels of fused attention on this step's lengths, forward and backward, and
    leaves the fastest switched on."""
    if args.device == "cpu" or o.swin:
        return {"attention": "PyTorch's choice"}
    from torch.nn.attention import SDPBackend, sdpa_kernel
    kinds = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION,
             "efficient": SDPBackend.EFFICIENT_ATTENTION}
    lengths = [(n, (size // o.patch_size)**2 + 1) for n, size in
               ((2 * b, args.global_size), (o.n_local * b, args.local_size)) if n > 0]
    micros, errors = {}, {}
    for name, kind in kinds.items():
        try:
            with sdpa_kernel(kind):
                micros[name] = sum(time_attention(n, length, o) for n, length in lengths)
        except RuntimeError as error:
            errors[name] = str(error).splitlines()[0]
    if not micros:
        return {"attention": "PyTorch's choice", "attention_errors": errors}
    chosen = min(micros, key=micros.get) if args.attention == "auto" else args.attention
    for name, enable in (("cudnn", torch.backends.cuda.enable_cudnn_sdp),
                         ("flash", torch.backends.cuda.enable_flash_sdp),
                         ("efficient", torch.backends.cuda.enable_mem_efficient_sdp)):
        enable(name == chosen)
    torch.backends.cuda.enable_math_sdp(False)
    return {"attention": chosen, "attention_microseconds": micros, "attention_errors": errors}


def time_attention(n, length, o):
    heads, width = o.heads, o.width // o.heads
    qkv = torch.randn(n, length, 3, heads, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    up = torch.randn(n, heads, length, width, device="cuda", dtype=torch.bfloat16)
    times = []
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        torch.nn.functional.scaled_dot_product_attention(q, k, v).backward(up)
        end.record()
        torch.cuda.synchronize()
        times.append(1e3 * start.elapsed_time(end))
    return statistics.median(times)


# ------------------------------------------------------------------------------ one measurement


def make_step(args, b):
    """A function that makes a step, what to report of it, and the seconds until it runs."""
    o = network_options(args)
    start = time.perf_counter()
    batch = random_batch(o, args, b, args.device)
    if args.mode == "official":
        step = official.OfficialStep(o, args.device, args.precision)
        return lambda: step.step(batch), {"optimizer": "AdamW, PyTorch's default"}, start
    settings = pick_attention(args, o, b)
    step = tuned.TunedStep(o, args.device, args.precision, bool(args.packed), bool(args.last_rows),
                           args.stream, "" if args.compile == "none" else args.compile,
                           bool(args.graph))
    step.prepare(batch)
    settings.update(compile=args.compile, graph=bool(args.graph), packed=step.packed,
                    last_rows=step.last_rows, stream=args.stream, optimizer="AdamW, fused",
                    masked_rows=step.tables.n_masked, padded_rows=step.tables.n_rows)
    return step.step, settings, start


def measure(args, b):
    cuda = args.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    step, settings, start = make_step(args, b)
    step()
    if cuda:
        torch.cuda.synchronize()
    ready = time.perf_counter() - start
    times, host = time_steps(step, args)
    seconds = statistics.median(times)
    memory = torch.cuda.max_memory_reserved() / 2**20 if cuda else \
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"batch_size_per_gpu": b, "precision": args.precision, **settings, "steps": args.steps,
            "warmup": args.warmup, "seconds_per_step": seconds,
            "seconds_per_step_quartiles": quartiles(times), "images_per_second": b / seconds,
            "host_seconds_per_step": statistics.median(host), "seconds_to_first_step": ready,
            "peak_memory_mib": memory}


def grow(args, run_at, deadline, batches, known=None):
    """Measures at the batches asked for and, if the best one is wanted, at larger ones. A memory that
    is full, or a time that is over, ends it; what went wrong is in the list."""
    runs, last = [], known
    while True:
        if len(runs) < len(batches):
            b = batches[len(runs)]
        elif args.best_batch and last is not None:
            b = 2 * last["batch_size_per_gpu"]
        else:
            return runs
        run = run_at(b)
        runs.append(run)
        if "error" in run or time.monotonic() > deadline or (
                len(runs) > len(batches) and run["images_per_second"] < GROWTH * last["images_per_second"]):
            return runs
        last = run


# ------------------------------------------------------------------------------ official


def run_official(args, deadline):
    def run_at(b):
        try:
            return measure(args, b)
        except torch.OutOfMemoryError as error:
            return {"batch_size_per_gpu": b, "error": str(error).splitlines()[0]}
        finally:
            gc.collect()
            if args.device == "cuda":
                torch.cuda.empty_cache()

    return grow(args, run_at, deadline, args.batches)


# ------------------------------------------------------------------------------ tuned


def command_of(args, b, way, **more):
    """Of a process that measures one way at one batch."""
    command = [sys.executable, os.path.abspath(__file__), "--single", "--json"]
    for name, value in {**vars(args), **way, "batch_size_per_gpu": b, **more}.items():
        if name not in ("single", "json", "best_batch", "max_seconds", "batches", "max_ways"):
            command += [f"--{name}", str(value)]
    return command


def compile_beforehand(args, wanted, seconds):
    """Fills PyTorch's cache with what [(batch, way)] compile, as many at once as there are cores for.
    Ways that choose by measuring are left out: they must have the device for themselves."""
    wanted = [(b, way) for b, way in wanted if way["compile"] in ("default", "reduce-overhead")]

    def one(pair):
        left = end - time.monotonic()
        if left > RESERVE_SECONDS:
            try:
                subprocess.run(command_of(args, *pair, steps=1, warmup=0), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, timeout=left, check=False)
            except subprocess.TimeoutExpired:
                pass

    end = time.monotonic() + seconds
    with concurrent.futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // CORES_OF_COMPILING)) as pool:
        list(pool.map(one, wanted))


def run_apart(args, b, way, seconds):
    """One way at one batch, in a process that is ended when its time is over."""
    named = {"batch_size_per_gpu": b, **way}
    try:
        done = subprocess.run(command_of(args, b, way), capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {**named, "error": f"not done after {seconds:.0f} s"}
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {**named, "error": (lines or [f"exit status {done.returncode}"])[-1][:500]}
    return json.loads(done.stdout.splitlines()[-1])["runs"][0]


def run_tuned(args, deadline):
    def left():
        return deadline - time.monotonic() - RESERVE_SECONDS

    ways = TUNED[args.device][:args.max_ways]
    first, others = args.batches[0], args.batches[1:]
    kept = (1.0 - SHARE_OF_WAYS) * args.max_seconds if args.best_batch or others else 0.0
    if args.device == "cuda":
        compile_beforehand(args, [(first, way) for way in ways] + [(b, ways[0]) for b in others],
                           SHARE_OF_COMPILING * args.max_seconds)
    runs = []
    for way in ways:
        if left() - kept < RESERVE_SECONDS:
            break
        runs.append(run_apart(args, first, way, min(left(), args.max_compile_s)))
    good = [(run, way) for run, way in zip(runs, ways) if "error" not in run]
    larger = []
    if good and (args.best_batch or others):
        known, way = max(good, key=lambda pair: pair[0]["images_per_second"])
        if left() > RESERVE_SECONDS:
            larger = grow(args, lambda b: run_apart(args, b, way, max(left(), 1.0)), deadline, others, known)
    return runs + [{**way, "batch_size_per_gpu": first, "error": "no time was left"}
                   for way in ways[len(runs):]] + larger


# ------------------------------------------------------------------------------ report


def result_of(args, runs):
    cuda = args.device == "cuda"
    good = [run for run in runs if "error" not in run]
    result = {"what": "torch_step", "mode": args.mode, "torch": torch.__version__,
              "cuda": torch.version.cuda if cuda else None,
              "cudnn": torch.backends.cudnn.version() if cuda else None,
              "device": torch.cuda.get_device_name() if cuda else "cpu",
              "threads": torch.get_num_threads()}
    for name in ("arch", "patch_size", "window_size", "out_dim", "global_size", "local_size",
                 "local_crops_number", "drop_path"):
        result[name] = getattr(args, name)
    result["runs"] = runs
    same = [run for run in good if run["batch_size_per_gpu"] == args.batches[0]]
    for name, some in (("same_batch", same), ("best", good)):
        result[name] = max(some, key=lambda run: run["images_per_second"], default=None)
    for name in ("batch_size_per_gpu", "precision", "images_per_second", "seconds_per_step",
                 "peak_memory_mib"):
        result[name] = result["best"][name] if result["best"] else None
    return result


def print_runs(result):
    print(", ".join(f"{name} {result[name]}" for name in ("mode", "arch", "device", "torch", "threads")))
    for run in result["runs"]:
        how = " ".join(f"{n}={run[n]}" for n in ("compile", "graph", "packed", "precision", "stream")
                       if n in run)
        if "error" in run:
            print(f"  batch {run['batch_size_per_gpu']:4} {how}: {run['error']}")
        else:
            first, third = run["seconds_per_step_quartiles"]
            print(f"  batch {run['batch_size_per_gpu']:4} {how}: {run['images_per_second']:.1f} images/s, "
                  f"{1e3 * run['seconds_per_step']:.2f} ms a step ({1e3 * first:.2f} to "
                  f"{1e3 * third:.2f}), {run['peak_memory_mib']:.0f} MiB")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--mode", default="official", choices=("official", "tuned"))
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    add("--arch", default="vit_small", choices=official.ARCHITECTURES)
    add("--precision", choices=("fp16", "bf16", "f32", "autocast", "masters"),
        help="official: fp16, bf16 or f32; tuned: autocast, masters or f32. Default: fp16, autocast; "
             "on the CPU f32")
    add("--patch_size", type=int, default=16)
    add("--window_size", type=int, default=7)
    add("--out_dim", type=int, default=8192)
    add("--global_size", type=int, default=224)
    add("--local_size", type=int, default=96)
    add("--local_crops_number", type=int, default=10)
    add("--drop_path", type=float, default=0.1)
    add("--batch_size_per_gpu", default="64", metavar="N,…", help="images in a step; one or more")
    add("--best_batch", action="store_true", help="larger batches too, while they pay")
    add("--steps", type=int, default=50, help="timed steps")
    add("--warmup", type=int, default=10, help="steps before them")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--max_seconds", type=float, default=600, help="nothing new is begun after this long")
    add("--max_ways", type=int, default=99, help="tuned: try no more ways than these, the most promising first")
    add("--max_compile_s", type=float, default=240, help="tuned: longest time of one way, compiling included")
    group = parser.add_argument_group("one way of the tuned step (else several are tried)")
    add = group.add_argument
    add("--single", action="store_true", help="only the way that the following say")
    add("--compile", default="default", choices=("none", "default", "reduce-overhead", "max-autotune",
                                                 "max-autotune-no-cudagraphs"))
    add("--graph", type=int, default=0, help="1: the whole step as one CUDA graph")
    add("--packed", type=int, default=0, help="1: all crops in one token buffer")
    add("--last_rows", type=int, default=1, help="0: all rows of the last block")
    add("--stream", default="f32", choices=("f32", "bf16"), help="residual stream")
    add("--attention", default="auto", choices=("auto", "cudnn", "flash", "efficient"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    allowed = ("fp16", "bf16", "f32") if args.mode == "official" else ("autocast", "masters", "f32")
    try:
        args.batches = [int(word) for word in args.batch_size_per_gpu.split(",")]
    except ValueError:
        args.batches = []
    if not args.batches or min(args.batches) < 1 or (args.single and len(args.batches) > 1):
        parser.error(f"--batch_size_per_gpu: got '{args.batch_size_per_gpu}', wanted numbers of at least 1"
                     ", one alone with --single")
    if args.max_ways < 1:
        parser.error(f"--max_ways: got {args.max_ways}, wanted at least 1")
    if args.precision is None:
        args.precision = "f32" if args.device == "cpu" else allowed[0]
    if args.precision not in allowed:
        parser.error(f"--precision {args.precision}: --mode {args.mode} has {', '.join(allowed)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU; --device cpu needs none")
    return args


def main():
    args = parse()
    deadline = time.monotonic() + args.max_seconds
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    if args.mode == "official":
        runs = run_official(args, deadline)
    elif args.single:
        runs = [measure(args, args.batches[0])]
    else:
        runs = run_tuned(args, deadline)
    result = result_of(args, runs)
    if args.json:
        print(json.dumps(result))
    else:
        print_runs(result)
    return 0 if result["best"] is not None else 1


if __name__ == "__main__":
    sys.exit(main())
