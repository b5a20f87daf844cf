#!/usr/bin/env bash
# accelerator_test.sh IBOT_TRAIN [images of each class]: whole runs on an accelerator, or on what
# stands in for one: near those of the CPU, with the same bits when they are interrupted or not
# recorded; checkpoints go from one to the other.
source "$(dirname "$0")/processes.sh"
program=$1 images=${2:-20}

for class in "$data"/*; do
    find "$class" -name '*.jpg' | LC_ALL=C sort | sed -n "$((images + 1)),\$p" | xargs -r rm
done
steps=$((images * 10 / 4))
small=("${tiny[@]}" --data "$data" --loaders 1 --batch_size_per_gpu 4 --epochs 2
    --freeze_last_layer 0 --keep_checkpoints 9)
cpu() { "$IBOT_BIN/ibot-train" "${small[@]}" "$@" >>"$work/train.log" 2>&1 || fail "on the CPU: $*"; }
acc() {
    "$program" "${small[@]}" --backend cuda "$@" >>"$work/train.log" 2>&1 || fail "$program: $*"
}
losses() { sed -n 's/.*"train_loss": \([0-9.]*\).*/\1/p' "$1/log.txt"; }
# within LIMIT of each other, epoch by epoch
expect_near() {
    paste <(losses "$1") <(losses "$2") | awk -v limit="$3" '
        NF != 2 || ($1 - $2) / $1 > limit || ($2 - $1) / $1 > limit { bad = 1 }
        { n++; print }
        END { exit bad || n != 2 }' >"$work/near.log" || fail "losses of $1 and $2 differ"
}

needs_device "$program" "${small[@]}" --backend cuda -o "$work/device" --stop_at_step 1
cpu -o "$work/cpu"
acc -o "$work/f32" --precision f32
expect_near "$work/cpu" "$work/f32" 0.002
acc -o "$work/bf16"
expect_near "$work/cpu" "$work/bf16" 0.02

# step by step the same bits: call by call, with weights on a branch of their own, and in two parts
acc -o "$work/plain" --cuda_graph off
[ "$(state_of "$work/bf16")" = "$(state_of "$work/plain")" ] || fail "recorded steps end elsewhere"
[ "$(losses "$work/bf16")" = "$(losses "$work/plain")" ] || fail "recorded steps have other losses"
acc -o "$work/apart" --weight_gradient_branch on
[ "$(state_of "$work/bf16")" = "$(state_of "$work/apart")" ] || fail "weights apart end elsewhere"
acc -o "$work/parts" --stop_at_step $((steps + 3))
acc -o "$work/parts"
[ "$(state_of "$work/bf16")" = "$(state_of "$work/parts")" ] || fail "two parts end elsewhere"
[ "$(losses "$work/bf16")" = "$(losses "$work/parts")" ] || fail "two parts have other losses"

# a residual stream of bf16: near, and the same bits recorded or not, whole or in two parts
narrow=(--residual_stream bf16 --deterministic)
acc -o "$work/narrow" "${narrow[@]}" --cuda_graph off
expect_near "$work/cpu" "$work/narrow" 0.02
acc -o "$work/narrow_parts" "${narrow[@]}" --stop_at_step $((steps + 3))
acc -o "$work/narrow_parts" "${narrow[@]}"
[ "$(state_of "$work/narrow")" = "$(state_of "$work/narrow_parts")" ] ||
    fail "two parts with a narrow stream end elsewhere"

# what the emulated library's algorithms took is kept, once for each product, and decides on the bits
kept=$work/cache/ibot/matrix_products
if [ -e "$kept" ]; then
    [ -z "$(cut -f 3 "$kept" | sort | uniq -d)" ] || fail "a product is kept twice"
    cp "$kept" "$work/kept"
    acc -o "$work/again"
    [ "$(state_of "$work/bf16")" = "$(state_of "$work/again")" ] || fail "kept choices end elsewhere"
    cmp -s "$kept" "$work/kept" || fail "what was kept has changed"
    acc -o "$work/untuned" --deterministic
    cmp -s "$kept" "$work/kept" || fail "a deterministic run kept choices"
    expect_near "$work/bf16" "$work/untuned" 0.01
elif [[ $program == *emulated ]]; then
    fail "nothing was kept"
fi

# from the CPU to the accelerator and back, at the end of an epoch and within one
cpu -o "$work/mixed" --stop_at_step "$steps"
acc -o "$work/mixed" --precision f32 --stop_at_step $((steps + 2))
acc -o "$work/mixed" --residual_stream bf16 --stop_at_step $((steps + 3))
cpu -o "$work/mixed"
expect_near "$work/cpu" "$work/mixed" 0.002

expect_error 2 'float32' "$IBOT_BIN/ibot-train" "${small[@]}" --precision bf16 -o "$work/none"
expect_error 2 'all that a CPU has' "$IBOT_BIN/ibot-train" "${small[@]}" --residual_stream bf16 -o "$work/none"
echo "losses: CPU" $(losses "$work/cpu"), "f32" $(losses "$work/f32"), "bf16" $(losses "$work/bf16")
