#!/usr/bin/env bash
# Robustness of a classifier on frozen features: what nothing is taken from is as accurate as the linear
# evaluation said, what everything is taken from is no better than chance, benchmarks are read as they are
# downloaded, and a run that was stopped goes on.
source "$(dirname "$0")/processes.sh"

train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/run" >"$work/train.log" 2>&1 || fail "training"
linear() { "$IBOT_BIN/ibot-eval" linear --crop_size 32 --checkpoint "$work/run" --threads 1 "$@"; }
linear --train "$data" --test "$data" --resize_size 36 --n_last_blocks 2 --batch_size_per_gpu 64 --epochs 20 \
    -o "$work/linear" >"$work/linear.log" 2>&1 || fail "the linear evaluation"
"$IBOT_BIN/ibot-convert" "$work/run" "$work/classifier.pth" --linear "$work/linear" 2>/dev/null || fail "--linear"
clean=$(sed -n 's/^best: Top1: \([0-9.]*\),.*/\1/p' "$work/linear.log")

robustness=("$IBOT_BIN/ibot-eval" robustness --checkpoint "$work/classifier.pth" --threads 1)
parts=(--test "$data" --bicubic_resize --drop random --drop salient --drop non_salient --drop_grid 4x4
    --drop_ratios 0 0.5 1 --drop_lambdas 0.5 1 --shuffle_grids 1x1 --shuffle_grids 4x2)
# value FILE TEST SETTING NAME
value() { sed -n "s/.*\"test\": \"$2\", \"setting\": \"$3\",.* \"$4\": \([-0-9.e]*\).*/\1/p" "$1"; }
is() { # is A B: the same number, to 1e-4
    awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && b != "" && (a - b) ^ 2 <= 1e-8) }' || fail "$1 is not $2${3:+: $3}"
}

"${robustness[@]}" "${parts[@]}" --json -o "$work/whole" >"$work/results" 2>"$work/whole.log" || fail "robustness"
[ "$(wc -l <"$work/results")" = 9 ] || fail "another number of results"
is "$(value "$work/results" occlusion 'random 0 of 4x4' top1)" "$clean" "nothing is dropped"
is "$(value "$work/results" occlusion 'non_salient, mass 1' top1)" "$clean" "all of the mass is kept"
is "$(value "$work/results" shuffle 1x1 top1)" "$clean" "one cell stays where it is"
# 20 images of each of 10 classes, all the same picture: one class is right
for all in 'random 1 of 4x4' 'salient, mass 1'; do
    is "$(value "$work/results" occlusion "$all" top1)" 10 "all is dropped"
    is "$(value "$work/results" occlusion "$all" dropped)" 1
done
is "$(value "$work/results" occlusion 'random 0.5 of 4x4' dropped)" 0.5
# the patches with half of the mass, and the others
is "$(value "$work/results" occlusion 'salient, mass 0.5' dropped)" \
    "$(awk -v a="$(value "$work/results" occlusion 'non_salient, mass 0.5' dropped)" 'BEGIN { print 1 - a }')"
# in other batches, and from two files: the same
"$IBOT_BIN/ibot-eval" robustness --checkpoint "$work/run" --linear "$work/linear" "${parts[@]}" --json --threads 2 \
    --batch_size_per_gpu 7 >"$work/again" 2>"$work/again.log" || fail "from two files"
cmp "$work/results" "$work/again" || fail "batches change results"
# what is there is told again; what is new is added
"${robustness[@]}" "${parts[@]}" --shuffle_grids 8 --json -o "$work/whole" >"$work/again" 2>"$work/again.log" || fail "again"
grep -v 8x8 "$work/again" | LC_ALL=C sort | cmp - <(LC_ALL=C sort "$work/results") || fail "other results"
[ "$(wc -l <"$work/whole/robustness.jsonl")" = 11 ] || fail "wanted a line of the run, and ten results"
grep -q '"setting": "8x8"' "$work/whole/robustness.jsonl" || fail "8x8 is not kept"
expect_error 3 'holds another run' "${robustness[@]}" "${parts[@]}" -o "$work/whole" --seed 1

# a pass that is stopped goes on where it was: the same lines. Where it ends before the signal, again.
for try in 1 2 3 4 5 6 7 8 9; do
    rm -rf "$work/parts"
    "${robustness[@]}" "${parts[@]}" --exp_count 20 --batch_size_per_gpu 2 -o "$work/parts" >"$work/parts.log" 2>&1 &
    child=$!
    children+=("$child")
    wait_for "$work/parts/robustness.jsonl" '"run"'
    kill -TERM "$child" 2>/dev/null || true
    status=0
    wait "$child" || status=$?
    [ $status = 0 ] || break
    echo "try $try: it was over before the signal"
done
[ $status = 75 ] || fail "exit status $status after SIGTERM"
[ -f "$work/parts/progress.json" ] || fail "no progress is kept"
"${robustness[@]}" "${parts[@]}" --exp_count 20 --batch_size_per_gpu 2 -o "$work/parts" >"$work/second.log" 2>&1 || fail "going on"
"${robustness[@]}" "${parts[@]}" --exp_count 20 -o "$work/calm" >"$work/calm.log" 2>&1 || fail "without a stop"
cmp <(tail -n +2 "$work/parts/robustness.jsonl") <(tail -n +2 "$work/calm/robustness.jsonl") || fail "other results"

# a thousand classes, an image each: the benchmarks' folders from them
images=("$work"/train/*/*.jpg)
for ((k = 0; k < 1000; k++)); do
    class=$(printf '%s/k/n%08d' "$work" "$k")
    mkdir -p "$class"
    cp "${images[k * 5]}" "$class/0.jpg"
done
linear --train "$work/k" --test "$work/k" --resize_size 32 --n_last_blocks 1 --avgpool_patchtokens 2 --lr 5 --epochs 3 \
    --batch_size_per_gpu 64 -o "$work/linear1000" >"$work/linear1000.log" 2>&1 || fail "a thousand classes"
clean=$(sed -n 's/^best: Top1: \([0-9.]*\),.*/\1/p' "$work/linear1000.log")
robustness=("$IBOT_BIN/ibot-eval" robustness --checkpoint "$work/run" --linear "$work/linear1000" --threads 1 --json)

# ImageNet-C: a group's folder or none; all severities the same here
for name in noise/gaussian_noise contrast saturate; do
    mkdir -p "$work/c/$name"
    for severity in 1 2 3 4 5; do ln -s "$work/k" "$work/c/$name/$severity"; done
done
"${robustness[@]}" --imagenet_c "$work/c" -o "$work/c.out" >"$work/results" 2>"$work/c.log" || fail "ImageNet-C"
error=$(awk -v a="$clean" 'BEGIN { print 100 - a }')
is "$(value "$work/results" imagenet_c 'contrast 3' top1)" "$clean"
is "$(value "$work/results" imagenet_c gaussian_noise error)" "$error"
is "$(value "$work/results" imagenet_c contrast error_of_alexnets)" "$(awk -v e="$error" 'BEGIN { printf "%.9f", e / 0.853204 }')"
is "$(value "$work/results" imagenet_c saturate error)" "$error"
grep -q '"setting": "mean"' "$work/results" && fail "a mean of three corruptions"
grep -q 'no folder frost: there will be no mean' "$work/c.log" || fail "frost is not missed"
"${robustness[@]}" --imagenet_c "$work/c" -o "$work/c.out" --corruptions contrast >"$work/results" 2>"$work/c.log" || fail "--corruptions"
[ "$(wc -l <"$work/results")" = 6 ] || fail "more than one corruption"
for name in shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog brightness \
    elastic_transform pixelate jpeg_compression speckle_noise gaussian_blur spatter; do
    mkdir "$work/c/$name"
    for severity in 1 2 3 4 5; do ln -s "$work/k" "$work/c/$name/$severity"; done
done
"${robustness[@]}" --imagenet_c "$work/c" -o "$work/c.out" >"$work/results" 2>"$work/c.log" || fail "all of ImageNet-C"
is "$(value "$work/results" imagenet_c mean mean_error_of_19)" "$error"
# mean of 1 / AlexNet's error over the 15
is "$(value "$work/results" imagenet_c mean mce)" "$(awk -v e="$error" 'BEGIN { printf "%.9f", e * 1.2934514599838682 }')"

# ImageNet-A: 200 classes, of numbers 6, 11, 13, …: here images of others, so that a name tells what is meant
mkdir "$work/a"
for ((k = 0; k < 200; k++)); do cp -r "$work/k/$(printf 'n%08d' "$k")" "$work/a"; done
"${robustness[@]}" --imagenet_a "$work/a" >"$work/results" 2>"$work/a.log" || fail "ImageNet-A"
[ "$(value "$work/results" imagenet_a '200 classes' images)" = 200 ] || fail "200 images"
value "$work/results" imagenet_a '200 classes' aurra | grep -q . || fail "no AURRA"

# ImageNet-9: nine classes; the dog's images are of 151, …, a fish's of 0
for variant in original only_bg_t; do
    for class in 00_dog 01_bird 02_wheeled 03_reptile 04_carnivore 05_insect 06_instrument 07_primate 08_fish; do
        mkdir -p "$work/bg/$variant/val/$class" "$work/bg/fg_mask/val/$class"
        cp "$work/k/n00000151/0.jpg" "$work/bg/$variant/val/$class/one.JPEG"
    done
done
mask() { # mask VALUE FILE: 32 x 32 of one value
    {
        printf '\223NUMPY\1\0\76\0'
        printf "%-61s\n" "{'descr': '|b1', 'fortran_order': False, 'shape': (32, 32), }"
        head -c 1024 /dev/zero | tr '\0' "$1"
    } >"$2"
}
for class in "$work"/bg/fg_mask/val/*; do mask '\1' "$class/one.npy"; done
"${robustness[@]}" --backgrounds "$work/bg" --background_challenge -o "$work/bg.out" >"$work/results" 2>"$work/bg.log" ||
    fail "ImageNet-9"
# nine times the same image: one class at most is right, and it alone is not vulnerable
right=$(value "$work/results" backgrounds original top1)
is "$(value "$work/results" backgrounds only_bg_t top1)" "$right"
is "$(value "$work/results" background_challenge all percent_vulnerable)" "$(awk -v a="$right" 'BEGIN { printf "%.9f", 100 - a }')"
"${robustness[@]}" --backgrounds "$work/bg" --background_challenge -o "$work/bg.out" >"$work/again" 2>"$work/bg.log" || fail "again"
cmp "$work/results" "$work/again" || fail "other results when told again"

# what is wrong is named
for file in "$work"/bg/fg_mask/val/08_fish/one.npy; do head -c 100 "$file" >"$file.cut" && mv "$file.cut" "$file"; done
expect_error 1 'one.npy: .* bytes of data; wanted 1024' "${robustness[@]}" --backgrounds "$work/bg" --background_challenge
rm -r "$work/bg/original/val/08_fish"
expect_error 3 'has 8 classes, wanted 9 class folders' "${robustness[@]}" --backgrounds "$work/bg"
expect_error 3 'has 1000 classes, wanted 200' "${robustness[@]}" --imagenet_a "$work/k"
expect_error 1 'has no CORRUPTION/SEVERITY/CLASS' "${robustness[@]}" --imagenet_c "$work/k"
expect_error 2 "'mist' is none of ImageNet-C" "${robustness[@]}" --imagenet_c "$work/c" --corruptions mist
expect_error 1 'has no VARIANT/val' "${robustness[@]}" --backgrounds "$work/k"
expect_error 2 'does not divide pictures of 32 px' "${robustness[@]}" --test "$work/k"
expect_error 2 'give data to test with' "${robustness[@]}"
expect_error 2 'give --checkpoint' "$IBOT_BIN/ibot-eval" robustness --test "$data"
expect_error 2 "got 'best'" "${robustness[@]}" --test "$work/k" --drop best
expect_error 2 'has heads 0 to 1' "${robustness[@]}" --test "$work/k" --drop salient --saliency_head 2
robustness=("$IBOT_BIN/ibot-eval" robustness --checkpoint "$work/classifier.pth" --threads 1)
expect_error 3 'wants a classifier of the 1000 classes' "${robustness[@]}" --imagenet_a "$work/a"
expect_error 3 'has 1000 classes, wanted 10' "${robustness[@]}" --test "$work/k" --drop_grid 4
expect_error 1 'there is no linear classifier in it' "$IBOT_BIN/ibot-eval" robustness --checkpoint "$work/run" --test "$data"
rm "$work/error.log" # what is expected is no news
echo "robustness: clean $clean % of a thousand classes; parts, backgrounds, corruptions and errors are right"
