#!/usr/bin/env bash
# linear_ranks_test.sh IBOT_EVAL cpu|cuda [RUN_RANKS]: ranks of B images train the classifiers that one process
# with all of them trains, go on where they were stopped with the same bits, and say what is wrong.
source "$(dirname "$0")/eval_ranks.sh"

n=2 rates=(0.1 1 3)
[ "$backend" = cuda ] || n=4 rates=()
few=$work/few # 39 test images, and 40 for training, of which ranks have as many
for class in "$data"/*; do
    mkdir -p "$few/$(basename "$class")"
    find "$class" -name '*.jpg' | LC_ALL=C sort | sed -n 1,4p | xargs cp -t "$few/$(basename "$class")"
done
cp -r "$few" "$work/fewer"
rm "$(find "$work/fewer/cat" -name '*.jpg' | LC_ALL=C sort | sed -n 1p)"
linear=(linear --checkpoint "$work/run" --train "$few" --test "$work/fewer" --resize_size 32 --crop_size 32 --n_last_blocks 2
    --epochs 3 ${rates:+--lr "${rates[@]}"})
# a step of 24 images and one of 16
b=$((24 / n))
"$program" "${linear[@]}" "${hardware[@]}" --batch_size_per_gpu 24 -o "$work/one" >"$work/one.txt" 2>"$work/one.log" || fail "one"
ranks $n -- "${linear[@]}" --batch_size_per_gpu $b -o "$work/many" >"$work/many.txt" 2>"$work/many.log" || {
    ! grep -q 'no MPI' "$work/many.log" || { echo "SKIPPED: built without MPI"; exit 77; }
    fail "$n ranks"
}
grep -q '40 images, 2 steps in each of 3 epochs' "$work/many.log" || fail "other steps"
for file in classifiers linear; do
    "$IBOT_BIN/compare_states" "$work/one/$file.safetensors" "$work/many/$file.safetensors" 1e-4 >"$work/compare.log" 2>&1 ||
        fail "$file: $n ranks end elsewhere than one"
done
value() { sed -n "s/.*\"$2\": \([0-9.e-]*\)[,}].*/\1/p" "$work/$1/log.txt" | sed -n "$3p"; }
for line in 1 2 3; do
    for key in lr1 loss1 acc1@1 acc1@5 loss2 acc2@1 best_acc; do
        near "$(value one $key $line)" "$(value many $key $line)" 1e-5 ||
            fail "$key: $(value one $key $line) of one, $(value many $key $line) of $n ranks"
    done
done
same() { sed 's/loss [0-9.]*//' "$1"; } # sums of losses end in other roundings
diff <(same "$work/one.txt") <(same "$work/many.txt") || fail "other results of $n ranks"

# one rank is asked to stop, both end with 75; gone on with: the same bits
more=("${linear[@]}" --batch_size_per_gpu 7 --epochs 20)
ranks 2 -- "${more[@]}" -o "$work/whole" >"$work/whole.log" 2>&1 || fail "two ranks"
for try in 1 2 3 4 5 6 7 8 9; do # until the signal comes before the end
    rm -rf "$work/parts"
    status=0
    ranks 2 -- "${more[@]}" -o "$work/parts" >"$work/parts.log" 2>&1 &
    launched=$!
    wait_for "$work/parts/log.txt" '"epoch": 0,'
    kill -TERM "$(cat "$work/rank.1")" 2>/dev/null || true
    wait "$launched" || status=$?
    [ "$status" -eq 0 ] || break
    echo "try $try: it was over before the signal"
done
[ "$status" -eq 75 ] || fail "exit status $status after SIGTERM to one rank"
ranks 2 -- "${more[@]}" -o "$work/parts" >"$work/second.log" 2>&1 || fail "going on"
grep -q 'goes on after epoch' "$work/second.log" || fail "they did not go on"
for file in log.txt linear.safetensors; do
    cmp "$work/whole/$file" "$work/parts/$file" || fail "$file is another one"
done
"$IBOT_BIN/compare_states" "$work/whole/classifiers.safetensors" "$work/parts/classifiers.safetensors" 0 \
    >"$work/same.log" 2>&1 || fail "other classifiers after a stop"

dies killed "${more[@]}" --epochs 2000

# ranks that were started with other things
expect_error 3 'rank 1 has --seed 2, rank 0 has 1: start all ranks with the same options' \
    ranks 2 0:IBOT_SEED=1 1:IBOT_SEED=2 -- "${linear[@]}"
expect_error 3 'rank 1 has the images .*, rank 0 has .*: give all ranks the same data' \
    ranks 2 0:IBOT_TRAIN="$few" 1:IBOT_TRAIN="$work/fewer" -- linear --checkpoint "$work/run" --test "$few" --n_last_blocks 2
expect_error 3 'holds another run' "$program" "${more[@]}" "${hardware[@]}" -o "$work/whole"
echo "$n ranks: $(cat "$work/compare.log")"
