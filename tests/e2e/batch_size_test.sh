#!/usr/bin/env bash
# batch_size_test.sh IBOT_TRAIN: --batch_size_per_gpu auto on what stands in for an accelerator. What
# was chosen is in the run's files, the rate follows it, and a run that goes on keeps it.
source "$(dirname "$0")/processes.sh"
program=$1
batch_of() { sed -n 's/^batch_size_per_gpu: \([0-9]*\).*/\1/p' "$1/run.yaml"; }
small=("${tiny[@]}" --data "$data" --loaders 1 --batch_size_per_gpu auto --epochs 2 --lr 0.01 --backend cuda)

# With so much memory there is room for a few images.
export IBOT_QUEUED_MEMORY=$((8 << 20))
"$program" "${small[@]}" -o "$work/run" --stop_at_step 3 >"$work/first.log" 2>&1 || fail "the first part"
chosen=$(sed -n 's/.*batch_size_per_gpu auto: \([0-9]*\) images, planned memory.*/\1/p' "$work/first.log")
[ -n "$chosen" ] && [ $((chosen % 8)) = 0 ] && [ "$chosen" -lt 100 ] || fail "chose '$chosen'"
[ "$(batch_of "$work/run")" = "$chosen" ] || fail "not in run.yaml"

# with more memory a run that begins chooses more; this one goes on as it began
export IBOT_QUEUED_MEMORY=$((16 << 20))
"$program" "${small[@]}" -o "$work/run" >"$work/second.log" 2>&1 || fail "the second part"
[ "$(batch_of "$work/run")" = "$chosen" ] || fail "gone on with another batch"
"$program" "${small[@]}" -o "$work/other" --stop_at_step 1 >"$work/other.log" 2>&1 || fail "another run"
more=$(batch_of "$work/other")
[ "$more" -gt "$chosen" ] || fail "more memory, $more images instead of $chosen"

# the same as the number: bits, and the rate that follows from it
"$program" "${tiny[@]}" --data "$data" --loaders 1 --batch_size_per_gpu "$chosen" --epochs 2 --lr 0.01 \
    --backend cuda -o "$work/number" >"$work/number.log" 2>&1 || fail "with the number"
[ "$(state_of "$work/run")" = "$(state_of "$work/number")" ] || fail "the number gives other bits"
cmp "$work/run/log.txt" "$work/number/log.txt" || fail "the number gives another log"

expect_error 1 'a batch of 8 wants' env IBOT_QUEUED_MEMORY=100000 "$program" "${small[@]}" -o "$work/none"
expect_error 2 'give a number' "$IBOT_BIN/ibot-train" "${tiny[@]}" --data "$data" \
    --batch_size_per_gpu auto -o "$work/none"
expect_error 2 'from 1 to 65536 images, or auto' "$IBOT_BIN/ibot-train" --batch_size_per_gpu 0
echo "chose $chosen and $more images"
