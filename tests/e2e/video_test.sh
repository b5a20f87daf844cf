#!/usr/bin/env bash
# Segmented videos: labels of the first frame go through a sequence; what is finished is not made
# again, what was cut off goes on to the same bytes; scores; what is wrong is said.
source "$(dirname "$0")/processes.sh"

train --data "$data" --loaders 1 --stop_at_step 2 -o "$work/run" >"$work/train.log" 2>&1 || fail "training"
davis=$work/davis
mkdir -p "$davis/ImageSets/2017"
printf 'cats\n\ndogs\r\n' >"$davis/ImageSets/2017/val.txt"
for name in cats dogs; do
    frames=$davis/JPEGImages/480p/$name labels=$davis/Annotations/480p/$name
    mkdir -p "$frames" "$labels"
    n=0
    for image in "$data/${name%s}"/*.jpg; do
        cp "$image" "$frames/$(printf %05d $n).jpg"
        cp "$IBOT_TEST_DATA/video/labels.png" "$labels/$(printf %05d $n).png"
        n=$((n + 1))
    done
done
video=("$IBOT_BIN/ibot-eval" video --data_path "$davis" --image_size 64 --threads 1)
segment=("${video[@]}" --checkpoint "$work/run" --size_mask_neighborhood 3 --n_last_frames 2)

"${segment[@]}" -o "$work/whole" --json >"$work/whole.jsonl" 2>"$work/whole.log" || fail "segmenting"
[ "$(find "$work/whole" -name '*.png' | wc -l)" = 40 ] || fail "wanted 20 frames of two sequences"
cmp <(tail -c +1 "$work/whole/cats/00000.png" | head -c 8) <(printf '\211PNG\r\n\032\n') || fail "no PNG"
for name in cats_1 cats_2 dogs_1 dogs_2 global; do
    grep -q "^{\"name\": \"$name\", \"jf\": 0\.[0-9]*, \"j_mean\": " "$work/whole.jsonl" || fail "no score of $name"
done

# batches and threads change nothing; nor does it to be cut off and to go on
"${segment[@]}" -o "$work/other" --batch_size 7 --threads 2 >/dev/null 2>"$work/other.log" || fail "in other batches"
diff -r "$work/whole" "$work/other" || fail "batches and threads change labels"
rm -r "$work/other/dogs"
mkdir "$work/other/.dogs.part"
printf 'half' >"$work/other/.dogs.part/00003.png"
touch -d '2001-01-01' "$work/other/cats/00001.png"
"${segment[@]}" -o "$work/other" --json >"$work/again.jsonl" 2>"$work/again.log" || fail "going on"
grep -q '1 of 2 sequences were there' "$work/again.log" || fail "it made again what was finished"
[ "$work/other/cats/00001.png" -ot "$work/run/run.yaml" ] || fail "a finished sequence was written over"
diff -r "$work/whole" "$work/other" || fail "going on gives other labels"
cmp "$work/whole.jsonl" "$work/again.jsonl" || fail "other scores"
"${segment[@]}" -o "$work/killed" >/dev/null 2>"$work/killed.log" &
child=$!
children+=("$child")
wait_for "$work/killed.log" 'tensors loaded'
kill -TERM "$child" 2>/dev/null || true
status=0
wait "$child" || status=$?
[ $status = 75 ] || [ $status = 0 ] || fail "exit status $status after SIGTERM"
"${segment[@]}" -o "$work/killed" >/dev/null 2>"$work/killed.log" || fail "going on after SIGTERM"
diff -r "$work/whole" "$work/killed" || fail "other labels after SIGTERM"

# the annotations themselves are perfect; without a checkpoint what is there is scored
"${video[@]}" -o "$davis/Annotations/480p" >"$work/perfect.txt" 2>"$work/perfect.log" || fail "scoring"
grep -q '^global: J&F 1.0000, J 1.0000 (recall 1.0000, decay 0.0000), F 1.0000' "$work/perfect.txt" ||
    fail "annotations score $(tail -n 1 "$work/perfect.txt")"

expect_error 3 "topk" "${segment[@]}" -o "$work/whole" --topk 3
expect_error 3 "no video.json" "${segment[@]}" -o "$davis/Annotations/480p"
expect_error 2 'give --data_path' "$IBOT_BIN/ibot-eval" video -o "$work/none"
expect_error 1 'ImageSets/2017/train.txt' "${segment[@]}" -o "$work/none" --image_set 2017/train
expect_error 2 'greater --image_size' "${segment[@]}" -o "$work/none" --image_size 32
printf 'birds\n' >"$davis/ImageSets/2017/birds.txt"
expect_error 1 'JPEGImages/480p/birds' "${segment[@]}" -o "$work/none" --image_set 2017/birds
printf '../run\n' >"$davis/ImageSets/2017/bad.txt"
expect_error 1 'no name of a folder' "${segment[@]}" -o "$work/none" --image_set 2017/bad
rm "$work/whole/cats/00004.png"
expect_error 1 'cats/00004.png' "${video[@]}" -o "$work/whole"
mv "$davis/Annotations/480p/cats/00004.png" "$work/kept.png"
"${video[@]}" -o "$work/other" >"$work/some.txt" 2>"$work/some.log" || fail "scoring some"
grep -q '1 of 2 sequences have no score' "$work/some.log" || fail "no word of what has no score"
grep -q cats "$work/some.txt" && fail "scores without annotations"
printf 'x' >"$davis/Annotations/480p/dogs/00000.png"
expect_error 1 'dogs/00000.png' "${segment[@]}" -o "$work/none"
echo "videos: $(tail -n 1 "$work/whole.jsonl")"
