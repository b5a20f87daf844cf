#!/usr/bin/env bash
# knn_ranks_test.sh IBOT_EVAL cpu|cuda [RUN_RANKS]: ranks find the features and the neighbours that one process
# does, and say what is wrong.
source "$(dirname "$0")/eval_ranks.sh"

n=2
[ "$backend" = cuda ] || n=3
rm "$(find "$data/cat" -name '*.jpg' | LC_ALL=C sort | sed -n 1p)" # 199 images, for no number of ranks alike
few=$work/few # and 29 to classify
for class in "$data"/*; do
    mkdir -p "$few/$(basename "$class")"
    find "$class" -name '*.jpg' | LC_ALL=C sort | sed -n 1,3p | xargs cp -t "$few/$(basename "$class")"
done
rm "$(find "$few/dog" -name '*.jpg' | LC_ALL=C sort | sed -n 1p)"
# batches of 8: of 67 or 100 images the last one is smaller
knn=(knn --checkpoint "$work/run" --train "$data" --test "$few" --resize_size 32 --nb_knn 1 5 20 300 --batch_size_per_gpu 8)
"$program" "${knn[@]}" "${hardware[@]}" --dump_features "$work/one" >"$work/one.txt" 2>"$work/one.log" || fail "one"
ranks $n -- "${knn[@]}" --dump_features "$work/many" >"$work/many.txt" 2>"$work/many.log" || {
    ! grep -q 'no MPI' "$work/many.log" || { echo "SKIPPED: built without MPI"; exit 77; }
    fail "$n ranks"
}
[ "$(wc -l <"$work/one.txt")" = 3 ] || fail "wanted three results"
cmp "$work/one.txt" "$work/many.txt" || fail "other results of $n ranks: $(cat "$work/many.txt")"
[ "$(grep -c 'k = 300 is left out' "$work/many.log")" = 1 ] || fail "not one rank alone warns"
for split in train test; do # products of other shapes may end in other roundings
    "$IBOT_BIN/compare_states" "$work/one/$split.safetensors" "$work/many/$split.safetensors" 1e-6 >"$work/compare.log" 2>&1 ||
        fail "other features of $split"
done
ranks $n -- knn --load_features "$work/one" --nb_knn 1 5 20 >"$work/kept.txt" 2>"$work/kept.log" || fail "kept features"
cmp "$work/one.txt" "$work/kept.txt" || fail "other results of kept features"

# ranks that were started with other things, and one that fails
expect_error 3 'rank 1 has --nb_knn 5, rank 0 has 1: start all ranks with the same options' \
    ranks 2 0:IBOT_NB_KNN=1 1:IBOT_NB_KNN=5 -- knn --load_features "$work/one"
expect_error 3 'rank 1 has the images .*, rank 0 has .*: give all ranks the same data' ranks 2 1:IBOT_RESIZE_SIZE=36 \
    0:IBOT_RESIZE_SIZE=32 -- knn --checkpoint "$work/run" --train "$data" --test "$few"
cp -r "$work/one" "$work/other"
cp "$work/one/train.safetensors" "$work/other/test.safetensors"
expect_error 3 'rank 1 has features .*: give all ranks the same folder' \
    ranks 2 0:IBOT_LOAD_FEATURES="$work/one" 1:IBOT_LOAD_FEATURES="$work/other" -- knn
printf 'x' >"$(find "$few/dog" -name '*.jpg' | LC_ALL=C sort | sed -n 1p)"
status=0
ranks 2 -- "${knn[@]}" >"$work/bad.log" 2>&1 || status=$?
[ "$status" -ne 0 ] && [ "$status" -ne 124 ] || fail "exit status $status of a bad image"
grep -q 'rank [01]\[.* error: .*dog' "$work/bad.log" || fail "the bad image is not named"
echo "$n ranks: $(tr '\n' ' ' <"$work/many.txt"); test features: $(cat "$work/compare.log")"
