#!/usr/bin/env bash
# accelerator_video_test.sh IBOT_EVAL: labels that an accelerator, or what stands in for one, carries
# through a video are those of the CPU: scored with these as annotations they agree.
source "$(dirname "$0")/processes.sh"
eval=$1

train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/run" >"$work/train.log" 2>&1 ||
    fail "training"
davis=$work/davis
frames=$davis/JPEGImages/480p/cats labels=$davis/Annotations/480p/cats
mkdir -p "$davis/ImageSets/2017" "$frames" "$labels"
echo cats >"$davis/ImageSets/2017/val.txt"
n=0
find "$data/cat" -name '*.jpg' | sort | head -6 | while read -r image; do
    cp "$image" "$frames/$(printf %05d $n).jpg"
    n=$((n + 1))
done
cp "$IBOT_TEST_DATA/video/labels.png" "$labels/00000.png"
video=(video --data_path "$davis" --checkpoint "$work/run" --image_size 64 --size_mask_neighborhood 3
    --n_last_frames 2 --threads 1)
needs_device "$eval" "${video[@]}" --backend cuda -o "$work/probe"
"$IBOT_BIN/ibot-eval" "${video[@]}" -o "$work/cpu" >"$work/cpu.log" 2>&1 || fail "on the CPU"
cp "$work/cpu/cats"/*.png "$labels"
for precision in f32 bf16; do
    "$eval" "${video[@]}" --backend cuda --precision $precision -o "$work/$precision" \
        >"$work/$precision.txt" 2>"$work/$precision.log" || fail "in $precision"
done
similarity() { sed -n 's/^global: J&F [0-9.]*, J \([0-9.]*\) .*/\1/p' "$work/$1.txt"; }
awk -v j="$(similarity f32)" 'BEGIN { exit !(j > 0.98) }' || fail "f32 agrees by $(similarity f32)"
awk -v j="$(similarity bf16)" 'BEGIN { exit !(j > 0.8) }' || fail "bf16 agrees by $(similarity bf16)"
echo "similarity to the CPU's labels: f32 $(similarity f32), bf16 $(similarity bf16)"
