#!/usr/bin/env bash
# Semantic segmentation: it learns, on a frozen backbone and with it, goes on where it was killed or stopped and
# ends with the same bits, measures what it has written, writes masks, and says what is wrong.
source "$(dirname "$0")/processes.sh"

train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/run" >"$work/train.log" 2>&1 || fail "training"
scenes=$work/scenes
ground=$("$IBOT_BIN/make_scenes" "$scenes") || fail "no scenes"
program=("$IBOT_BIN/ibot-eval" segment)
options=(--num_classes 4 --crop_size 32 --resize_size 48 --batch_size_per_gpu 6 --threads 1)
segment=("${program[@]}" --checkpoint "$work/run" --data_path "$scenes" "${options[@]}" --update_freq 2 --steps 60
    --warmup_steps 5 --lr 0.02 --val_freq 25 --checkpoint_every_steps 7)
miou() { sed -n "s/^$2: mIoU: \([0-9.]*\), aAcc: .*/\1/p" "$1"; }

"${segment[@]}" -o "$work/whole" >"$work/whole.log" 2>&1 || fail "segmenting"
"${segment[@]}" --steps 1 --warmup_steps 0 --lr 0 >"$work/untrained.log" 2>&1 || fail "without training"
# all ground: its share is its IoU, and there are four classes
awk -v best="$(miou "$work/whole.log" best)" -v last="$(miou "$work/whole.log" last)" \
    -v untrained="$(miou "$work/untrained.log" last)" -v ground="$ground" \
    'BEGIN { exit !(last > 60 && best >= last && last > untrained + 30 && last > 25 * ground + 30) }' ||
    fail "mIoU $(miou "$work/whole.log" last); untrained $(miou "$work/untrained.log" last), all ground 25 * $ground"
grep -q '24 pictures, 60 steps of 12 crops of 32 px, 4 classes' "$work/whole.log" || fail "other steps"
[ "$(grep -c '"step": \(25\|50\|60\),' "$work/whole/log.txt")" = 3 ] || fail "wanted a line for each validation"

# killed, and stopped, gone on with: the same bits
"${segment[@]}" -o "$work/parts" >"$work/parts.log" 2>&1 &
child=$!
children+=("$child")

wait_for "$work/parts/state.safetensors" meters.updates
kill -KILL "$child" 2>/dev/null || true
wait "$child" || true
for try in 1 2 3 4 5 6 7 8 9; do
    "${segment[@]}" -o "$work/parts" >"$work/second.log" 2>&1 &
    child=$!
    children+=("$child")
    wait_for "$work/parts/log.txt" '"step": 25,'
    kill -TERM "$child" 2>/dev/null || true
    status=0
    wait "$child" || status=$?
    [ $status = 0 ] || break
    echo "try $try: it was over before the signal"
    rm -rf "$work/parts"
done
[ $status = 75 ] || fail "exit status $status after SIGTERM"
"${segment[@]}" -o "$work/parts" >"$work/third.log" 2>&1 || fail "going on"
grep -q 'goes on after step' "$work/third.log" || fail "it did not go on"
for file in log.txt state.safetensors best.safetensors; do
    cmp "$work/whole/$file" "$work/parts/$file" || fail "$file is another one"
done

# what was written is measured alone, with every class; its masks are labels as the data set has them
eval=("${program[@]}" --eval --resize_size 48 --threads 1 --checkpoint "$work/whole/best.safetensors")
"${eval[@]}" --data_path "$scenes" --masks "$work/masks" >"$work/eval.log" 2>&1 || fail "--eval"
[ "$(miou "$work/eval.log" test)" = "$(miou "$work/whole.log" best)" ] ||
    fail "--eval: $(miou "$work/eval.log" test), wanted $(miou "$work/whole.log" best)"
for label in 1 2 3 4; do
    grep -q "^label $label: IoU: [0-9.]*, Acc: [0-9.]*$" "$work/eval.log" || fail "no score of label $label"
done
[ "$(find "$work/masks" -name '*.png' | wc -l)" = 8 ] || fail "wanted a mask of each picture"
# classes have names, in text and JSON
printf 'ground\na "disc"\nbox\nstripes\n' >"$work/names"
"${eval[@]}" --data_path "$scenes" --class_names "$work/names" >"$work/named.log" 2>&1 || fail "--class_names"
diff <(grep '^label\|^test' "$work/eval.log") <(sed 's/ (ground)\| (a "disc")\| (box)\| (stripes)//' "$work/named.log" | grep '^label\|^test') ||
    fail "names change scores"
grep -q '^label 2 (a "disc"): IoU: ' "$work/named.log" || fail "no name of label 2"
"${eval[@]}" --data_path "$scenes" --class_names "$work/names" --json >"$work/named.jsonl" 2>"$work/named.log" || fail "--class_names --json"
grep -q '^{"label": 2, "name": "a \\"disc\\"", "iou": [0-9.]*, "acc": [0-9.]*}$' "$work/named.jsonl" || fail "no name in JSON"
printf 'ground\n' >"$work/names"
expect_error 3 'names 1 classes, and there are 4' "${eval[@]}" --data_path "$scenes" --class_names "$work/names"
expect_error 2 'class_names is for --eval' "${segment[@]}" --class_names "$work/names"
# the masks as labels: their own score is perfect; without labels there are masks and no scores; batches change nothing
"${eval[@]}" --test "$scenes/images/validation" --test_labels "$work/masks" --json >"$work/perfect.jsonl" 2>"$work/perfect.log" ||
    fail "--eval against its own masks"
grep -q '^{"which": "test", "miou": 100.0000, "aacc": 100.0000, "macc": 100.0000, ' "$work/perfect.jsonl" ||
    fail "masks are not what was found: $(tail -n 1 "$work/perfect.jsonl")"
"${eval[@]}" --test "$scenes/images/validation" --masks "$work/more/masks" --batch_size_per_gpu 1 >"$work/unlabelled.txt" 2>"$work/unlabelled.log" ||
    fail "without labels"
[ ! -s "$work/unlabelled.txt" ] || fail "scores without labels"
diff -r "$work/masks" "$work/more/masks" || fail "labels or batches change masks"

# several sizes, mirrored too: other labels, which do not depend on batches
"${eval[@]}" --data_path "$scenes" --img_ratios 0.75 1 1.5 --flip --masks "$work/sizes" >"$work/sizes.log" 2>&1 || fail "at several sizes"
awk -v a="$(miou "$work/sizes.log" test)" 'BEGIN { exit !(a > 60) }' || fail "at several sizes $(miou "$work/sizes.log" test)"
diff -rq "$work/masks" "$work/sizes" >/dev/null && fail "sizes change no label"
"${eval[@]}" --data_path "$scenes" --img_ratios 0.75 1 1.5 --flip --masks "$work/sizes1" --batch_size_per_gpu 1 >/dev/null 2>&1 || fail "in other batches"
diff -r "$work/sizes" "$work/sizes1" || fail "batches change labels"

# the backbone may be trained too
"${segment[@]}" --frozen off --layer_decay 0.8 --lr 0.005 --photometric off -o "$work/tuned" >"$work/tuned.log" 2>&1 || fail "tuning"
awk -v last="$(miou "$work/tuned.log" last)" 'BEGIN { exit !(last > 60) }' || fail "tuned: $(miou "$work/tuned.log" last)"
"${eval[@]}" --data_path "$scenes" --checkpoint "$work/tuned/best.safetensors" >"$work/eval.log" 2>&1 || fail "--eval of tuned"
[ "$(miou "$work/eval.log" test)" = "$(miou "$work/tuned.log" best)" ] || fail "tuned: another mIoU"
# one block, without the norm
"${segment[@]}" --taps 1 --out_with_norm off --steps 5 --warmup_steps 0 -o "$work/one" >"$work/one.log" 2>&1 || fail "one tap"
"${eval[@]}" --data_path "$scenes" --checkpoint "$work/one/best.safetensors" >"$work/eval.log" 2>&1 || fail "--eval of one tap"
[ "$(miou "$work/eval.log" test)" = "$(miou "$work/one.log" best)" ] || fail "one tap: another mIoU"

# what has ended is told again; other options are another run; a run file repeats it
"${segment[@]}" -o "$work/whole" --json >"$work/again.log" 2>/dev/null || fail "once more"
grep -q "{\"which\": \"best\", \"miou\": $(miou "$work/whole.log" best), " "$work/again.log" || fail "another result at the second telling"
"${program[@]}" --config "$work/whole/run.yaml" --check >"$work/check.yaml" 2>&1 || fail "--check of the run file"
values() { sed 's/ *#.*//' "$1"; }
diff <(values "$work/check.yaml") <(values "$work/whole/run.yaml") || fail "the run file says something else"
expect_error 3 'holds a run with other options: --lr 0.03 (the run has 0.02)' "${segment[@]}" -o "$work/whole" --lr 0.03
printf 'x' >"$work/parts/state.safetensors"
expect_error 1 'state.safetensors' "${segment[@]}" -o "$work/parts"

expect_error 2 'give --checkpoint' "${program[@]}" --data_path "$scenes"
expect_error 2 'give --data_path' "${program[@]}" --checkpoint "$work/run" --train "$scenes/images/training"
expect_error 2 'masks is for --eval' "${segment[@]}" --masks "$work/none"
expect_error 2 'ratio_range' "${segment[@]}" --ratio_range 2 1
expect_error 2 'warmup_steps 61 exceeds' "${segment[@]}" --warmup_steps 61
expect_error 2 'would leave gaps' "${segment[@]}" --stride 33
expect_error 2 'would leave gaps' "${eval[@]}" --data_path "$scenes" --stride 33
expect_error 2 'wanted at least a patch' "${eval[@]}" --data_path "$scenes" --img_ratios 0.1
expect_error 2 'multiple of the patch' "${segment[@]}" --crop_size 30
expect_error 2 'taps: block 5' "${segment[@]}" --taps 5
expect_error 2 'no number of a block' "${segment[@]}" --taps 0.5 1
expect_error 2 'wanted 1, the last block' "${segment[@]}" --taps 0
expect_error 2 'label 4 at pixel' "${segment[@]}" --num_classes 3
expect_error 1 'images/validation' "${segment[@]}" --data_path "$work/none"
expect_error 1 'there is no classifier in it' "${eval[@]}" --data_path "$scenes" --checkpoint "$work/run"
"$IBOT_BIN/ibot-eval" finetune --checkpoint "$work/run" --train "$data" --test "$data" --resize_size 32 --epochs 1 \
    --warmup_epochs 0 --batch_size_per_gpu 50 --threads 1 -o "$work/images" >"$work/finetune.log" 2>&1 || fail "fine-tuning"
expect_error 3 'classifies whole images' "${eval[@]}" --data_path "$scenes" --checkpoint "$work/images/best.safetensors"
expect_error 3 'classifies pixels' "$IBOT_BIN/ibot-eval" finetune --eval --test "$data" --checkpoint "$work/whole/best.safetensors"
rm "$scenes/annotations/training/003.png"
expect_error 1 "003.png' has no labels" "${segment[@]}"
cp "$scenes/annotations/training/004.png" "$scenes/annotations/training/003.png"
expect_error 3 "annotations/training/003.png' is" "${segment[@]}"
expect_error 3 'begun with other images' "${segment[@]}" -o "$work/whole"
printf 'x' >"$scenes/annotations/training/003.png"
expect_error 1 '003.png' "${segment[@]}"
echo "segmented: mIoU $(miou "$work/whole.log" last), untrained $(miou "$work/untrained.log" last), all ground 25 * $ground; tuned $(miou "$work/tuned.log" last)"
