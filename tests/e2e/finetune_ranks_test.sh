#!/usr/bin/env bash
# finetune_ranks_test.sh IBOT_EVAL cpu|cuda [RUN_RANKS]: ranks of B images fine-tune as one with all of them,
# measure each test image once, go on where they were stopped with the same bits, and say what is wrong.
source "$(dirname "$0")/eval_ranks.sh"

few=$work/few n=2 b=8 # of each class ten images in training, which is no multiple of three ranks
for class in "$data"/*; do
    mkdir -p "$few/$(basename "$class")"
    find "$class" -name '*.jpg' | LC_ALL=C sort | sed -n 1,10p | xargs cp -t "$few/$(basename "$class")"
done
rm "$(find "$few/cat" -name '*.jpg' | LC_ALL=C sort | sed -n 1p)" # 99: nor of two
[ "$backend" = cuda ] || n=3
finetune=(finetune --recipe cifar10_small --checkpoint "$work/run" --train "$few" --test "$few" --update_freq 2
    --epochs 3 --warmup_epochs 1 --lr 0.01 --lr_batch 48 --layer_decay 0.9 --drop_path 0.2 --reprob 0.5 --init_scale 1
    --finetune_head_layer 1 --model_ema --model_ema_decay 0.9)

# without mixing, which each rank does among its own images: ranks end where one process does
plain=("${finetune[@]}" --mixup 0 --cutmix 0)
ranks $n -- "${plain[@]}" --batch_size_per_gpu $b -o "$work/many" >"$work/many.log" 2>&1 || {
    ! grep -q 'no MPI' "$work/many.log" || { echo "SKIPPED: built without MPI"; exit 77; }
    fail "$n ranks"
}
"$program" "${plain[@]}" "${hardware[@]}" --batch_size_per_gpu $((n * b)) -o "$work/one" >"$work/one.log" 2>&1 || fail "one"
grep -q "99 images, [0-9]* updates of $((2 * n * b)) images in each of 3 epochs" "$work/many.log" || fail "other steps"
"$IBOT_BIN/compare_states" "$work/one/state.safetensors" "$work/many/state.safetensors" 1e-5 >"$work/compare.log" 2>&1 ||
    fail "$n ranks end elsewhere than one"
value() { sed -n "s/.*\"$2\": \([0-9.e-]*\),.*\"epoch\": $3,.*/\1/p" "$work/$1/log.txt"; }
for epoch in 0 1 2; do
    for key in train_lr train_loss train_grad_norm train_class_acc test_loss test_acc1 test_acc5 test_ema_loss; do
        near "$(value one $key $epoch)" "$(value many $key $epoch)" 1e-5 ||
            fail "$key: $(value one $key $epoch) of one, $(value many $key $epoch) of $n ranks"
    done
done
[ "$(grep -c '^best: ' "$work/many.log")" = 1 ] || fail "not one rank alone prints results"
! grep -q 'rank [1-9]\[.* info: ' "$work/many.log" || fail "each rank says the same"
top1() { sed -n 's/^\(test\|best\): Top1: \([0-9.]*\), Top5: .*/\2/p' "$1"; }
ranks $n -- finetune --eval --checkpoint "$work/many/best.safetensors" --test "$few" --resize_size 32 \
    --batch_size_per_gpu $b >"$work/eval.log" 2>&1 || fail "--eval"
[ "$(top1 "$work/eval.log")" = "$(top1 "$work/many.log")" ] || fail "--eval: another accuracy"

# mixed: one rank is asked to stop, both save and end with 75; gone on with: the same bits
mixed=("${finetune[@]}" --batch_size_per_gpu $b --epochs 6 --checkpoint_every_steps 2)
ranks 2 -- "${mixed[@]}" -o "$work/whole" >"$work/whole.log" 2>&1 || fail "two ranks, mixed"
for try in 1 2 3 4 5 6 7 8 9; do # until the signal comes before the end
    rm -rf "$work/parts"
    status=0
    ranks 2 -- "${mixed[@]}" -o "$work/parts" >"$work/parts.log" 2>&1 &
    launched=$!
    wait_for "$work/parts/log.txt" '"epoch": 0,'
    kill -TERM "$(cat "$work/rank.1")" 2>/dev/null || true
    wait "$launched" || status=$?
    [ "$status" -eq 0 ] || break
    echo "try $try: it was over before the signal"
done
[ "$status" -eq 75 ] || fail "exit status $status after SIGTERM to one rank"
ranks 2 -- "${mixed[@]}" -o "$work/parts" >"$work/second.log" 2>&1 || fail "going on"
grep -q 'goes on after batch' "$work/second.log" || fail "they did not go on"
for file in log.txt state.safetensors best.safetensors average.safetensors; do
    cmp "$work/whole/$file" "$work/parts/$file" || fail "$file is another one"
done

dies killed "${mixed[@]}" --epochs 2000 --val_freq 2000

# ranks that were started with other things
expect_error 3 'rank 1 has --smoothing 0.2, rank 0 has 0.1: start all ranks with the same options' \
    ranks 2 0:IBOT_SMOOTHING=0.1 1:IBOT_SMOOTHING=0.2 -- "${finetune[@]}" --batch_size_per_gpu $b
expect_error 3 'rank 1 has the images train .*, rank 0 has train ' \
    ranks 2 1:IBOT_CROP_SCALE='0.5 1' 0:IBOT_CROP_SCALE='0.5 1' 1:IBOT_RESIZE_SIZE=36 -- "${mixed[@]}"
expect_error 3 'rank 1 has --checkpoint_every_steps 3, rank 0 has 0' \
    ranks 2 1:IBOT_CHECKPOINT_EVERY_STEPS=3 -- "${finetune[@]}" --batch_size_per_gpu $b
expect_error 3 'rank 1 has to go on after batch 0, rank 0 has [0-9]*: --output_dir must be one folder' \
    ranks 2 0:IBOT_OUTPUT_DIR="$work/whole" 1:IBOT_OUTPUT_DIR="$work/elsewhere" -- "${mixed[@]}"
expect_error 3 'holds a run of 2 ranks, and here are 1' "$program" "${mixed[@]}" "${hardware[@]}" -o "$work/whole"
expect_error 2 '99 training images make no step of 2 batches of 30 on 2 ranks' \
    ranks 2 -- "${finetune[@]}" --batch_size_per_gpu 30
expect_error 2 'ibot-eval is one process, and here are 2 ranks' ranks 2 -- cluster --test "$data" --checkpoint "$work/run"
echo "$n ranks: $(cat "$work/compare.log")"
