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

# copies: three originals, and "attacks" that leave them as they are
copies=$work/copydays
mkdir -p "$copies/original" "$work/others"
i=0
for name in 200000 200100 200200; do
    i=$((i + 1))
    cp "$(ls "$data"/*/*.jpg | sed -n "$((31 * i))p")" "$copies/original/$name.jpg"
done
for block in jpegqual/{3,5,8,10,15,20,30,50,75} crops/{10,15,20,30,40,50,60,70}; do
    mkdir -p "$copies/$block"
    cp "$copies/original"/*.jpg "$copies/$block"
done
find "$data/cat" "$data/dog" -name '*.jpg' | sort | sed -n 3,14p | xargs cp -t "$work/others"
detection=("$IBOT_BIN/ibot-eval" copy_detection --checkpoint "$work/run" --threads 1 --data "$copies" --imsize 32)
expect_error 1 "copydays/crops/80' can't be read" "${detection[@]}"
mkdir "$copies/crops/80"
expect_error 1 'no files that end in .jpg' "${detection[@]}"
cp "$copies/original"/20000*.jpg "$copies/crops/80"
expect_error 1 'has 1 images (\*.jpg), wanted 3' "${detection[@]}"
cp "$copies/original"/*.jpg "$copies/crops/80"
mkdir "$copies/strong"
cp "$copies/original/200100.jpg" "$copies/strong/200101.jpg"
cp "$copies/original/200200.jpg" "$copies/strong/200201.jpg"
cp "$copies/original/200000.jpg" "$copies/strong/200202.jpg" # another's copy by its name: found last
cp "$copies/original/200000.jpg" "$copies/strong/199901.jpg"
expect_error 1 "199901.jpg' is a copy of no image" "${detection[@]}"
rm "$copies/strong/199901.jpg"
expect_error 2 'give --checkpoint, and --data' "$IBOT_BIN/ibot-eval" copy_detection --checkpoint "$work/run"
expect_error 1 'nowhere' "${detection[@]}" --distractors "$work/nowhere"
expect_error 1 "nowhere/original' can't be read" "${detection[@]}" --data "$work/nowhere"
kept=("${detection[@]}" --distractors "$work/others" --whitening "$data" --json -o "$work/kept_copies")
"${kept[@]}" >"$work/results" 2>"$work/copies.log" || fail "copy detection"
[ "$(wc -l <"$work/results")" = 20 ] || fail "not 20 blocks: $(cat "$work/results")"
[ "$(grep -c '"map": 100.0, "queries": 3, "images": 15}' "$work/results")" = 19 ] || fail "a copy is not found: $(cat "$work/results")"
grep -q '"block": "strong", "map": [4-9]' "$work/results" || fail "strong: $(cat "$work/results")"
grep -q 'there is no' "$work/copies.log" && fail "something is said to be missing"
# what is kept is not made again; what is missing alone is; of other options it is refused
rm "$work/kept_copies/distractors.safetensors"
sum=$(sha256sum "$work/kept_copies"/*.safetensors)
"${kept[@]}" >"$work/again" 2>"$work/again.log" || fail "kept features of copies"
cmp "$work/results" "$work/again" || fail "kept features of copies give other results"
sha256sum --quiet -c - <<<"$sum" || fail "features were made again"
"${detection[@]}" --batch_size_per_gpu 5 --distractors "$work/others" --whitening "$data" --json >"$work/again" 2>"$work/again.log" || fail "batches"
cmp "$work/results" "$work/again" || fail "other batches give other results"
expect_error 3 'of another run' "${kept[@]}" --imsize 24
mv "$copies/strong" "$work/strong"
expect_error 3 'of another run' "${kept[@]}"
mv "$copies/jpegqual" "$work/jpegqual"
"${detection[@]}" >"$work/results" 2>"$work/few.log" || fail "some of the blocks"
grep -q 'there is no strong, jpegqual: left out' "$work/few.log" || fail "what is missing is not said"
[ "$(grep -c '^crops/.*: mAP 100.00 (3 queries, 3 images)$' "$work/results")" = 9 ] || fail "crops: $(cat "$work/results")"
mv "$copies/crops/80/200000.jpg" "$copies/crops/80/300000.jpg" # in the last place now: no longer the first's
"${detection[@]}" --whitening "$work/others" >"$work/results" 2>"$work/odd.log" || fail "odd names"
grep -q 'crops/80/200100.jpg: its name is not that of the original in its place' "$work/odd.log" || fail "an odd name is not said"
grep -q 'learnt from 12 images, fewer than the 64' "$work/odd.log" || fail "few images to learn from are not said"
# of a Swin: squares alone, the mean token in the place of [CLS]
train --data "$data" --loaders 1 --arch swin_test --patch_size 4 --depth 0 --num_heads 0 --stop_at_step 1 -o "$work/swin" >"$work/swin.log" 2>&1 || fail "training a Swin"
"${detection[@]}" --checkpoint "$work/swin" >"$work/results" 2>"$work/swin.log" || fail "copies by a Swin"
grep -q '^original: mAP 100.00 (3 queries, 3 images)$' "$work/results" || fail "originals by a Swin: $(cat "$work/results")"
expect_error 1 'takes squares alone' "${retrieval[@]}" --checkpoint "$work/swin"
# it goes on after the rows that are kept, with batches that begin elsewhere
rm -r "$work/kept_copies"
go_on=("${detection[@]}" --batch_size_per_gpu 4 --whitening "$data" -o "$work/kept_copies")
"${go_on[@]}" >"$work/results" 2>"$work/calm.log" || fail "in one go"
cp -r "$work/kept_copies" "$work/calm"
python3 - "$work/kept_copies" <<'END' || fail "cutting what is kept"
import json, struct, sys
for name, rows in (("copydays", 6), ("whitening", 50)):
    path = f"{sys.argv[1]}/{name}.safetensors"
    raw = open(path, "rb").read()
    n, = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8:8 + n]), raw[8 + n:]
    values = header["values"]
    assert rows < values["shape"][0]
    values["shape"][0] = rows
    values["data_offsets"] = [0, rows * values["shape"][1] * 4]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    open(path, "wb").write(struct.pack("<Q", len(text)) + text + data[:values["data_offsets"][1]])
END
"${go_on[@]}" >"$work/again" 2>"$work/again.log" || fail "after an interruption"
grep -q 'copydays: goes on after 6 of 30 images' "$work/again.log" || fail "it does not say from where"
grep -q 'whitening: goes on after 50 of 200 images' "$work/again.log" || fail "it does not say from where"
cmp "$work/results" "$work/again" || fail "other results after an interruption"
for name in copydays whitening; do
    cmp "$work/calm/$name.safetensors" "$work/kept_copies/$name.safetensors" || fail "other features after an interruption"
done
echo "copies and views of a place are found, and runs go on"
