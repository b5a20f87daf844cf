#!/usr/bin/env bash
# A network that is fine-tuned: it learns, goes on where it was killed or stopped and ends with the same
# bits, keeps the best weights for --eval and other tools, and says what is wrong.
source "$(dirname "$0")/processes.sh"

train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/run" >"$work/train.log" 2>&1 ||
    fail "training"
program=("$IBOT_BIN/ibot-eval" finetune)
finetune=("${program[@]}" --recipe cifar10_small --checkpoint "$work/run" --train "$data" --test "$data"
    --batch_size_per_gpu 24 --update_freq 2 --epochs 60 --warmup_epochs 1 --threads 1 --finetune_head_layer 1
    --init_scale 1 --lr 0.01 --layer_decay 0.9 --model_ema --model_ema_decay 0.9 --drop_path 0.1 --mixup_prob 0.1 --reprob 0.1
    --checkpoint_every_steps 3)

"${finetune[@]}" -o "$work/whole" >"$work/whole.log" 2>&1 || fail "fine-tuning"
top1() { sed -n "s/^$2: Top1: \([0-9.]*\), Top5: .*/\1/p" "$1"; }
accuracy() { sed -n "s/.*\"test_acc1\": \([0-9.]*\), .*\"epoch\": $1,.*/\1/p" "$work/whole/log.txt"; }
awk -v best="$(top1 "$work/whole.log" best)" -v last="$(top1 "$work/whole.log" last)" -v first="$(accuracy 0)" \
    'BEGIN { exit !(last > 30 && best >= last && best > first + 10) }' ||
    fail "10 classes: $(accuracy 0) % at first, then $(top1 "$work/whole.log" best) at best, $(top1 "$work/whole.log" last) in the end"
[ "$(wc -l <"$work/whole/log.txt")" = 60 ] || fail "wanted a line for each epoch"
# 200 images: 8 batches of 24, of which 2 make a step
grep -q '200 images, 4 updates of 48 images in each of 60 epochs, 10 classes' "$work/whole.log" || fail "other steps"

# killed in the middle of an epoch, and stopped, gone on with: the same bits
"${finetune[@]}" -o "$work/parts" >"$work/parts.log" 2>&1 &
child=$!
children+=("$child")
wait_for "$work/parts/log.txt" '"epoch": 1,'
kill -KILL "$child" 2>/dev/null || true
wait "$child" || true
for try in 1 2 3 4 5 6 7 8 9; do
    "${finetune[@]}" -o "$work/parts" >"$work/second.log" 2>&1 &
    child=$!
    children+=("$child")
    wait_for "$work/parts/log.txt" '"epoch": 3,'
    kill -TERM "$child" 2>/dev/null || true
    status=0
    wait "$child" || status=$?
    [ $status = 0 ] || break
    echo "try $try: it was over before the signal"
    rm -rf "$work/parts"
done
[ $status = 75 ] || fail "exit status $status after SIGTERM"
"${finetune[@]}" -o "$work/parts" >"$work/third.log" 2>&1 || fail "going on"
grep -q 'goes on after batch' "$work/third.log" || fail "it did not go on"
for file in log.txt state.safetensors best.safetensors average.safetensors; do
    cmp "$work/whole/$file" "$work/parts/$file" || fail "$file is another one"
done

# what was written is a network: measured alone, it is as good; others take its backbone
eval=("${program[@]}" --eval --test "$data" --resize_size 32 --batch_size_per_gpu 32 --threads 1)
for which in best average; do
    "${eval[@]}" --checkpoint "$work/whole/$which.safetensors" >"$work/eval.log" 2>&1 || fail "--eval of $which"
    wanted=$(top1 "$work/whole.log" "best$([ $which = best ] || echo ' average')")
    [ "$(top1 "$work/eval.log" test)" = "$wanted" ] || fail "$which: $(top1 "$work/eval.log" test), wanted $wanted"
done
"$IBOT_BIN/ibot-eval" knn --train "$data" --test "$data" --nb_knn 5 --checkpoint "$work/whole/best.safetensors" \
    >"$work/knn.log" 2>&1 || fail "k-NN of what was fine-tuned"
grep -q '30 tensors loaded, 0 missing, 0 unexpected, 4 outside' "$work/knn.log" || fail "no backbone in it"

# what has ended is told again; other options are another run; a run file repeats it
"${finetune[@]}" -o "$work/whole" --json >"$work/again.log" 2>/dev/null || fail "once more"
grep -q "{\"which\": \"best\", \"top1\": $(top1 "$work/whole.log" best), " "$work/again.log" ||
    fail "another result at the second telling"
"${program[@]}" --config "$work/whole/run.yaml" --check >"$work/check.yaml" 2>&1 || fail "--check of the run file"
values() { sed 's/ *#.*//' "$1"; }
diff <(values "$work/check.yaml") <(values "$work/whole/run.yaml") || fail "the run file says something else"
expect_error 3 'holds a run with other options: --lr 0.02 (the run has 0.01)' "${finetune[@]}" -o "$work/whole" --lr 0.02
expect_error 3 'begun with other images or crops' "${finetune[@]}" -o "$work/whole" --resize_size 36
printf 'x' >"$work/parts/state.safetensors"
expect_error 1 'state.safetensors' "${finetune[@]}" -o "$work/parts"

# the other ways to a classifier, and back
short=("${program[@]}" --checkpoint "$work/run" --train "$data" --test "$data" --resize_size 32 --epochs 1
    --warmup_epochs 0 --batch_size_per_gpu 50 --threads 1)
for layers in 0 3; do
    "${short[@]}" --pooling mean --finetune_head_layer $layers -o "$work/mean$layers" >"$work/mean.log" 2>&1 || fail "mean $layers"
    "${eval[@]}" --checkpoint "$work/mean$layers/best.safetensors" >"$work/eval.log" 2>&1 || fail "--eval of mean $layers"
    [ "$(top1 "$work/eval.log" test)" = "$(top1 "$work/mean.log" best)" ] || fail "mean $layers: another accuracy"
done
# at another resolution the positions are interpolated
"${short[@]}" --crop_size 48 --resize_size 48 --aa none --color_jitter 0.4 >"$work/larger.log" 2>&1 || fail "at 48 px"
grep -q '1 interpolated to another resolution' "$work/larger.log" || fail "nothing was interpolated"

expect_error 2 'give --checkpoint, --train and --test' "${program[@]}" --train "$data" --test "$data"
"${short[@]}" --aa rand-m5-n3 --repeated_aug --train_interpolation random >"$work/augmented.log" 2>&1 || fail "augmented"
expect_error 2 "rand" "${short[@]}" --aa rand-z3
expect_error 2 'mixed in pairs' "${short[@]}" --batch_size_per_gpu 25
expect_error 2 'warmup_epochs 3 exceeds' "${short[@]}" --warmup_epochs 3
expect_error 2 'crop_scale' "${short[@]}" --crop_scale 1 0.5
expect_error 2 '200 training images make no step of 5 batches of 50' "${short[@]}" --update_freq 5
expect_error 2 'stands for' "${short[@]}" --crop_size 4
expect_error 1 'there is no classifier in it' "${eval[@]}" --checkpoint "$work/run"
expect_error 1 'no projection head in it' "${short[@]}" --checkpoint "$work/mean0/best.safetensors" --finetune_head_layer 1
mkdir -p "$work/fewer"
cp -r "$data/cat" "$work/fewer"
expect_error 3 'wanted the same names in both' "${short[@]}" --test "$work/fewer"
expect_error 3 'tells 10 classes apart, and --test has 1' "${eval[@]}" --checkpoint "$work/mean0/best.safetensors" --test "$work/fewer"
echo "fine-tuned: $(accuracy 0) % after an epoch, best $(top1 "$work/whole.log" best) %, last $(top1 "$work/whole.log" last) %"
