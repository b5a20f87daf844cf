#!/usr/bin/env bash
# segment_ranks_test.sh IBOT_EVAL cpu|cuda [RUN_RANKS]: ranks of B crops segment as one process with the crops of all,
# with a linear layer and with UPerNet, whose batch norm is one of all ranks; they measure each test picture once, go on
# where they were stopped with the same bits, and say what is wrong.
source "$(dirname "$0")/eval_ranks.sh"

scenes=$work/scenes
"$IBOT_BIN/make_scenes" "$scenes" >/dev/null || fail "no scenes"
rm "$scenes"/images/validation/*7.png # seven test pictures: no multiple of the ranks
n=2 b=4 steps=12
[ "$backend" = cuda ] || n=3
segment=(segment --checkpoint "$work/run" --data_path "$scenes" --num_classes 4 --crop_size 32 --resize_size 48 --steps $steps
    --warmup_steps 2 --lr 0.02 --val_freq 6 --checkpoint_every_steps 4)
miou() { sed -n "s/^$2: mIoU: \([0-9.]*\), aAcc: .*/\1/p" "$1"; }
value() { sed -n "s/.*\"step\": $3, .*\"$2\": \([0-9.e-]*\),.*/\1/p" "$work/$1/log.txt"; }

# both NAME LIMIT NUMBERS OPTIONS…: one process and ranks end in states within LIMIT, their numbers within NUMBERS
both() {
    local name=$1 limit=$2 numbers=$3
    shift 3
    ranks $n -- "${segment[@]}" --batch_size_per_gpu $b "$@" -o "$work/$name.many" >"$work/$name.many.log" 2>&1 || {
        ! grep -q 'no MPI' "$work/$name.many.log" || { echo "SKIPPED: built without MPI"; exit 77; }
        fail "$name: $n ranks"
    }
    "$program" "${segment[@]}" "${hardware[@]}" --batch_size_per_gpu $((n * b)) "$@" -o "$work/$name.one" \
        >"$work/$name.one.log" 2>&1 || fail "$name: one"
    "$IBOT_BIN/compare_states" "$work/$name.one/state.safetensors" "$work/$name.many/state.safetensors" "$limit" \
        >"$work/compare.log" 2>&1 || fail "$name: $n ranks end elsewhere than one: $(cat "$work/compare.log")"
    local logged
    logged=$(sed -n 's/.*"step": \([0-9]*\),.*/\1/p' "$work/$name.many/log.txt")
    [ -n "$logged" ] || fail "$name: nothing was logged"
    for step in $logged; do
        for key in train_lr train_loss train_grad_norm; do
            near "$(value "$name.one" $key $step)" "$(value "$name.many" $key $step)" "$numbers" ||
                fail "$name: $key: $(value "$name.one" $key $step) of one, $(value "$name.many" $key $step) of $n ranks"
        done
        # rare pixels lie on an edge between classes
        near "$(value "$name.one" test_miou $step)" "$(value "$name.many" test_miou $step)" 2e-3 ||
            fail "$name: test_miou: $(value "$name.one" test_miou $step) of one, $(value "$name.many" test_miou $step) of $n ranks"
    done
    echo "$name, $n ranks: $(cat "$work/compare.log")"
}

both linear 1e-5 1e-5 --frozen off --layer_decay 0.8 --drop_path 0.2 --update_freq 2
[ "$(grep -c '^best: ' "$work/linear.many.log")" = 1 ] || fail "not one rank alone prints results"
! grep -q 'rank [1-9]\[.* info: ' "$work/linear.many.log" || fail "each rank says the same"
grep -q "24 pictures, $steps steps of $((2 * n * b)) crops of 32 px" "$work/linear.many.log" || fail "other steps"

# what was written is measured by ranks: the masks and scores of one
eval=(segment --eval --checkpoint "$work/linear.many/best.safetensors" --data_path "$scenes" --resize_size 48)
"$program" "${eval[@]}" "${hardware[@]}" --masks "$work/one.masks" >"$work/one.eval" 2>"$work/eval.log" || fail "--eval of one"
ranks $n -- "${eval[@]}" --masks "$work/many.masks" >"$work/many.eval" 2>"$work/eval.log" || fail "--eval"
[ "$(miou "$work/many.eval" test)" = "$(miou "$work/linear.many.log" best)" ] || fail "--eval: another mIoU"
diff "$work/one.eval" "$work/many.eval" || fail "other scores of $n ranks"
diff -r "$work/one.masks" "$work/many.masks" || fail "other masks of $n ranks"
[ "$(find "$work/many.masks" -name '*.png' | wc -l)" = 7 ] || fail "wanted a mask of each picture"

# batch norm of few rows magnifies how sums were rounded, and Adam divides what is left of gradients that are almost 0
tiny+=(--depth 4)
train --data "$data" --loaders 1 --stop_at_step 2 -o "$work/deep" >"$work/train.log" 2>&1 || fail "training a deeper one"
both upernet 2e-2 1e-4 --checkpoint "$work/deep" --decoder upernet --taps 0 1 2 3 --lr 0.002 --steps 6 --dropout 0.3

# one rank is asked to stop, both save and end with 75; gone on with: the same bits
more=("${segment[@]}" --batch_size_per_gpu $b --steps 40)
ranks 2 -- "${more[@]}" -o "$work/whole" >"$work/whole.log" 2>&1 || fail "two ranks"
for try in 1 2 3 4 5 6 7 8 9; do # until the signal comes before the end
    rm -rf "$work/parts"
    status=0
    ranks 2 -- "${more[@]}" -o "$work/parts" >"$work/parts.log" 2>&1 &
    launched=$!
    wait_for "$work/parts/log.txt" '"epoch": 0'
    kill -TERM "$(cat "$work/rank.1")" 2>/dev/null || true
    wait "$launched" || status=$?
    [ "$status" -eq 0 ] || break
    echo "try $try: it was over before the signal"
done
[ "$status" -eq 75 ] || fail "exit status $status after SIGTERM to one rank"
ranks 2 -- "${more[@]}" -o "$work/parts" >"$work/second.log" 2>&1 || fail "going on"
grep -q 'goes on after step' "$work/second.log" || fail "they did not go on"
for file in log.txt state.safetensors best.safetensors; do
    cmp "$work/whole/$file" "$work/parts/$file" || fail "$file is another one"
done

dies killed "${more[@]}" --steps 100000 --val_freq 6

# ranks that were started with other things; a picture that one of them can't read
expect_error 3 'rank 1 has --cat_max_ratio 0.5, rank 0 has 0.75: start all ranks with the same options' \
    ranks 2 0:IBOT_CAT_MAX_RATIO=0.75 1:IBOT_CAT_MAX_RATIO=0.5 -- "${more[@]}"
expect_error 3 'rank 1 has to go on after step 0, rank 0 has 40: --output_dir must be one folder' \
    ranks 2 0:IBOT_OUTPUT_DIR="$work/whole" 1:IBOT_OUTPUT_DIR="$work/elsewhere" -- "${more[@]}"
expect_error 3 'holds a run of 2 ranks, and here are 1' "$program" "${more[@]}" "${hardware[@]}" -o "$work/whole"
cp -r "$scenes" "$work/other"
rm "$work/other/images/training/003.png"
expect_error 3 'rank 1 has the pictures train .*, rank 0 has train ' \
    ranks 2 0:IBOT_DATA_PATH="$scenes" 1:IBOT_DATA_PATH="$work/other" -- segment --checkpoint "$work/run" --num_classes 4 \
    --crop_size 32 --steps 4 --warmup_steps 0
printf 'x' >"$scenes/annotations/validation/$(cd "$scenes/images/validation" && ls | tail -n 1)"
expect_error 1 'annotations/validation/' ranks 2 -- "${more[@]}"
