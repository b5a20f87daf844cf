#!/usr/bin/env bash
# accelerator_analyze_test.sh IBOT_ANALYZE: attention, matches and prototypes on an accelerator, or on
# what stands in for one, are nearly those of the CPU.
source "$(dirname "$0")/processes.sh"
analyze=$1

train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/run" >"$work/train.log" 2>&1 ||
    fail "training"
weights=(--checkpoint "$work/run" --threads 1 --json)
attention=(attention "${weights[@]}" "$data" --show_pics 6 --image_size 48 -o "$work/pictures")
pairs=(correspondence "${weights[@]}" "$data/cat" --show_nums 0 --image_size 48 --eval_radius 1
    -o "$work/pictures")
patterns=(patterns "${weights[@]}" "$data/dog" --show_pics 0 --image_size 32 -o "$work/pictures")
needs_device "$analyze" "${attention[@]}" --backend cuda
compute() { # NAME PROGRAM OPTIONS…
    local name=$1 program=$2
    shift 2
    "$program" "${attention[@]}" "$@" >"$work/$name.attention" 2>"$work/$name.log" || fail "attention, $name"
    "$program" "${pairs[@]}" "$@" >"$work/$name.pairs" 2>"$work/$name.log" || fail "correspondence, $name"
    "$program" "${patterns[@]}" --memory "$work/$name.memory" "$@" >"$work/$name.out" 2>"$work/$name.log" ||
        fail "patterns, $name"
}
compute cpu "$IBOT_BIN/ibot-analyze"
compute f32 "$analyze" --backend cuda --precision f32
compute bf16 "$analyze" --backend cuda --gelu erf
python3 - "$work" <<'END' || fail "other numbers than on the CPU"
import json, struct, sys
def lines(name):
    return [json.loads(line) for line in open(f"{sys.argv[1]}/{name}")]
def memory(name):
    raw = open(f"{sys.argv[1]}/{name}.memory", "rb").read()
    n, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + n])
    def read(key, letter):
        a, b = header[key]["data_offsets"]
        return struct.unpack(f"<{(b - a) // 4}{letter}", raw[8 + n + a:8 + n + b])
    return read("memory_bank.index", "i"), read("memory_bank.value", "f")
# differences of attention, of accuracy in points, of logits (cosines), share of other prototypes
for other, most in (("f32", (1e-6, 1, 1e-4, 0.01)), ("bf16", (2e-4, 5, 0.03, 0.2))):
    cpu, got = lines("cpu.attention"), lines(other + ".attention")
    assert len(cpu) == len(got) == 6
    worst = max(abs(x - y) for a, b in zip(cpu, got) for h, k in zip(a["heads"], b["heads"])
                for x, y in zip(h["attention"] + [h["cls"]], k["attention"] + [k["cls"]]))
    accuracy = abs(lines("cpu.pairs")[-1]["accuracy"] - lines(other + ".pairs")[-1]["accuracy"])
    (index, value), (index2, value2) = memory("cpu"), memory(other)
    logit = max(abs(x - y) for x, y in zip(value, value2))
    moved = sum(x != y for x, y in zip(index, index2)) / len(index)
    print(f"{other}: attention {worst:.1e}, accuracy {accuracy:.2f}, logits {logit:.1e}, other prototypes {moved:.3f}")
    assert len(index) == len(index2) == 320
    assert all(x <= y for x, y in zip((worst, accuracy, logit, moved), most))
END
