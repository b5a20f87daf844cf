#!/usr/bin/env bash
# The learning run at toy size: it trains, goes on, evaluates what it keeps, draws the curve. With
# `torch` instead: plain PyTorch on the recorded batches measures the losses that ibot-train does, and
# ibot-eval takes its teacher; skipped without PyTorch.
if [ "${1:-}" = torch ]; then
    python=$("$(dirname "$0")/../../scripts/setup_torch.sh" which) || exit 77
fi
source "$(dirname "$0")/processes.sh"
learn=$(cd "$(dirname "$0")/../.." && pwd)/scripts/learn_cifar10.sh

# 20 images of each class to learn from, 10 to tell
mkdir -p "$work/set"
mv "$data" "$work/set/train"
for class in "$work"/test/*; do
    mkdir -p "$work/set/test/$(basename "$class")"
    find "$class" -name '*.jpg' | LC_ALL=C sort | sed -n 1,10p |
        xargs cp -t "$work/set/test/$(basename "$class")"
done
chmod -R u+w "$work/set"
command=("$learn" --small --data "$work/set" --bin "$IBOT_BIN" --epochs 2 --every 1 --loaders 1
    --output_dir "$work/out")
toy=(--batch_size_per_gpu 20 --threads 1 --embed_dim 32 --depth 2 --num_heads 2 --out_dim 64
    --lr 0.004 --warmup_epochs 1)
lines() { grep -c "$1" "$work/out/learn.jsonl" || true; }

if [ "${1:-}" = torch ]; then
    OMP_NUM_THREADS=1 "${command[@]}" --torch "$python" -- "${toy[@]}" >"$work/learn.log" 2>&1 ||
        fail "the run"
    [ "$(lines '"run": "torch", "epoch": [12], .*"knn_top1": [0-9]')" = 2 ] || fail "no k-NN of PyTorch's"
    for key in train_loss train_cls train_patch; do
        for side in run torch; do
            sed -n "s/.*\"$key\": \([0-9.]*\).*/\1/p" "$work/out/$side/log.txt" >"$work/$side"
        done
        paste "$work/run" "$work/torch" | awk -v key=$key '
            { d = $1 - $2; if (d < 0) d = -d; if (!($1 > 0) || d > 1e-5 * $1) bad = 1; print key, $1, $2 }
            END { exit bad || NR != 2 }' || fail "$key is another one in PyTorch"
    done
    exit 0
fi

# stopped after its first epoch, and gone on with
"${command[@]}" -- "${toy[@]}" --stop_at_step 10 >"$work/first.log" 2>&1 || fail "the first part"
[ "$(lines '"run"')" = 2 ] || fail "wanted lines of epochs 0 and 1"
"${command[@]}" -- "${toy[@]}" >"$work/second.log" 2>&1 || fail "the second part"
for epoch in 0 1 2; do
    [ "$(lines "\"run\": \"ibot\", \"epoch\": $epoch, \"minutes\": [0-9.]*, \"knn_top1\": [0-9.]*, \"linear_top1\": [0-9]")" = 1 ] ||
        fail "wanted one line of epoch $epoch"
done
[ "$(sed -n 's/.*"minutes": \([0-9.]*\).*/\1/p' "$work/out/learn.jsonl")" = \
    "$(sed -n 's/.*"minutes": \([0-9.]*\).*/\1/p' "$work/out/learn.jsonl" | sort -n)" ] ||
    fail "minutes do not rise"
grep -q 'linear top-1' "$work/out/learn.svg" || fail "no curve"

# nothing is left to do
before=$(cat "$work/out/learn.jsonl")
"${command[@]}" -- "${toy[@]}" >"$work/third.log" 2>&1 || fail "once more"
[ "$before" = "$(cat "$work/out/learn.jsonl")" ] || fail "a run that is done was gone on with"

expect_error 2 "has no folder 'train'" "$learn" --data "$work/set/train" --bin "$IBOT_BIN" --output_dir "$work/bad"
expect_error 2 "give --data" "$learn" --bin "$IBOT_BIN" --output_dir "$work/bad"
rm -r "$work/set/test/cat"
expect_error 2 "has 9 class folders, wanted 10" "${command[@]}"
echo "learned, gone on with, evaluated and drawn"
