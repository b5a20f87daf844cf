#!/usr/bin/env python3
"""Builds, tests and measures the CUDA backend on this machine's GPU within a given time, and writes
what was seen as one JSON. Started by scripts/gpu_check.sh.

Nothing stops at a failure: each part is recorded as passed, failed, or not run with the reason, and
the JSON is written again after each, so that a run that is cut off leaves what it had. The exit
status is 0 only when every part that was asked for passed."""
import argparse
import datetime
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import benchmarks
import machine
import parts
from commands import Commands

# In order of importance: name, function, most seconds (of 9 minutes; more when the others need less),
# fewest worth a start.
PARTS = [
    ("build", parts.build, 300, 15),
    ("tests", parts.tests, 120, 5),
    ("golden", parts.golden, 60, 5),
    ("sanitizer", parts.sanitizer, 70, 15),
    ("step", benchmarks.step, 120, 15),
    ("ops", benchmarks.ops, 45, 10),
    ("stream", benchmarks.stream, 80, 30),
    ("torch", benchmarks.torch, 540, 40),
    ("learn", benchmarks.learn, 600, 100),
]
RESERVE_SECONDS = 10  # for the last words

EPILOG = """parts, in this order unless time runs out:
  build      configuration (-DIBOT_PARTIAL=ON) and compilation, for this GPU alone
  tests      every test with the label "cuda"; one that is skipped counts as failed
  golden     golden_training on every vit_*.safetensors and swin*.safetensors, f32 and bf16, with and
             without CUDA graphs; the worst errors of each kind of value
  sanitizer  compute-sanitizer's four tools on the tests of the ops
  step       step_bench: whole training steps of ViT and Swin, several batches, each op's share
  ops        ops_bench: each op alone, against the chip's ceilings
  stream     bench_end_to_end.py: ibot-train on a replayed recording, and with loaders on this machine
             (needs the libraries: --packages)
  torch      bench_torch_step.py: the original's step and a tuned one in PyTorch, for what is left of
             the time
  learn      learn_cifar10.sh on --cifar10, which it needs and takes some nine minutes of an H200; cut
             short, a later call with the same --build goes on
A table of what was measured (bench_report.py) comes last, and lies beside the JSON.

calls share the work where one is too short:
  scripts/gpu_check.sh --parts build,tests,golden,sanitizer --keep-build
  scripts/gpu_check.sh --parts step,ops,stream,torch --keep-build
  scripts/gpu_check.sh --parts learn --cifar10 cifar10.tar.zst --minutes 11 --keep-build

a GPU that is there for minutes only: one network, ours and PyTorch's in one call
  scripts/gpu_check.sh --parts build,tests --keep-build --minutes 3
  scripts/gpu_check.sh --parts step,torch --only vit_base --keep-build --minutes 6

a machine without a network: pack the libraries where there is one, and bring the archive along
  scripts/pack_packages.sh packages.tar.xz
  scripts/gpu_check.sh --packages packages.tar.xz
"""


def options_of(words):
    parser = argparse.ArgumentParser(
        prog="gpu_check.sh", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Build, test and measure the CUDA backend on this machine's GPU; write one JSON.",
        epilog=EPILOG, allow_abbrev=False)
    add = parser.add_argument
    add("--minutes", type=float, default=9, help="time for everything (9); what does not fit is not run")
    add("--parts", default="", metavar="LIST", help="of those below, with commas (all)")
    add("--only", default="", metavar="TEXT",
        help="of tests, golden files and measurements those alone whose name has this in it")
    add("--out", metavar="DIR", help="for the JSON and the log (tests/bench/results; log in the build)")
    add("--build", metavar="DIR", help="build folder (build-gpu)")
    add("--keep-build", action="store_true",
        help="leave the build folder where it is, and take up the one that is there")
    add("--packages", metavar="FILE|DIR",
        help="libraries for the build, from scripts/pack_packages.sh: the archive, or its folder")
    add("--cifar10", metavar="FILE|DIR", help="CIFAR-10 as JPEG files, for the part learn: an archive or a "
        "folder, as learn_cifar10.sh takes it")
    add("--cifar10_epochs", type=int, default=200, metavar="N", help="length of that run's schedule (200)")
    add("--cifar10_torch", action="store_true",
        help="afterwards the same run in plain PyTorch, from the same weights on the same batches")
    add("--golden", metavar="DIR", help="golden files (tests/data/golden, then $IBOT_GOLDEN)")
    add("--python", default=shutil.which("python3") or sys.executable, metavar="PROGRAM",
        help="the Python that has PyTorch and CUDA's wheels (python3)")
    add("--arch", metavar="NN", help="compute capability to compile for, such as 90 (this GPU's); with "
        "it, the build is tried without a GPU too")
    add("--emulated", action="store_true",
        help="a rehearsal without a GPU: the emulated kernels, tiny sizes; the JSON says so")
    options = parser.parse_args(words)
    known = [name for name, *_ in PARTS]
    options.parts = [word.strip() for word in options.parts.split(",") if word.strip()] or [
        name for name in known if name != "learn" or options.cifar10]
    for word in options.parts:
        if word not in known:
            parser.error("--parts: got '%s', wanted some of %s" % (word, ",".join(known)))
    if not 0 < options.minutes <= 600:
        parser.error("--minutes: got %g, wanted more than 0 and at most 600" % options.minutes)
    if "learn" in options.parts and not options.cifar10:
        parser.error("--parts: learn wants --cifar10 FILE")
    if options.cifar10_epochs < 1:
        parser.error("--cifar10_epochs: got %d, wanted 1 or more" % options.cifar10_epochs)
    for name in ("packages", "golden", "cifar10"):
        path = getattr(options, name)
        if path is not None and not os.path.exists(path):
            parser.error("--%s: '%s' does not exist" % (name, path))
    if options.arch is not None and not options.arch.isdigit():
        parser.error("--arch: got '%s', wanted a number such as 90" % options.arch)
    return options


class Check:
    """What the parts share."""

    def __init__(self, options):
        self.options, self.start = options, time.monotonic()
        self.end = self.start + 60 * options.minutes - min(RESERVE_SECONDS, 6 * options.minutes)
        self.root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        self.emulated, self.backend = options.emulated, "cuda_emulated" if options.emulated else "cuda"
        self.python, self.least_seconds = options.python, 5
        self.build = os.path.abspath(options.build or os.path.join(
            self.root, "build-gpu-emulated" if options.emulated else "build-gpu"))
        self.golden_folders = [folder for folder in (
            [options.golden] if options.golden else
            [os.path.join(self.root, "tests", "data", "golden"), os.environ.get("IBOT_GOLDEN")]) if folder]
        self.gpu = self.architecture = None
        self.wheels, self.wheel_folders = {}, []

    def chooses(self, name):
        return self.options.only in name

    def say(self, text):
        seconds = int(time.monotonic() - self.start)
        print("[%2d:%02d] %s" % (seconds // 60, seconds % 60, text), flush=True)

    def program(self, name, same=False):
        """The path of a built program, in its version for the backend."""
        names = [name] if same or not self.emulated else [name + "_emulated", name + "-emulated"]
        for candidate in names:
            path = os.path.join(self.build, "bin", candidate)
            if os.access(path, os.X_OK):
                return path
        return None


def commit_of(root):
    def git(*words):
        return subprocess.run(["git", "-C", root, *words], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, check=False).stdout.decode().strip()
    if shutil.which("git") is None:
        return None
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("-changed" if git("status", "--porcelain", "-uno") else "")


def clean(value):
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {str(key): clean(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def write(path, report):
    """Whole or not at all."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(clean(report), file, indent=1, sort_keys=False)
        file.write("\n")
    os.replace(path + ".new", path)


def free_path(folder, stem):
    """DATE_gpu_CHIP.json; a second one of the same day gets a number."""
    for i in range(1, 1000):
        path = os.path.join(folder, "%s%s.json" % (stem, "" if i == 1 else "_%d" % i))
        if not os.path.exists(path):
            return path
    raise RuntimeError("too many results in '%s'" % folder)


def summary(report):
    print()
    print("%s on %s, %.0f s" % (report["mode"], (report["machine"]["gpu"] or {}).get(
        "name", report["machine"]["cpu"]), report["seconds"]))
    for name, result in report["parts"].items():
        print("  %-10s %-8s %6.1f s  %s" % (name, result["status"], result["seconds"],
                                            result.get("reason", "")))
    print("gpu_check: %s" % ("all parts passed" if report["passed"] else
                             "NOT all parts passed"), flush=True)


def share(left, most, of_later):
    """Seconds for a part: its own, and what would be left when those after it have theirs."""
    return most + max(0.0, left - most - of_later)


def run_part(check, name, function, most, least, of_later):
    """A part that raises has failed; it takes no other along."""
    start = time.monotonic()
    more_time = max(1.0, check.options.minutes / 9)
    check.commands.deadline = min(check.end, start + share(
        check.end - start, most * more_time, of_later * more_time))
    if check.commands.left() < min(least, 60 * check.options.minutes / 10):
        result = parts.not_run("time")
    else:
        check.say("%s (at most %.0f s)" % (name, check.commands.left()))
        try:
            result = function(check)
        except Exception as error:  # pylint: disable=broad-except
            result = parts.verdict(True, reason="%s: %s" % (type(error).__name__, error))
    result["seconds"] = round(time.monotonic() - start, 1)
    check.say("%s: %s%s" % (name, result["status"],
                            " (%s)" % result["reason"] if "reason" in result else ""))
    return result


def main(words):
    options = options_of(words)
    check = Check(options)
    nvcc = machine.nvcc_on_path()
    check.gpu, why = (None, None) if options.emulated else machine.find_gpu()
    if check.gpu is None and not options.emulated and options.arch is None:
        print("gpu_check: no NVIDIA GPU found: %s\n"
              "gpu_check: --emulated rehearses without one; --arch 90 builds for one that is elsewhere"
              % why, file=sys.stderr)
        return 1
    if "build" in options.parts and not options.emulated and nvcc is None:
        print("gpu_check: nvcc is not on the PATH, nor in /usr/local/cuda/bin; set CUDA_HOME to the "
              "toolkit's folder", file=sys.stderr)
        return 1
    if "build" not in options.parts and not os.path.isdir(os.path.join(check.build, "bin")):
        print("gpu_check: '%s' holds no build; add build to --parts, or name another --build"
              % check.build, file=sys.stderr)
        return 1
    check.architecture = options.arch or (check.gpu and check.gpu["compute_capability"].replace(".", ""))
    check.wheels, check.wheel_folders = machine.python_wheels(check.python)

    ours = not os.path.exists(check.build)  # a folder that was there is somebody's
    os.makedirs(check.build, exist_ok=True)
    out = os.path.abspath(options.out or (
        check.build if options.emulated else os.path.join(check.root, "tests", "bench", "results")))
    os.makedirs(out, exist_ok=True)
    stem = "%s_%s" % (datetime.date.today().isoformat(), "cuda_emulated" if options.emulated else
                      "gpu_" + machine.chip(check.gpu))
    path = free_path(out, stem)
    log = os.path.join(out if options.out else check.build, os.path.basename(path)[:-5] + ".log")
    report = {
        "report": "gpu_check", "mode": check.backend, "passed": False,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit_of(check.root), "command": ["scripts/gpu_check.sh", *words],
        "seconds": 0.0, "machine": machine.facts(check.gpu),
        "versions": machine.versions(check.python, check.wheels), "tools": machine.tools(), "parts": {},
    }
    check.commands = Commands(log, check.end)
    check.stem = path[:-len(".json")]  # for files beside it
    check.say("%s, %s; %.0f s; log: %s" % (check.backend, check.gpu["name"] if check.gpu else "no GPU" + (
        "" if options.emulated else " (%s)" % why), check.end - check.start, log))
    missing = [name for name, path in report["tools"].items() if path is None]
    if missing and not options.emulated:
        check.say("neither on the PATH nor beside nvcc: " + ", ".join(missing))

    def cut_off(number, _):
        raise KeyboardInterrupt(signal.Signals(number).name)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, cut_off)
    interrupted = False
    try:
        chosen = [part for part in PARTS if part[0] in options.parts]
        for i, (name, function, most, least) in enumerate(chosen):
            report["parts"][name] = parts.not_run("cut off", seconds=0.0)
            report["parts"][name] = run_part(check, name, function, most, least,
                                             sum(later[2] for later in chosen[i + 1:]))
            report["seconds"] = round(time.monotonic() - check.start, 1)
            write(path, report)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        check.commands.stop_all()
    report["passed"] = not interrupted and all(
        result["status"] == "passed" for result in report["parts"].values())
    if check.gpu is None and not options.emulated:
        report["passed"] = False
    report["seconds"] = round(time.monotonic() - check.start, 1)
    write(path, report)
    if not interrupted and not options.emulated and {"step", "learn"} & set(report["parts"]):
        check.commands.deadline = check.end + RESERVE_SECONDS
        print("\n" + (benchmarks.table(check, path) or ""), end="")
    summary(report)
    print(path)
    if ours and not options.keep_build and out != check.build:
        shutil.rmtree(check.build, ignore_errors=True)
    return 130 if interrupted else 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
