#!/usr/bin/env python3
"""What the benchmarks print: that it is JSON, has what others read, and agrees with itself; and the
report made of it, from numbers that are made up here.

  tests/bench/bench_test.py SOURCE BIN
"""
import json
import os
import subprocess
import sys
import tempfile

SOURCE, BIN = sys.argv[1:3]
TINY = ["--arch", "vit_test", "--patch_size", "8", "--global_size", "32", "--local_size", "16",
        "--local_crops_number", "1", "--out_dim", "32", "--head_hidden_dim", "16"]
TINY_STEP = TINY + ["--bottleneck_dim", "16", "--steps", "3", "--warmup", "1", "--profile", "1"]


def check(condition, what):
    if not condition:
        raise SystemExit(f"FAIL: {what}")


def near(a, b, what, within=1e-4):
    check(abs(a - b) <= within * abs(b), f"{what}: {a} and {b}")


def run(*words, status=0):
    done = subprocess.run(list(words), capture_output=True, text=True, check=False)
    check(done.returncode == status, f"{' '.join(words)}: exit status {done.returncode}: {done.stderr}")
    return done.stdout if status == 0 else done.stderr


def program(name):
    return os.path.join(BIN, name)


# ------------------------------------------------------------------------------ programs


def check_step(result, batches, accelerator):
    check(result["what"] == "step_bench" and result["device"], "head")
    check([r["batch_size_per_gpu"] for r in result["runs"]] == batches, "batches")
    check(result["images_per_second"] == max(r["images_per_second"] for r in result["runs"]), "best")
    for r in result["runs"]:
        near(r["images_per_second"] * r["seconds_per_step"], r["batch_size_per_gpu"], "rate")
        first, third = r["seconds_per_step_quartiles"]
        check(r["seconds_per_step_least"] <= first <= r["seconds_per_step"] <= third <=
              r["seconds_per_step_most"], "quartiles")
        near(r["model_flop_per_second"],
             r["model_flop_per_image"] * r["batch_size_per_gpu"] / r["seconds_per_step"], "model rate")
        check(r["done_flop_per_image"] < r["model_flop_per_image"] < r["original_flop_per_image"], "flop")
        total = sum(op["seconds"] for op in r["ops"]) + r["other_seconds"]
        near(total, r["profiled_seconds_per_step"], "profile")
        names = {op["op"] for op in r["ops"]}
        check({"linear_forward", "attention_backward", "distill_loss", "optimizer_step"} <= names, "ops")
        check(("host_seconds_per_step" in r) == accelerator, "the host's time")
        check(r["loss"] > 0, "loss")


def check_ops(result):
    rows = {(row["op"], row["case"]): row for row in result["rows"]}
    check(len(rows) > 40, f"only {len(rows)} rows")
    for (op, case), row in rows.items():
        check("error" not in row, f"{op} {case}: {row.get('error')}")
        check(row["seconds"] > 0 and row["bytes"] > 0, f"{op} {case}: {row}")
        check((row["flop"] > 0) == op.startswith(("linear", "attention", "window")), f"{op}: flop")
        least = max(row["flop"] / result["ceilings"]["matrix_flop_per_second"],
                    row["bytes"] / result["ceilings"]["copy_bytes_per_second"])
        near(row["share_of_ceiling"], least / row["seconds"], f"{op} {case}: share")


def check_programs():
    check_step(json.loads(run(program("step_bench"), *TINY_STEP, "--batch_size_per_gpu", "2,3", "--json",
                              "--ceilings", "off")), [2, 3], False)
    ops = [*TINY, "--batch_size_per_gpu", "1", "--repeats", "1", "--json"]
    check_ops(json.loads(run(program("ops_bench"), *ops)))
    for words, reason in ((["--batch_size_per_gpu", "2,"], "wanted a whole number"),
                          (["--cuda_graph", "maybe"], "wanted on or off"),
                          (["--drop_path", "1.5"], "0 <= rate < 1")):
        check(reason in run(program("step_bench"), *words, status=64), f"step_bench {words}")
    check("no shapes for" in run(program("ops_bench"), "--arch", "resnet", status=2), "ops_bench --arch")
    check("is in the program" in run(program("step_bench"), "--backend", "cuda_emulated", status=1)
          or os.path.exists(program("libibot_cuda.so")), "the emulated kernels are elsewhere")
    if os.path.exists(program("step_bench_emulated")):
        emulated = ["--backend", "cuda_emulated", "--batch_size_per_gpu", "1"]
        check_step(json.loads(run(program("step_bench_emulated"), *TINY_STEP, *emulated, "--upload",
                                  "--json")), [1], True)
        check_ops(json.loads(run(program("ops_bench_emulated"), *ops, *emulated)))


# ------------------------------------------------------------------------------ report


def made_up_run(batch, rate, **more):
    return {"batch_size_per_gpu": batch, "images_per_second": rate, "seconds_per_step": batch / rate,
            "peak_memory_mib": 2048.0, **more}


def made_up():
    """Numbers that nobody measured."""
    op = {"op": "linear_forward", "seconds": 0.001, "calls": 4, "flop_per_second": 5e14,
          "bytes_per_second": 1e12, "share_of_ceiling": 0.5}
    ours = {"what": "step_bench", "device": "Made-up 1", "arch": "vit_base", "upload": False,
            "ceilings": {"matrix_flop_per_second": 8e14, "copy_bytes_per_second": 4e12},
            "runs": [made_up_run(64, 900.0, model_share_of_matrix_rate=0.55, steps_that_waited_for_host=0),
                     made_up_run(128, 1000.0, model_share_of_matrix_rate=0.6, ops=[op],
                                 other_seconds=0.0001, steps_that_waited_for_host=0),
                     {"batch_size_per_gpu": 256, "error": "no memory"}]}
    official = {"what": "torch_step", "mode": "official", "device": "Made-up 1", "arch": "vit_base",
                "runs": [made_up_run(64, 200.0), made_up_run(128, 260.0)]}
    tuned = {"what": "torch_step", "mode": "tuned", "device": "Made-up 1", "arch": "vit_base",
             "runs": [made_up_run(64, 640.0, compile="default", graph=True),
                      {"batch_size_per_gpu": 64, "compile": "max-autotune", "error": "not done"}]}
    stream = {"what": "end_to_end", "step_only": {"device": "Made-up 1", "images_per_second": 1000.0},
              "replayed": {"images_per_second": 980.0, "share_of_step_only": 0.98},
              "with_loaders": {"error": "no loader"}}
    row = {"group": "vit_base", "op": "cast", "case": "some", "seconds": 2e-6, "flop_per_second": 0.0,
           "bytes_per_second": 3e12, "share_of_ceiling": 0.75}
    alone = {"what": "ops_bench", "device": "Made-up 1", "batch_size_per_gpu": 64, "precision": "bf16",
             "rows": [row, {"group": "vit_base", "op": "cast", "case": "none", "error": "it can't"}]}
    half = {"what": "step_bench", "device": "Made-up 1", "arch": "vit_base", "residual_stream": "bf16",
            "runs": [made_up_run(128, 1100.0)]}
    points = [{"run": side, "epoch": epoch, "minutes": minutes, "knn_top1": knn, "linear_top1": knn + 1}
              for side, epoch, minutes, knn in (("ibot", 10, 4.0, 91.5), ("ibot", 0, 0.0, 30.25),
                                                ("ibot", 5, 2.0, 80.0), ("torch", 5, 9.0, 79.0))]
    learned = {"what": "learning_run", "device": "Made-up 1", "epochs": 10, "ended": True, "legs": [],
               "evaluations": points}
    return ours, official, tuned, stream, alone, half, learned


def report_of(folder, text, status=0):
    path = os.path.join(folder, "results.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return run(sys.executable, os.path.join(SOURCE, "scripts", "bench_report.py"), path, status=status)


def check_report(folder):
    all_of_it = made_up()
    nested = json.dumps({"parts": {"step": {"measurements": {"a": {"results": all_of_it}}}}})
    text = report_of(folder, nested)
    check(report_of(folder, "\n".join(json.dumps(o) for o in all_of_it)) == text, "lines or a document")
    for wanted in (
            "# Training steps on Made-up 1",
            "800.0 TFLOP/s (product), 4.00 TB/s",
            "| vit_base, best batch of each | 1000 (batch 128, 2.0 GiB) | 260 (batch 128, 2.0 GiB) | "
            "640 (batch 64, 2.0 GiB) | 3.85 | 1.56 |",
            "| vit_base, batch 64 | 900 (batch 64, 2.0 GiB) | 200 (batch 64, 2.0 GiB) | "
            "640 (batch 64, 2.0 GiB) | 4.50 | 1.41 |",
            "- vit_base: compile default, graph True",
            "| vit_base: (a), each at its best batch | 3.85 times: NOT met (bar 4.00 times) |",
            "| vit_base: (b), each at its best batch | 1.56 times: met (bar 1.25 times) |",
            "| vit_small: (a), each at its best batch | not measured |",
            "| vit_base: share of the measured matrix rate | 60.0 %: met (bar 58.0 %) |",
            "| no step waits for the host | met |",
            "| end to end, replayed stream | 98.0 %: met (bar 97.0 %) |",
            "| end to end, loaders on the machine | not measured |",
            "| learning run: k-NN at its end | 91.5 %: met (bar 90.0 %) |",
            "| epoch | minutes | k-NN, % | linear, % | minutes in PyTorch | k-NN, % | linear, % |\n"
            "|---|---|---|---|---|---|---|\n"
            "| 0 | 0.0 | 30.25 | 31.25 | – | – | – |\n"
            "| 5 | 2.0 | 80.00 | 81.00 | 9.0 | 79.00 | 80.00 |\n"
            "| 10 | 4.0 | 91.50 | 92.50 | – | – | – |",
            "| vit_base, batch 128 | `--residual_stream bf16` | 1000 (batch 128, 2.0 GiB) | "
            "1100 (batch 128, 2.0 GiB) | 1.10 times |",
            "| linear_forward | 1.000 | 4 | 500.0 | 1000 | 50 % |",
            "## Each op alone: vit_base, batch 64, bf16",
            "| vit_base | cast | some | 2.0 | 0.0 | 3000 | 75 % |",
            "| vit_base | cast | none | it can't | | | |"):
        check(wanted in text, f"the report lacks: {wanted}\n{text}")
    all_of_it[0]["runs"][0]["steps_that_waited_for_host"] = 3
    check("NOT met: 3 steps did" in report_of(folder, json.dumps(all_of_it)), "late steps")
    learned = all_of_it[6]
    learned["ended"] = False  # what is cut short has no end to be judged by
    check("at its end | not measured" in report_of(folder, json.dumps(all_of_it)), "a run cut short")
    alone = report_of(folder, json.dumps({**learned, "device": None}))
    check(alone.startswith("# Training on a device without a name"), "a rehearsal")
    check("| ours |" not in alone and "| 5 | 2.0 | 80.00 |" in alone, "a learning run alone")
    all_of_it[1]["device"] = "Made-up 2"
    check("results of 2 devices" in report_of(folder, json.dumps(all_of_it), status=1), "two devices")
    check("no result of a benchmark" in report_of(folder, "{}", status=1), "nothing in it")
    check("neither a JSON document" in report_of(folder, "{1}", status=1), "not JSON")


def main():
    with tempfile.TemporaryDirectory() as folder:
        check_report(folder)
    check_programs()


if __name__ == "__main__":
    main()
