#!/usr/bin/env python3
"""Turns what the benchmarks printed into the table of a note: ours beside PyTorch, and which bars are
met.

  scripts/bench_report.py RESULT.json […] > tests/bench/results/DATE_gpu.md

RESULT.json holds objects that step_bench, ops_bench, bench_torch_step.py and bench_end_to_end.py print
with --json: one or more, a line each, or anywhere inside a larger object (as scripts/gpu_check.sh writes
it). What is compared must come from one device: a mixture is refused. What was not measured is said
to be so; nothing is filled in.
"""
import json
import sys

ORIGINAL_BAR, TUNED_BAR, MATRIX_BAR, STREAM_BAR = 4.0, 1.25, 0.58, 0.97
LEARNING_BAR = 0.90  # k-NN on CIFAR-10, at the end of the schedule
BAR_ARCHS = ("vit_small", "vit_base")  # of the first two; the third is vit_base's


def objects(value):
    """Every object with a `what`, wherever it is."""
    if isinstance(value, dict):
        if "what" in value:
            yield value
            return
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from objects(item)


def read(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        return list(objects(json.loads(text)))
    except ValueError:
        pass
    try:
        return [o for line in text.splitlines() if line.startswith("{") for o in objects(json.loads(line))]
    except ValueError as error:
        raise SystemExit(f"bench_report: {path}: neither a JSON document nor lines of them: {error}")


def good_runs(found):
    return [run for o in found for run in o["runs"] if "error" not in run]


def fastest(runs, batch=None):
    runs = [run for run in runs if batch is None or run["batch_size_per_gpu"] == batch]
    return max(runs, key=lambda run: run["images_per_second"], default=None)


def rate(run):
    if run is None:
        return "not measured"
    text = f"{run['images_per_second']:.0f} (batch {run['batch_size_per_gpu']}"
    if run.get("peak_memory_mib"):
        text += f", {run['peak_memory_mib'] / 1024:.1f} GiB"
    return text + ")"


def ratio(ours, theirs):
    return None if ours is None or theirs is None else ours["images_per_second"] / theirs["images_per_second"]


def verdict(value, bar, form):
    if value is None:
        return "not measured"
    return f"{form(value)}: {'met' if value >= bar else 'NOT met'} (bar {form(bar)})"


def times(value):
    return f"{value:.2f} times"


def percent(value):
    return f"{100 * value:.1f} %"


# Options of a step that are tried beside the default.
OPTIONS = {"residual_stream": "f32", "weight_gradient_branch": False, "recompute": "none",
           "skip_dropped": False}


def options_of(measured):
    """Those of a step_bench result that are not the default, in words."""
    given = [(name, measured.get(name, default)) for name, default in OPTIONS.items()]
    return ", ".join(f"--{name} {'on' if value is True else value}" for name, value in given
                     if value != OPTIONS[name])


class Network:
    """What was measured of one architecture."""

    def __init__(self, arch, found):
        self.arch = arch
        mine = [o for o in found if o.get("arch") == arch]
        self.steps = [o for o in mine if o["what"] == "step_bench"]
        steps = [o for o in self.steps if not o.get("upload")]
        self.plain = good_runs(o for o in steps if not options_of(o))
        self.tried = {options: good_runs(o for o in steps if options_of(o) == options)
                      for options in sorted({options_of(o) for o in steps} - {""})}
        # what rounds otherwise is not what others are compared with
        self.ours = good_runs(o for o in steps if o.get("residual_stream", "f32") == "f32")
        self.official = good_runs(o for o in mine if o["what"] == "torch_step" and o["mode"] == "official")
        self.tuned = good_runs(o for o in mine if o["what"] == "torch_step" and o["mode"] == "tuned")

    def common_batches(self):
        batches = [{run["batch_size_per_gpu"] for run in runs}
                   for runs in (self.ours, self.official, self.tuned) if runs]
        return sorted(set.intersection(*batches)) if batches else []

    def ratios(self, batch=None):
        ours = fastest(self.ours, batch)
        return [ratio(ours, fastest(runs, batch)) for runs in (self.official, self.tuned)]


def comparison(networks):
    lines = ["| | ours | (a) original | (b) tuned | ours / (a) | ours / (b) |", "|---|---|---|---|---|---|"]

    def line(title, network, batch):
        cells = [rate(fastest(runs, batch)) for runs in (network.ours, network.official, network.tuned)]
        cells += [f"{value:.2f}" if value is not None else "–" for value in network.ratios(batch)]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")

    for network in networks:
        line(f"{network.arch}, best batch of each", network, None)
        for batch in network.common_batches():
            line(f"{network.arch}, batch {batch}", network, batch)
    return ["Images per second, peak memory in brackets.", "", *lines]


def how_tuned(networks):
    lines = []
    for network in networks:
        best = fastest(network.tuned)
        if best is not None:
            names = ("compile", "graph", "attention", "packed", "last_rows", "precision", "stream")
            lines.append(f"- {network.arch}: " + ", ".join(f"{n} {best[n]}" for n in names if n in best))
    return ["The fastest tuned step:", "", *lines] if lines else []


def evaluations(learned, side):
    return sorted((line for o in learned for line in o["evaluations"] if line["run"] == side),
                  key=lambda line: line["epoch"])


def learning(learned):
    """Accuracy over epochs and minutes; PyTorch's at the same epochs beside it."""
    theirs = {line["epoch"]: line for line in evaluations(learned, "torch")}
    lines = []
    for line in evaluations(learned, "ibot"):
        sides = [line] + ([theirs.get(line["epoch"])] if theirs else [])
        cells = [f"{one['minutes']:.1f} | {one['knn_top1']:.2f} | {one['linear_top1']:.2f}" if one
                 else "– | – | –" for one in sides]
        lines.append(f"| {line['epoch']} | " + " | ".join(cells) + " |")
    if not lines:
        return []
    head = "| epoch | minutes | k-NN, % | linear, % |" + (
        " minutes in PyTorch | k-NN, % | linear, % |" if theirs else "")
    return ["## The learning run", "", f"CIFAR-10, a schedule of {learned[-1]['epochs']} epochs.", "", head,
            "|---" * (head.count("|") - 1) + "|", *lines, ""]


def learning_verdict(learned):
    ended = [line for o in learned if o["ended"] for line in evaluations([o], "ibot")
             if line["epoch"] == o["epochs"]]
    best = max((line["knn_top1"] / 100 for line in ended), default=None)
    return verdict(best, LEARNING_BAR, percent)


def bars(networks, streams, learned):
    lines = ["| bar | result |", "|---|---|"]
    known = {network.arch: network for network in networks}
    for arch in BAR_ARCHS:
        network = known.get(arch) or Network(arch, [])
        original, tuned = network.ratios()
        lines.append(f"| {arch}: (a), each at its best batch | {verdict(original, ORIGINAL_BAR, times)} |")
        lines.append(f"| {arch}: (b), each at its best batch | {verdict(tuned, TUNED_BAR, times)} |")
    best = fastest(known["vit_base"].ours) if "vit_base" in known else None
    share = best.get("model_share_of_matrix_rate") if best else None
    lines.append(f"| vit_base: share of the measured matrix rate | {verdict(share, MATRIX_BAR, percent)} |")
    share = best.get("model_share_of_sustained_rate") if best else None
    if share is not None:
        lines.append(f"| the same, of the rate that the chip holds for a second | {percent(share)} |")
    late = [run["steps_that_waited_for_host"] for n in networks for run in n.ours
            if "steps_that_waited_for_host" in run]
    lines.append("| no step waits for the host | " + (
        "not measured" if not late else "met" if sum(late) == 0 else f"NOT met: {sum(late)} steps did") + " |")
    for kind, title in (("replayed", "replayed stream"), ("with_loaders", "loaders on the machine")):
        shares = [o[kind].get("share_of_step_only") for o in streams if kind in o]
        shares = [s for s in shares if s is not None]
        lines.append(f"| end to end, {title} | {verdict(min(shares, default=None), STREAM_BAR, percent)} |")
    lines.append(f"| learning run: k-NN at its end | {learning_verdict(learned)} |")
    return lines


def tried(networks):
    """What options are worth: the same step with and without them."""
    lines = []
    for network in networks:
        for options, runs in network.tried.items():
            for run in sorted(runs, key=lambda run: run["batch_size_per_gpu"]):
                batch = run["batch_size_per_gpu"]
                without = fastest(network.plain, batch)
                value = ratio(run, without)
                lines.append(f"| {network.arch}, batch {batch} | `{options}` | {rate(without)} | {rate(run)} | "
                             f"{'–' if value is None else times(value)} |")
    return ["## What options are worth", "", "| | option | without | with | |", "|---|---|---|---|---|", *lines,
            ""] if lines else []


def ops(networks):
    lines = []
    for network in networks:
        run = fastest([run for run in network.ours if run.get("ops")])
        if run is None:
            continue
        lines += [f"## {network.arch}, op by op (batch {run['batch_size_per_gpu']})", "",
                  "| op | ms a step | calls | TFLOP/s | GB/s | share of the ceiling |", "|---|---|---|---|---|---|"]
        for op in sorted(run["ops"], key=lambda o: -o["seconds"]):
            lines.append(f"| {op['op']} | {1e3 * op['seconds']:.3f} | {op['calls']:.0f} | "
                         f"{1e-12 * op['flop_per_second']:.1f} | {1e-9 * op['bytes_per_second']:.0f} | "
                         f"{100 * op['share_of_ceiling']:.0f} % |"
                         if op["share_of_ceiling"] is not None else
                         f"| {op['op']} | {1e3 * op['seconds']:.3f} | {op['calls']:.0f} | | | |")
        lines += [f"| other | {1e3 * run['other_seconds']:.3f} | | | | |", ""]
    return lines


def cases(found):
    """Of ops_bench: each op alone, with cold caches."""
    lines = []
    for o in found:
        groups = ", ".join(dict.fromkeys(row["group"].split(" stage")[0] for row in o["rows"]))
        lines += [f"## Each op alone: {groups}, batch {o['batch_size_per_gpu']}, {o['precision']}", "",
                  "| | op | case | us | TFLOP/s | GB/s | share of the ceiling |", "|---|---|---|---|---|---|---|"]
        for row in o["rows"]:
            start = f"| {row['group']} | {row['op']} | {row['case']} |"
            lines.append(f"{start} {row['error']} | | | |" if "error" in row else
                         f"{start} {1e6 * row['seconds']:.1f} | {1e-12 * row['flop_per_second']:.1f} | "
                         f"{1e-9 * row['bytes_per_second']:.0f} | {100 * row['share_of_ceiling']:.0f} % |")
        lines.append("")
    return lines


def report(found):
    measured = [o for o in found if o["what"] in ("step_bench", "torch_step", "end_to_end", "ops_bench",
                                                  "learning_run")]
    learned = [o for o in measured if o["what"] == "learning_run"]
    devices = {o["device"] if "device" in o else o["step_only"]["device"] for o in measured} - {None}
    if len(devices) > 1:
        raise SystemExit(f"bench_report: results of {len(devices)} devices ({', '.join(sorted(devices))}), "
                         "wanted those of one: only times of the same hardware can be compared")
    archs = dict.fromkeys(o["arch"] for o in measured if "arch" in o)
    networks = [Network(arch, measured) for arch in archs]
    device = devices.pop() if devices else "a device without a name"
    lines = [f"# Training {'steps ' if networks else ''}on {device}", ""]
    ceilings = [o["ceilings"] for o in measured if o.get("ceilings")]
    if ceilings:
        most = {name: max(c[name] for c in ceilings) for name in
                ("matrix_flop_per_second", "copy_bytes_per_second")}
        held = [c["sustained_flop_per_second"] for c in ceilings if "sustained_flop_per_second" in c]
        lines += [f"Ceilings measured in the same run: {1e-12 * most['matrix_flop_per_second']:.1f} TFLOP/s "
                  f"(product), {1e-12 * most['copy_bytes_per_second']:.2f} TB/s (copy, read and written)."
                  + (f" A product for a second: {1e-12 * max(held):.1f} TFLOP/s." if held else ""), ""]
    if networks:
        lines += comparison(networks) + [""]
        lines += how_tuned(networks) + [""]
    streams = [o for o in measured if o["what"] == "end_to_end"]
    lines += ["## Bars", ""] + bars(networks, streams, learned) + [""]
    lines += learning(learned)
    lines += tried(networks)
    lines += ops(networks)
    lines += cases([o for o in measured if o["what"] == "ops_bench"])
    return "\n".join(lines).rstrip() + "\n"


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    found = [o for path in sys.argv[1:] for o in read(path)]
    if not found:
        raise SystemExit("bench_report: no result of a benchmark in " + ", ".join(sys.argv[1:]))
    print(report(found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
