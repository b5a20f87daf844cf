"""The parts of the check that say right or wrong: build, tests, golden runs, compute-sanitizer. Each
takes the check and returns a dictionary with at least "status": passed, failed, or not run with a
"reason"."""
import concurrent.futures
import glob
import json
import math
import os
import re
import shutil
import tarfile
import tempfile
import time

import machine


def not_run(reason, **more):
    return dict(status="not run", reason=reason, **more)


def verdict(bad, **more):
    return dict(status="failed" if bad else "passed", **more)


def overall(results, **more):
    """Of several results by name: failed when one failed or was skipped, for a skipped test has shown
    nothing; not run when one was not run; passed when all passed."""
    found = counts(results)
    text = ", ".join("%d %s" % (n, status) for status, n in sorted(found.items()))
    if found.get("failed") or found.get("skipped"):
        names = [name for name, r in results.items() if r["status"] in ("failed", "skipped")]
        return dict(status="failed", reason="%s: %s" % (text, ", ".join(names)[:300]), **more)
    if found.get("not run"):
        return not_run("time: " + text, **more)
    return dict(status="passed", **more)


def say_what_failed(check, results):
    """One line for each reason, however many it holds for."""
    by_reason = {}
    for name, result in results.items():
        if result["status"] != "passed":
            by_reason.setdefault((result["status"], result.get("reason", "")), []).append(name)
    for (status, reason), names in by_reason.items():
        check.say("  %s: %s (%s)" % (status, ", ".join(names), reason))


def counts(results):
    found = {}
    for result in results.values():
        found[result["status"]] = found.get(result["status"], 0) + 1
    return found


# ------------------------------------------------------------------------------ build

def unpack(check):
    """The folder of packages that --packages names, or of its archive unpacked in the build."""
    packages = check.options.packages
    if packages is None or os.path.isdir(packages):
        return packages and os.path.abspath(packages)
    folder = os.path.join(check.build, "packages")
    if not os.path.exists(os.path.join(folder, "packages.txt")):
        with tarfile.open(packages) as archive:
            archive.extractall(folder)
    return folder


def packages_on_path(check):
    """zstd may have come with the packages."""
    if check.options.packages:
        os.environ["PATH"] += os.pathsep + os.path.join(unpack(check), "usr", "bin")


def is_ninja(cache):
    with open(cache, encoding="utf-8") as file:
        return "CMAKE_GENERATOR:INTERNAL=Ninja" in file.read()


def build(check):
    commands, options = check.commands, check.options
    os.makedirs(check.build, exist_ok=True)
    cache = os.path.join(check.build, "CMakeCache.txt")
    result = {"folder": os.path.relpath(check.build, check.root)}
    jobs = max(1, len(os.sched_getaffinity(0)))
    if not (check.emulated and os.path.exists(cache)):
        configure = ["cmake", "-S", check.root, "-B", check.build, "-DCMAKE_BUILD_TYPE=Release",
                     "-DIBOT_PARTIAL=ON", "-DIBOT_MPI=OFF"]
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        if options.packages:
            configure += ["-DIBOT_SYSROOT=" + unpack(check)]
        if check.emulated:
            configure += ["-DIBOT_CUDA=OFF"]
        else:
            configure += ["-DIBOT_CUDA=ON", "-DIBOT_REFUSE_SPILLS=OFF",  # slow, but measured
                          "-DCMAKE_CUDA_ARCHITECTURES=%s-real" % check.architecture,
                          "-DCMAKE_PREFIX_PATH=" + ";".join(check.wheel_folders)]
        done = commands.run(configure, commands.left())
        result["configure_seconds"] = round(done.seconds, 1)
        result["configured"] = [line[3:] for line in done.output.splitlines() if re.match(
            r"-- (CUDA|cuDNN|NCCL|IBOT_PARTIAL|CUDA emulator)", line)]
        if done.code != 0:
            return verdict(True, reason="configuration: " + done.reason(), **result)
        for line in result["configured"]:
            check.say("  " + line)
    target = "ibot_gpu_check_emulated" if check.emulated else "ibot_gpu_check"
    keep_going = ["-k", "0"] if is_ninja(cache) else ["-k"]  # what can be built can be tested
    done = commands.run(["cmake", "--build", check.build, "--target", target, "--", "-j", jobs,
                         *keep_going], commands.left())
    result["seconds_of_compiling"] = round(done.seconds, 1)
    if done.code != 0:
        return verdict(True, reason=done.reason(), **result)
    return verdict(False, **result)


# ------------------------------------------------------------------------------ tests

REHEARSED_OPS = ("cast", "unit_norm", "activation")  # those that take a second under emulation


def listed_tests(check):
    """name -> (command, environment, seconds), in ctest's own words, of the backend's label."""
    with tempfile.TemporaryDirectory() as folder:  # ctest writes a log where it lists, too
        with open(os.path.join(folder, "CTestTestfile.cmake"), "w", encoding="utf-8") as file:
            file.write('subdirs("%s")\n' % check.build)
        done = check.commands.run(["ctest", "--show-only=json-v1"], 60, cwd=folder)
    if done.code != 0:
        raise RuntimeError("ctest lists no tests: " + done.reason())
    tests = {}
    for test in json.loads(done.output[done.output.index("{"):])["tests"]:
        properties = {p["name"]: p["value"] for p in test.get("properties", [])}
        if check.backend in properties.get("LABELS", []) and "command" in test:
            environment = dict(word.split("=", 1) for word in properties.get("ENVIRONMENT", []))
            tests[test["name"]] = (test["command"], environment, properties.get("TIMEOUT", 120))
    return tests


AT_ONCE = max(4, len(os.sched_getaffinity(0)) // 2)  # a test has two threads


def run_tests(check, tests, wrapper=(), seconds=None, until=None):
    """Each test's result; those that no longer fit, or not before `until`, are not run."""
    def one(name):
        command, environment, limit = tests[name]
        most = min(seconds or limit, until - time.monotonic() if until else math.inf)
        if min(most, check.commands.left()) < 3:
            return name, not_run("time")
        cut_short = min(most, check.commands.left()) < (seconds or limit)
        done = check.commands.run([*wrapper, *command], most, env=environment)
        if done.timed_out and cut_short:
            return name, not_run("time")
        if done.code == 77:
            return name, {"status": "skipped", "reason": done.output.strip().split("\n")[-1][:300]}
        result = verdict(done.code != 0, seconds=round(done.seconds, 2))
        if done.code != 0:
            result["reason"] = done.reason()
        return name, result

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(pool.map(one, sorted(tests)))


def tests(check):
    packages_on_path(check)
    chosen = {name: test for name, test in listed_tests(check).items()
              if not name.startswith("trainer.golden.") and check.chooses(name)}
    if check.emulated:
        chosen = {name: test for name, test in chosen.items() if name.split(".")[1] in REHEARSED_OPS}
    if not chosen:
        return verdict(True, reason="the build has no test with the label '%s'" % check.backend)
    results = run_tests(check, chosen)
    say_what_failed(check, results)
    return overall(results, counts=counts(results), tests=results)


# ------------------------------------------------------------------------------ golden runs

LINE = re.compile(r"^(.{17}) +(\d+) values +worst (\S+) +(\S+) +(\S*)")


PRECISIONS = {"f32": ["--precision", "f32"], "bf16": ["--precision", "bf16"],
              "bf16_stream": ["--precision", "bf16", "--residual_stream", "bf16"]}


def golden_files(check):
    for folder in check.golden_folders:
        files = sorted(glob.glob(os.path.join(folder, "vit_*.safetensors")) +
                       glob.glob(os.path.join(folder, "swin*.safetensors")))
        if files:
            return files
    return []


def golden(check):
    program = check.program("golden_training")
    files = [file for file in golden_files(check) if check.chooses(os.path.basename(file))]
    if not files:
        return not_run("no golden files in " + ", ".join(check.golden_folders))
    if program is None:
        return not_run("golden_training is not in this build (see what its configuration left out)")
    ways = [("f32", "on"), ("bf16", "on"), ("bf16_stream", "on"), ("f32", "off"), ("bf16", "off")]
    if check.emulated:
        files, ways = [min(files, key=os.path.getsize)], [("f32", "on"), ("bf16", "off")]

    def one(way):
        file, precision, graph = way
        name = "%s.%s.graph_%s" % (os.path.basename(file)[:-len(".safetensors")], precision, graph)
        if check.commands.left() < 3:
            return name, not_run("time")
        done = check.commands.run([program, file, "--backend", check.backend,
                                   *PRECISIONS[precision], "--cuda_graph", graph], 60)
        worst = {}
        for line in done.output.splitlines():
            match = LINE.match(line)
            if match:
                worst[match.group(1).strip()] = {
                    "values": int(match.group(2)), "worst": float(match.group(3)),
                    "verdict": match.group(4), "tensor": match.group(5)}
        run = verdict(done.code != 0 or not worst, seconds=round(done.seconds, 2), groups=worst)
        if done.code == 77:
            run["status"] = "skipped"
        if run["status"] != "passed":
            run["reason"] = done.reason()
        return name, run

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        runs = dict(pool.map(one, [(file, *way) for way in ways for file in files]))
    say_what_failed(check, runs)
    largest = {}
    for name, run in runs.items():
        for group, entry in run.get("groups", {}).items():
            key = "%s, %s" % (name.split(".")[1], group)
            if key not in largest or not entry["worst"] <= largest[key]["worst"]:  # NaN is largest
                largest[key] = {"worst": entry["worst"], "run": name, "tensor": entry["tensor"]}
    for key, entry in sorted(largest.items()):
        check.say("  %-24s worst %.2e  (%s)" % (key, entry["worst"], entry["run"]))
    return overall(runs, worst=largest, runs=runs)


# ------------------------------------------------------------------------------ compute-sanitizer

# Calls that fail are looked at by the tests themselves, which make some fail on purpose. racecheck and
# synccheck do not know how the warps of cuDNN's kernels wait for each other.
NOT_OURS = ["--kernel-name-exclude", "kns=cudnn"]
TOOLS = {
    "memcheck": ["--report-api-errors", "no"],
    "racecheck": NOT_OURS,
    "synccheck": NOT_OURS,
    "initcheck": [],
}


def sanitizer(check):
    program = machine.tools()["compute-sanitizer"]
    if program is None:
        return not_run("compute-sanitizer is neither on the PATH nor beside nvcc")
    small = {name: test for name, test in listed_tests(check).items()
             if name.startswith("ops.") and check.chooses(name)}
    if check.emulated:
        small = {name: test for name, test in small.items() if name.split(".")[1] == REHEARSED_OPS[0]}
    if not small:
        return not_run("the build has no test of an op with the label '%s'" % check.backend)
    first = sorted(small)[0]
    wrapper = [program, "--error-exitcode", "99"]
    done = check.commands.run([*wrapper, "--tool", "memcheck", *small[first][0]], 60,
                              env=small[first][1])
    if re.search(r"[Dd]evice not supported|Unable to find injection|not supported on", done.output):
        return not_run("compute-sanitizer refuses this device: " + done.reason())
    results = {}
    for i, (tool, more) in enumerate(TOOLS.items()):
        start = time.monotonic()
        results[tool] = run_tests(check, small, [*wrapper, "--tool", tool, *more], 120,
                                  start + check.commands.left() / (len(TOOLS) - i))
        found = counts(results[tool])
        check.say("  %s: %s (%.0f s)" % (tool, ", ".join(
            "%d %s" % (n, status) for status, n in sorted(found.items())), time.monotonic() - start))
        say_what_failed(check, results[tool])
    return overall({"%s %s" % (tool, name): result for tool, of_tool in results.items()
                    for name, result in of_tool.items()}, tools=results)
