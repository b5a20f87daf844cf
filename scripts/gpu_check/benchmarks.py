"""The parts of the check that measure: step_bench, ops_bench, a whole run on a stream, and the same
step in PyTorch. Each program prints one JSON object (--json), which is kept as it is under the name of
its measurement; bench_report.py makes a table of them."""
import json
import os
import re
import shutil
import sys

from parts import not_run, overall, packages_on_path, verdict


def objects_in(text):
    """The JSON objects in a program's output, each of which begins a line."""
    found, at, decoder = [], 0, json.JSONDecoder()
    for match in re.finditer(r"^\{", text, re.M):
        if match.start() >= at:
            try:
                entry, at = decoder.raw_decode(text, match.start())
                found.append(entry)
            except ValueError:
                pass
    return found


def shown(entry):
    """The few numbers of a result that tell how it went."""
    runs = [dict(entry[name], of=name) for name in ("step_only", "replayed", "with_loaders")
            if isinstance(entry.get(name), dict)]
    runs += [dict(run, of="batch %s" % run.get("batch_size_per_gpu")) for run in entry.get("runs", [])]
    for run in runs:
        words = [run["of"]]
        words += ["%s %s" % (key, run[key]) for key in ("compile", "attention", "error") if key in run]
        for key, form in (("images_per_second", "%.1f images/s"), ("seconds_per_step", "%.4f s a step"),
                          ("peak_memory_mib", "%.0f MiB"), ("share_of_step_only", "%.3f of step only")):
            if isinstance(run.get(key), (int, float)):
                words.append(form % run[key])
        yield ", ".join(words)


def measure(check, plan, seconds):
    """Runs [(name, argv)] in order; `seconds` of each at most, or a function that says so when it is
    begun. What no longer fits is not run."""
    results = {}
    plan = [(name, argv) for name, argv in plan if check.chooses(name)]
    for i, (name, argv) in enumerate(plan):
        if check.commands.left() < check.least_seconds:
            results[name] = not_run("time")
            continue
        limit = seconds
        if callable(seconds):
            limit, more = seconds(check.commands.left() / (len(plan) - i))
            argv = [*argv, *more]
        done = check.commands.run(argv, limit)
        results[name] = verdict(done.code != 0, seconds=round(done.seconds, 1),
                                results=objects_in(done.output))
        if done.code != 0:
            results[name]["reason"] = done.reason()
        elif not results[name]["results"]:
            results[name].update(status="failed", reason="it printed no JSON object")
        if "reason" in results[name]:
            check.say("  %s: %s" % (name, results[name]["reason"]))
        for entry in results[name]["results"]:
            for line in shown(entry):
                check.say("  %s: %s" % (name, line))
    if not results:
        return not_run("nothing chosen")
    return overall(results, measurements=results)


TINY = ["--arch", "vit_test", "--patch_size", 8, "--global_size", 32, "--local_size", 16,
        "--local_crops_number", 1, "--out_dim", 32, "--head_hidden_dim", 16]

# Architecture and batches, the most important first.
STEPS = [("vit_small", "64,256,512"), ("vit_base", "64,128,256"), ("swin_tiny", "64,128"),
         ("vit_large", "32,64")]


def products(check):
    """Where the algorithms of matrix products are kept, so that they are measured once."""
    return os.path.join(check.build, "matrix_products")


def step(check):
    program = check.program("step_bench")
    if program is None:
        return not_run("step_bench is not in this build")
    options = ["--backend", check.backend, "--json", "--matmul_cache", products(check)]
    if check.emulated:
        plan = [("vit_test", [program, *options, *TINY, "--bottleneck_dim", 16, "--batch_size_per_gpu", 1,
                              "--steps", 1, "--warmup", 1, "--profile", 1, "--ceilings", "off"])]
    else:
        plan = [(arch, [program, "--arch", arch, "--batch_size_per_gpu", batches, *options])
                for arch, batches in STEPS]
        for arch, batch, name, choice in (  # what these are worth; the last one comes first
                ("vit_small", 256, "stream_bf16", ["--residual_stream", "bf16"]),
                ("vit_small", 256, "weights_apart", ["--weight_gradient_branch", "on"]),
                ("vit_small", 256, "untuned", ["--matmul_tune", "off"]),
                ("vit_small", 256, "upload", ["--upload"]),
                ("vit_small", 256, "skip", ["--skip_dropped", "on"]),
                ("vit_base", 128, "skip", ["--skip_dropped", "on"])):
            plan.insert(2, ("%s.%s" % (arch, name), [program, "--arch", arch, "--batch_size_per_gpu", batch,
                                                     "--profile", 0, *options, *choice]))
    return measure(check, plan, 200 if check.emulated else 60)


def ops(check):
    program = check.program("ops_bench")
    if program is None:
        return not_run("ops_bench is not in this build")
    options = ["--backend", check.backend, "--json", "--matmul_cache", products(check)]
    if check.emulated:
        plan = [("vit_test", [program, *options, *TINY, "--batch_size_per_gpu", 1, "--repeats", 1,
                              "--only", "layernorm"])]
    else:
        plan = [(arch, [program, "--arch", arch, "--batch_size_per_gpu", batch, *options])
                for arch, batch in (("vit_small", 256), ("vit_base", 128), ("swin_tiny", 128))]
    return measure(check, plan, 200 if check.emulated else 40)


def stream(check):
    if check.program("ibot-train") is None or check.program("ibot-stream", same=True) is None:
        return not_run("ibot-train and ibot-stream are not in this build: it lacks libraries (--packages)")
    argv = [sys.executable, os.path.join(check.root, "scripts", "bench_end_to_end.py"), "--json",
            "--bin", os.path.join(check.build, "bin"), "--backend", check.backend,
            "--matmul_cache", products(check)]
    if check.emulated:
        argv += ["--tiny", "--batch_size_per_gpu", 2, "--steps", 4, "--warmup", 1, "--step_steps", 1,
                 "--recorded", 2]
    else:
        argv += ["--batch_size_per_gpu", 256, "--max_seconds", 40]
    return measure(check, [("vit_test" if check.emulated else "vit_small", argv)], 150)


TORCH = [("vit_small", "official", "64,128,256"), ("vit_small", "tuned", "64,256"),
         ("vit_base", "official", "64,128"), ("vit_base", "tuned", "64,128"), ("swin_tiny", "official", "64")]


def torch(check):
    script = os.path.join(check.root, "scripts", "bench_torch_step.py")
    if "torch" not in check.wheels:
        return not_run("%s has no PyTorch" % check.python)
    options = ["--json", "--device", "cpu" if check.emulated else "cuda"]
    if check.emulated:
        plan = [("vit_tiny.official", [check.python, script, *options, "--arch", "vit_tiny",
                                       "--batch_size_per_gpu", 1, "--local_crops_number", 1, "--out_dim",
                                       32, "--steps", 1, "--warmup", 0, "--threads", 1])]
        return measure(check, plan, 150)
    plan = [("%s.%s" % (arch, mode), [check.python, script, "--arch", arch, "--mode", mode,
                                      "--batch_size_per_gpu", batches, *options])
            for arch, mode, batches in TORCH]

    def share(left):
        """It begins nothing new after --max_seconds, and what it has begun may take --max_compile_s."""
        return 1.3 * left, ["--max_seconds", "%.0f" % (0.6 * left), "--max_compile_s", "%.0f" % (0.4 * left)]
    return measure(check, plan, share)


def lines_of_json(path):
    found = []
    try:
        with open(path, encoding="utf-8") as file:
            found = [json.loads(line) for line in file if line.startswith("{")]
    except (OSError, ValueError):
        pass
    return found


def learn(check):
    """learn_cifar10.sh in the build folder, where another call finds it again. What it keeps of itself
    goes into the result: a line for each evaluation, the times, and the curve beside the JSON."""
    if not all(check.program(name, same=True) for name in (
            "ibot-index", "ibot-loader", "ibot-train", "ibot-eval", "ibot-convert")):
        return not_run("ibot-train and what it needs are not in this build: it lacks libraries (--packages)")
    packages_on_path(check)
    options, evaluation_seconds = check.options, 75
    minutes = max(1, int((check.commands.left() - evaluation_seconds) / 60))
    folder = os.path.join(check.build, "learn_cifar10")
    argv = [os.path.join(check.root, "scripts", "learn_cifar10.sh"), "--bin", os.path.join(check.build, "bin"),
            "--data", os.path.abspath(options.cifar10), "--epochs", options.cifar10_epochs,
            "--every", -(-options.cifar10_epochs // 5), "--minutes", minutes, "--output_dir", folder]
    argv += ["--torch", check.python] if options.cifar10_torch else []
    if check.emulated:  # what is emulated would take hours: the recipe for a CPU, and little of it
        argv += ["--small", "--loaders", 1, "--", "--batch_size_per_gpu", 20, "--embed_dim", 32, "--depth", 2,
                 "--num_heads", 2, "--out_dim", 64]
    else:
        argv += ["--backend", "cuda", "--", "--matmul_cache", products(check)]
    done = check.commands.run(argv, check.commands.left())
    lines = lines_of_json(os.path.join(folder, "learn.jsonl"))
    result = {"what": "learning_run", "device": check.gpu and check.gpu["name"],
              "epochs": options.cifar10_epochs, "ended": done.code == 0,
              "evaluations": [line for line in lines if "run" in line],
              "legs": [line for line in lines if "leg" in line]}
    for line in result["evaluations"]:
        check.say("  %s, epoch %d, %.1f min: k-NN %.2f %%, linear %.2f %%" % (
            line["run"], line["epoch"], line["minutes"], line["knn_top1"], line["linear_top1"]))
    for name in ("learn.svg", "learn.png"):
        if os.path.exists(os.path.join(folder, name)):
            shutil.copy(os.path.join(folder, name), check.stem + "_" + name)
    if done.code == 75 or done.timed_out:
        return not_run("time: the same call goes on", seconds_of_it=round(done.seconds, 1), result=result)
    if done.code != 0:
        return verdict(True, reason=done.reason(), result=result)
    return verdict(not result["evaluations"], result=result)


def table(check, path):
    """bench_report.py's table of a result file, beside it; None when there is nothing to compare."""
    script = os.path.join(check.root, "scripts", "bench_report.py")
    done = check.commands.run([sys.executable, script, path], 60)
    if done.code != 0:
        check.say("no table: " + done.reason())
        return None
    with open(path[:-5] + ".md", "w", encoding="utf-8") as file:
        file.write(done.output)
    return done.output
