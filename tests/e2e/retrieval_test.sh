#!/usr/bin/env bash
# Retrieval and copy detection on small data sets: what is a copy is found first, kept features are gone on with and
# are told from those of other options, what is not as it should be is said.
source "$(dirname "$0")/processes.sh"

train --data "$data" --loaders 1 --stop_at_step 2 -o "$work/run" >"$work/train.log" 2>&1 || fail "training"

# images a, b, c, of which b belongs to the query q and the others are junk
truth=$IBOT_TEST_DATA/../fuzz/corpus/retrieval_truth
jpg=$work/revisited/small/jpg
mkdir -p "$jpg"
cp "$truth/arrays_protocol2" "$work/revisited/small/gnd_small.pkl"
i=0
for name in a c b; do
    i=$((i + 1))
    cp "$(ls "$data"/*/*.jpg | sed -n "${i}p")" "$jpg/$name.jpg"
done
cp "$jpg/b.jpg" "$jpg/q.jpg"
retrieval=("$IBOT_BIN/ibot-eval" retrieval --checkpoint "$work/run" --threads 1 --data "$work/revisited" --dataset small)
"${retrieval[@]}" --imsize 32 --multiscale --json -o "$work/kept" >"$work/results" 2>"$work/first.log" || fail "retrieval"
grep -q '"protocol": "medium", "map": 100.0, "mp@1": 100.0, .*"queries": 1' "$work/results" || fail "q is not found: $(cat "$work/results")"
# there is nothing hard to be found: no score
grep -q '"protocol": "hard", "map": null, .*"queries": 0' "$work/results" || fail "hard has a score"
# what is kept is not made again: the images may be gone
mv "$jpg" "$work/away"
"${retrieval[@]}" --imsize 32 --multiscale --json -o "$work/kept" >"$work/again" 2>"$work/again.log" || fail "kept features"
cmp "$work/results" "$work/again" || fail "kept features give other results"
expect_error 3 'of another run' "${retrieval[@]}" --imsize 24 --multiscale -o "$work/kept"
rm "$work/kept/small-queries.safetensors"
expect_error 1 'jpg/q.jpg' "${retrieval[@]}" --imsize 32 --multiscale -o "$work/kept"
mv "$work/away" "$jpg"
expect_error 2 'q.jpg: a box of' "${retrieval[@]}" --imsize 32 --crop_queries
cp "$truth/path" "$work/revisited/small/gnd_small.pkl"
expect_error 1 'no name of an image' "${retrieval[@]}"
rm "$work/revisited/small/gnd_small.pkl"
expect_error 1 'gnd_small.pkl' "${retrieval[@]}"
