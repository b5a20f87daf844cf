#!/usr/bin/env bash
# Semantic segmentation with UPerNet: it learns, with its backbone and on a frozen one, goes on where it was stopped and
# ends with the same bits, measures what it has written, and says what is wrong.
source "$(dirname "$0")/processes.sh"

tiny+=(--depth 4)
train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/run" >"$work/train.log" 2>&1 || fail "training"
scenes=$work/scenes
ground=$("$IBOT_BIN/make_scenes" "$scenes") || fail "no scenes"
program=("$IBOT_BIN/ibot-eval" segment)
segment=("${program[@]}" --decoder upernet --checkpoint "$work/run" --data_path "$scenes" --num_classes 4 --crop_size 32
    --resize_size 48 --taps 0 1 2 3 --batch_size_per_gpu 4 --threads 2 --frozen off --layer_decay 0.9 --steps 160 --warmup_steps 10
    --lr 0.002 --val_freq 80)
miou() { sed -n "s/^$2: mIoU: \([0-9.]*\), aAcc: .*/\1/p" "$1"; }

"${segment[@]}" -o "$work/whole" >"$work/whole.log" 2>&1 || fail "segmenting"
awk -v best="$(miou "$work/whole.log" best)" -v last="$(miou "$work/whole.log" last)" -v ground="$ground" \
    'BEGIN { exit !(last > 60 && best >= last && last > 25 * ground + 30) }' ||
    fail "mIoU $(miou "$work/whole.log" last); all ground 25 * $ground"

# stopped behind the first validation, gone on with: the same bits
"${segment[@]}" -o "$work/parts" >"$work/parts.log" 2>&1 &
child=$!
children+=("$child")
wait_for "$work/parts/log.txt" '"step": 80,'
kill -KILL "$child" 2>/dev/null || true
wait "$child" 2>/dev/null || true
"${segment[@]}" -o "$work/parts" >"$work/second.log" 2>&1 || fail "going on"
for file in log.txt state.safetensors best.safetensors; do
    cmp "$work/whole/$file" "$work/parts/$file" || fail "$file is another one"
done

# what was written is measured alone; batches change nothing, windows may be of any shape
eval=("${program[@]}" --eval --resize_size 48 --threads 2 --checkpoint "$work/whole/best.safetensors" --data_path "$scenes")
"${eval[@]}" --masks "$work/masks" >"$work/eval.log" 2>&1 || fail "--eval"
[ "$(miou "$work/eval.log" test)" = "$(miou "$work/whole.log" best)" ] ||
    fail "--eval: $(miou "$work/eval.log" test), wanted $(miou "$work/whole.log" best)"
"${eval[@]}" --masks "$work/single" --batch_size_per_gpu 1 >"$work/eval.log" 2>&1 || fail "--eval one by one"
diff -r "$work/masks" "$work/single" || fail "batches change masks"
"${eval[@]}" --img_ratios 0.5 1 --flip >"$work/sizes.log" 2>&1 || fail "at several sizes"
awk -v a="$(miou "$work/sizes.log" test)" 'BEGIN { exit !(a > 60) }' || fail "at several sizes $(miou "$work/sizes.log" test)"

# a frozen backbone stays as it is
"${segment[@]}" --frozen on --out_with_norm off --dropout 0 --steps 100 -o "$work/frozen" >"$work/frozen.log" 2>&1 || fail "frozen"
awk -v last="$(miou "$work/frozen.log" last)" 'BEGIN { exit !(last > 50) }' || fail "frozen: $(miou "$work/frozen.log" last)"
"${segment[@]}" --frozen on --out_with_norm off --steps 1 --warmup_steps 0 -o "$work/begun" >"$work/begun.log" 2>&1 || fail "frozen, one step"
"$IBOT_BIN/ibot-convert" "$work/frozen/best.safetensors" "$work/a.safetensors" >"$work/convert.log" 2>&1 || fail "converting"
"$IBOT_BIN/ibot-convert" "$work/begun/best.safetensors" "$work/b.safetensors" >"$work/convert.log" 2>&1 || fail "converting"
cmp "$work/a.safetensors" "$work/b.safetensors" && echo "the backbone is the same" || fail "the frozen backbone has changed"

expect_error 2 'wants at least 2 images a batch' "${segment[@]}" --batch_size_per_gpu 1
expect_error 2 'takes 4 blocks, got 2 of a ViT of 4' "${segment[@]}" --taps 1 3
expect_error 2 'at least two patches, 16 px' "${segment[@]}" --crop_size 8
expect_error 2 'wanted two patches, 16 px, each way' "${eval[@]}" --img_ratios 0.2
expect_error 2 '--dropout' "${segment[@]}" --dropout 1
expect_error 2 'wanted one of linear, upernet' "${segment[@]}" --decoder fcn
expect_error 3 'holds a run with other options: --decoder linear (the run has upernet)' "${segment[@]}" -o "$work/whole" --decoder linear
echo "segmented: mIoU $(miou "$work/whole.log" last), all ground 25 * $ground; frozen $(miou "$work/frozen.log" last)"
