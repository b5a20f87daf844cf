#!/usr/bin/env bash
# accelerator_retrieval_test.sh IBOT_EVAL: features of retrieval and of copy detection on an accelerator, or on what
# stands in for one, are nearly those of the CPU, and find the same.
source "$(dirname "$0")/processes.sh"
eval=$1

train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/run" >"$work/train.log" 2>&1 ||
    fail "training"
# images a, b, c, of which b belongs to the query q and the others are junk
truth=$IBOT_TEST_DATA/../fuzz/corpus/retrieval_truth
jpg=$work/revisited/small/jpg copies=$work/copydays
mkdir -p "$jpg" "$copies/original" "$copies/strong"
cp "$truth/arrays_protocol4" "$work/revisited/small/gnd_small.pkl"
i=0
for name in a c b; do
    i=$((i + 1))
    image=$(find "$data/cat" -name '*.jpg' | sort | sed -n "${i}p")
    cp "$image" "$jpg/$name.jpg"
    cp "$image" "$copies/original/200${i}00.jpg"
    cp "$image" "$copies/strong/200${i}01.jpg"
done
cp "$jpg/b.jpg" "$jpg/q.jpg"
weights=(--checkpoint "$work/run" --threads 1 --json)
retrieval=(retrieval "${weights[@]}" --data "$work/revisited" --dataset small --imsize 40 --multiscale)
detection=(copy_detection "${weights[@]}" --data "$copies" --imsize 48 --batch_size_per_gpu 4 --distractors "$data/dog"
    --whitening "$data")
needs_device "$eval" "${retrieval[@]}" --backend cuda
compute() { # NAME PROGRAM OPTIONS…
    local name=$1 program=$2
    shift 2
    "$program" "${retrieval[@]}" -o "$work/$name" "$@" >"$work/$name.retrieval" 2>"$work/$name.log" || fail "retrieval, $name"
    "$program" "${detection[@]}" -o "$work/$name" "$@" >"$work/$name.copies" 2>"$work/$name.log" || fail "copies, $name"
}
compute cpu "$IBOT_BIN/ibot-eval"
compute f32 "$eval" --backend cuda --precision f32
compute bf16 "$eval" --backend cuda
python3 - "$work" <<'END' || fail "other features than on the CPU"
import json, struct, sys
def features(name):
    raw = open(f"{sys.argv[1]}/{name}.safetensors", "rb").read()
    n, = struct.unpack("<Q", raw[:8])
    a, b = json.loads(raw[8:8 + n])["values"]["data_offsets"]
    return struct.unpack(f"<{(b - a) // 4}f", raw[8 + n + a:8 + n + b])
def results(name):
    return [json.loads(line) for line in open(f"{sys.argv[1]}/{name}")]
for other, most in (("f32", 1e-5), ("bf16", 0.1)):
    worst = []
    for name, rows in (("small-images", 3), ("small-queries", 1), ("copydays", 6), ("distractors", 20), ("whitening", 200)):
        cpu, got = features(f"cpu/{name}"), features(f"{other}/{name}")
        assert len(cpu) == len(got) == rows * (32 if name.startswith("small") else 64)
        worst.append(max(abs(x - y) for x, y in zip(cpu, got)))
    print(f"{other}: largest differences of features " + ", ".join(f"{w:.1e}" for w in worst))
    assert max(worst) < most
    assert results(f"{other}.retrieval") == results("cpu.retrieval")
    assert [line["map"] for line in results(f"{other}.copies")] == [100.0, 100.0]
assert [line["map"] for line in results("cpu.copies")] == [100.0, 100.0]
END
