#!/usr/bin/env bash
# accelerator_segment_test.sh IBOT_EVAL: a segmentation on an accelerator, or on what stands in for one, is nearly
# that of the CPU, and goes on with the same bits.
source "$(dirname "$0")/processes.sh"
eval=$1

train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/run" >"$work/train.log" 2>&1 || fail "training"
"$IBOT_BIN/make_scenes" "$work/scenes" >/dev/null || fail "no scenes"
for kind in images annotations; do # few, so that an emulator has an end
    rm "$work/scenes/$kind/validation"/00[2-7].png
done
segment=(segment --checkpoint "$work/run" --data_path "$work/scenes" --num_classes 4 --crop_size 32 --resize_size 40
    --batch_size_per_gpu 4 --update_freq 2 --steps 6 --warmup_steps 2 --lr 0.01 --val_freq 3 --threads 1)
needs_device "$eval" "${segment[@]}" --backend cuda --deterministic --steps 2
number() { sed -n "s/.*\"step\": 6, .*\"$2\": \([0-9.]*\),.*/\1/p" "$work/$1/log.txt"; }
near() { # near ONE OTHER SHARE: losses and the norm of the gradient are within that share, mIoU within a few points
    for key in train_loss train_grad_norm; do
        awk -v a="$(number "$1" $key)" -v b="$(number "$2" $key)" -v share="$3" \
            'BEGIN { exit !(a > 0 && b > 0 && a - b < share * a && b - a < share * a) }' ||
            fail "$key: $(number "$1" $key) in $1, $(number "$2" $key) in $2"
    done
    awk -v a="$(number "$1" test_miou)" -v b="$(number "$2" test_miou)" -v points="$4" \
        'BEGIN { exit !(a > 0 && b > 0 && a - b < points && b - a < points) }' ||
        fail "mIoU: $(number "$1" test_miou) in $1, $(number "$2" test_miou) in $2"
}
for frozen in on off; do
    "$IBOT_BIN/ibot-eval" "${segment[@]}" --frozen $frozen -o "$work/cpu_$frozen" >"$work/cpu.log" 2>&1 || fail "on the CPU"
    for precision in f32 bf16; do
        "$eval" "${segment[@]}" --frozen $frozen --backend cuda --deterministic --precision $precision \
            -o "$work/${precision}_$frozen" >"$work/$precision.log" 2>&1 || fail "in $precision"
    done
    near "cpu_$frozen" "f32_$frozen" 0.0005 0.1
    near "cpu_$frozen" "bf16_$frozen" 0.05 5
done

# UPerNet, of a deeper network, for few steps
tiny+=(--depth 4)
train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/deep" >"$work/train.log" 2>&1 || fail "training"
upernet=("${segment[@]}" --checkpoint "$work/deep" --decoder upernet --taps 0 1 2 3 --frozen off --update_freq 1
    --crop_size 16 --resize_size 20)
"$IBOT_BIN/ibot-eval" "${upernet[@]}" -o "$work/cpu_upernet" >"$work/cpu.log" 2>&1 || fail "UPerNet on the CPU"
"$eval" "${upernet[@]}" --backend cuda --deterministic --precision bf16 -o "$work/bf16_upernet" \
    >"$work/bf16.log" 2>&1 || fail "UPerNet in bf16"
near cpu_upernet bf16_upernet 0.3 15 # batch norm magnifies what differs; PyTorch's values are elsewhere

# killed behind a state, gone on with: the same bits
accelerated=("$eval" "${segment[@]}" --frozen off --backend cuda --deterministic --precision bf16)
"${accelerated[@]}" -o "$work/parts" >"$work/parts.log" 2>&1 &
child=$!
children+=("$child")
wait_for "$work/parts/log.txt" '"step": 3,'
kill -KILL "$child" 2>/dev/null || true
wait "$child" 2>/dev/null || true
"${accelerated[@]}" -o "$work/parts" >"$work/second.log" 2>&1 || fail "going on"
for file in log.txt state.safetensors best.safetensors; do
    cmp "$work/bf16_off/$file" "$work/parts/$file" || fail "$file is another one"
done
echo "mIoU: $(number cpu_on test_miou) on the CPU, $(number f32_on test_miou) in f32, $(number bf16_on test_miou) in bf16"
