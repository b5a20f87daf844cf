#!/usr/bin/env bash
# Bad input: a clear message, the right exit status, nothing hangs.
source "$(dirname "$0")/processes.sh"

run=(timeout 60 "$IBOT_BIN/ibot-train" "${tiny[@]}" -o "$work/run")
expect_error 2 'did you mean' "${run[@]}" --data "$data" --teacher_tmp 0.1
expect_error 2 'warmup_epochs' "${run[@]}" --data "$data" --warmup_epochs 9
expect_error 2 'warmup_teacher_temp_epochs' "${run[@]}" --data "$data" --warmup_teacher_temp_epochs 9
expect_error 2 'pred_ratio_var' "${run[@]}" --data "$data" --pred_ratio 0.1 --pred_ratio_var 0.2
expect_error 2 'half-width' "${run[@]}" --data "$data" --pred_ratio 0 0.3 --pred_ratio_var 0 0.1 0.2
expect_error 2 'multiple' "${run[@]}" --data "$data" --global_crop_size 33
expect_error 2 'arch' "${run[@]}" --data "$data" --arch vit_huge
expect_error 2 'no images' "${run[@]}"
expect_error 2 'batch_size_per_gpu' "${run[@]}" --data "$data" --batch_size_per_gpu 4000
expect_error 1 'CUDA' "${run[@]}" --data "$data" --backend cuda

mkdir "$work/empty"
expect_error 1 'has no images' "${run[@]}" --data "$work/empty"
expect_error 2 "--data '$work/nowhere'" "${run[@]}" --data "$work/nowhere"
expect_error 2 'neither a folder nor a file' "${run[@]}" --data /dev/null
expect_error 1 'compressed' "${run[@]}" --data "$IBOT_TEST_DATA/cifar10_subset.tar.zst"
expect_error 2 'has no images' "$IBOT_BIN/ibot-index" "$work/empty"
expect_error 1 'be read' "$IBOT_BIN/ibot-index" "$work/nowhere"

# a port that is taken
train_exec --listen tcp://127.0.0.1:0 --epochs 40000 -o "$work/waiting" >"$work/waiting.log" 2>&1 &
trainer=$!
children+=("$trainer")
wait_for "$work/waiting.log" 'listening on tcp'
endpoint=$(grep -o 'tcp://[0-9.:]*' "$work/waiting.log" | head -n 1)
expect_error 1 "$endpoint" "${run[@]}" --listen "$endpoint"
expect_error 2 'insecure' "${run[@]}" --listen tcp://0.0.0.0:0

# a loader with another data set is refused, with the reason; the first one stays
"$IBOT_BIN/ibot-loader" --data "$data" --connect "$endpoint" --threads 1 >"$work/good.log" 2>&1 &
good=$!
children+=("$good")
mkdir "$work/other"
cp -r "$data/cat" "$work/other"
wait_for "$work/waiting.log" 'steps in each'
expect_error 3 'index' timeout 60 "$IBOT_BIN/ibot-loader" --data "$work/other" --connect "$endpoint"
epochs_of() { cat "$1/log.txt" 2>/dev/null | wc -l; }
deadline=$((SECONDS + 120)) epochs=$(epochs_of "$work/waiting" || true)
until [ "$(epochs_of "$work/waiting" || true)" -ge $((epochs + 2)) ]; do
    kill -0 "$trainer" && [ "$SECONDS" -lt "$deadline" ] || fail "training beside a refused loader"
    sleep 0.05
done
kill -TERM "$trainer"
status=0
wait "$trainer" || status=$?
[ "$status" -eq 75 ] || fail "exit status $status of training beside a refused loader"

# unreadable, truncated, empty and foreign files are replaced, named and counted
cp -r "$data" "$work/odd"
victims=("$work"/odd/*/*.jpg)
head -c 400 "${victims[3]}" >"$work/piece" && cp "$work/piece" "${victims[3]}"
: >"${victims[30]}"
echo 'not an image' >"${victims[60]}"
ln -sf "$work/nowhere" "${victims[90]}"
train --data "$work/odd" --loaders 1 --epochs 1 -o "$work/odd_run" >"$work/odd.log" 2>&1 || fail "odd files"
for i in 3 30 60 90; do
    grep -q "$(basename "${victims[$i]}")" "$work/odd_run/bad_images.log" || fail "${victims[$i]} not reported"
done
grep -q '4 bad images' "$work/odd.log" || fail "bad images are not counted"
grep -q '"bad_images": 4' "$work/odd_run/log.txt" || fail "bad images are not in log.txt"
expect_error 1 'bad image' "${run[@]}" --data "$work/odd" --epochs 1 --bad_images fail -o "$work/odd_fail"

# ibot-index --verify lists them all, and what is damaged and used all the same
printf '\xff\xd9' | dd of="${victims[50]}" bs=1 seek=$(($(stat -c %s "${victims[50]}") - 12)) conv=notrunc status=none
"$IBOT_BIN/ibot-index" --verify "$work/odd" -o "$work/odd.index" >"$work/odd.list" 2>"$work/odd.text" && fail "bad images verified"
for i in 3 30 60 90; do
    grep -q "$(basename "${victims[$i]}")" "$work/odd.list" || fail "${victims[$i]} not listed"
done
grep -q "'${victims[50]}': damaged in [0-9]* places, repaired and used" "$work/odd.list" || fail "damage is not told"
grep -q 'damaged images, .*: 1$' "$work/odd.text" || fail "damaged images are not counted"
grep -q '4 images are bad' "$work/odd.text" || fail "bad images are not counted by --verify"

# the run folder: other options, another architecture, no good checkpoint
expect_error 3 'lr' "${run[@]}" --data "$data" -o "$work/odd_run" --epochs 1 --lr 0.1
expect_error 3 'resume' "${run[@]}" --data "$work/odd" -o "$work/odd_run" --epochs 1 --resume none
for folder in "$work"/odd_run/checkpoints/step_*; do
    head -c 3000 "$folder/model.safetensors" >"$work/piece" && cp "$work/piece" "$folder/model.safetensors"
done
expect_error 1 'no checkpoint' "${run[@]}" --data "$work/odd" -o "$work/odd_run" --epochs 1

# evaluation
eval=(timeout 60 "$IBOT_BIN/ibot-eval" knn --train "$data" --test "$data" --resize_size 32)
expect_error 1 'nowhere' "${eval[@]}" --checkpoint "$work/nowhere"
expect_error 1 'teacher' "${eval[@]}" --checkpoint "$work/waiting" --checkpoint_key techer
expect_error 2 'checkpoint' timeout 60 "$IBOT_BIN/ibot-eval" knn --train "$data" --test "$data"
expect_error 1 'damaged\|no checkpoint' "${eval[@]}" --checkpoint "$work/odd_run"
expect_error 2 'within the 200 training images' "${eval[@]}" --checkpoint "$work/waiting" --nb_knn 201
cp -r "$data" "$work/renamed" && mv "$work/renamed/airplane" "$work/renamed/zeppelin"
expect_error 3 "class 0 is 'airplane' in one" "${eval[@]}" --checkpoint "$work/waiting" --test "$work/renamed"
expect_error 1 "no features in '$work/nowhere'" "$IBOT_BIN/ibot-eval" logistic --load_features "$work/nowhere"
expect_error 2 'takes the place of' "${eval[@]}" --load_features "$work/nowhere"
expect_error 2 'the environment says 2 ranks (torchrun), MPI says 1\|built without MPI' env RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 \
    MASTER_ADDR=127.0.0.1 MASTER_PORT=1 "${eval[@]}" --checkpoint "$work/waiting"
expect_error 2 'ibot-analyze is one process, and here are 2 ranks' env RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 \
    MASTER_ADDR=127.0.0.1 MASTER_PORT=1 "$IBOT_BIN/ibot-analyze" attention --checkpoint "$work/waiting" \
    "$data" -o "$work/pictures"
[ ! -e "$work/pictures" ] || fail "one of several ranks wrote pictures"
"${eval[@]}" --checkpoint "$work/waiting" --nb_knn 5 20 >"$work/knn.log" 2>&1 || fail "k-NN"
grep -q '^5-NN classifier result: Top1: ' "$work/knn.log" || fail "no k-NN line"
(
    cd "$data"
    class=0
    for folder in *; do # three labels of each class
        find "$folder" -name '*.jpg' | LC_ALL=C sort | sed -n "1,3s/\$/ $class/p"
        class=$((class + 1))
    done
) >"$work/labels.txt"
mv "$work/labels.txt" "$data/labels.txt"
"${eval[@]}" --checkpoint "$work/waiting" --train "$data/labels.txt" --nb_knn 5 200 \
    >"$work/knn_few.log" 2>&1 || fail "k-NN with few labels"
grep -q '^5-NN classifier result: Top1: ' "$work/knn_few.log" || fail "no k-NN line of few labels"
grep -q 'k = 200 is left out: there are 30 training images' "$work/knn_few.log" ||
    fail "another number of labels"
rm "$data/labels.txt"

# a full disk while saving: the message says so, older checkpoints are intact, training goes on
if mount -t tmpfs -o size=700k tmpfs "$work/empty" 2>/dev/null; then
    train --data "$data" --loaders 1 -o "$work/empty/run" --keep_checkpoints 100 \
        >"$work/full.log" 2>&1 || true
    umount "$work/empty" 2>/dev/null || umount -l "$work/empty"
    grep -q 'not saved' "$work/full.log" || fail "the full disk is not named"
else
    echo "SKIPPED: full disk (no right to mount a tmpfs)"
fi
echo "every error is clear"
