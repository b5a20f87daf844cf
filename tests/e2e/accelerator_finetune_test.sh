#!/usr/bin/env bash
# accelerator_finetune_test.sh IBOT_EVAL: a network that is fine-tuned on an accelerator, or on what stands
# in for one, is nearly that of the CPU, and goes on with the same bits.
source "$(dirname "$0")/processes.sh"
eval=$1

train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/run" >"$work/train.log" 2>&1 ||
    fail "training"
mkdir -p "$work/few" # of each class four, so that an emulator has an end
for class in "$data"/*; do
    mkdir -p "$work/few/$(basename "$class")"
    find "$class" -name '*.jpg' | LC_ALL=C sort | sed -n 1,4p | xargs cp -t "$work/few/$(basename "$class")"
done
finetune=(finetune --recipe cifar10_small --checkpoint "$work/run" --train "$work/few" --test "$work/few" --threads 1
    --batch_size_per_gpu 8 --update_freq 2 --epochs 2 --warmup_epochs 1 --lr 0.003 --drop_path 0.2 --pooling mean
    --finetune_head_layer 3 --init_scale 1 --model_ema --model_ema_decay 0.5)
needs_device "$eval" "${finetune[@]}" --backend cuda --deterministic --epochs 1
"$IBOT_BIN/ibot-eval" "${finetune[@]}" -o "$work/cpu" >"$work/cpu.log" 2>&1 || fail "on the CPU"
accelerated=("$eval" "${finetune[@]}" --backend cuda --deterministic)
"${accelerated[@]}" --precision f32 -o "$work/f32" >"$work/f32.log" 2>&1 || fail "in f32"
"${accelerated[@]}" -o "$work/bf16" >"$work/bf16.log" 2>&1 || fail "in bf16"
loss() { sed -n "s/.*\"$2\": \([0-9.]*\),.*\"epoch\": 1,.*/\1/p" "$work/$1/log.txt"; }
near() { # near OTHER SHARE: losses and the norm of the gradient are within that share
    for key in train_loss train_grad_norm test_loss test_ema_loss; do
        awk -v a="$(loss cpu $key)" -v b="$(loss "$1" $key)" -v share="$2" \
            'BEGIN { exit !(a > 0 && b > 0 && a - b < share * a && b - a < share * a) }' ||
            fail "$key: $(loss cpu $key) on the CPU, $(loss "$1" $key) in $1"
    done
}
near f32 0.0005
near bf16 0.05

# stopped after an epoch's state, gone on with: the same bits
"${accelerated[@]}" -o "$work/parts" >"$work/parts.log" 2>&1 &
child=$!
children+=("$child")
wait_for "$work/parts/log.txt" '"epoch": 0,'
kill -KILL "$child" 2>/dev/null || true
wait "$child" 2>/dev/null || true
"${accelerated[@]}" -o "$work/parts" >"$work/second.log" 2>&1 || fail "going on"
for file in log.txt state.safetensors best.safetensors average.safetensors; do
    cmp "$work/bf16/$file" "$work/parts/$file" || fail "$file is another one"
done
echo "test loss: $(loss cpu test_loss) on the CPU, $(loss f32 test_loss) in f32, $(loss bf16 test_loss) in bf16"
