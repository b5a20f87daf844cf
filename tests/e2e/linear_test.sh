#!/usr/bin/env bash
# Linear accuracy of a frozen backbone: it learns, goes on where it was stopped and ends with the same
# classifiers, keeps the best one, and says what is wrong.
source "$(dirname "$0")/processes.sh"

train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/run" >"$work/train.log" 2>&1 ||
    fail "training"
linear=("$IBOT_BIN/ibot-eval" linear --train "$data" --test "$data" --resize_size 32 --crop_size 32
    --n_last_blocks 2 --checkpoint "$work/run" --batch_size_per_gpu 64 --epochs 40 --threads 1)

"${linear[@]}" -o "$work/whole" >"$work/whole.log" 2>&1 || fail "the evaluation"
top1() { sed -n "s/^$2: Top1: \([0-9.]*\), Top5: .*/\1/p" "$1"; }
awk -v best="$(top1 "$work/whole.log" best)" -v last="$(top1 "$work/whole.log" last)" \
    'BEGIN { exit !(last > 15 && best >= last) }' ||
    fail "10 classes, and the best classifiers are right about $(top1 "$work/whole.log" best) %"
[ "$(wc -l <"$work/whole/log.txt")" = 40 ] || fail "wanted a line for each epoch"
grep -q '"epoch": 39, "lr0": .*"acc44@5": ' "$work/whole/log.txt" || fail "no official keys"

# 200 images in batches of 64: four steps an epoch, the last one small
grep -q '200 images, 4 steps in each of 40 epochs, 45 classifiers of 64 features' "$work/whole.log" ||
    fail "another number of steps"

# stopped after some epochs, gone on with: the same bits. Where it ends before the signal comes, again.
for try in 1 2 3 4 5 6 7 8 9; do
    rm -rf "$work/parts"
    "${linear[@]}" -o "$work/parts" >"$work/parts.log" 2>&1 &
    child=$!
    children+=("$child")
    wait_for "$work/parts/log.txt" '"epoch": 1,'
    kill -TERM "$child" 2>/dev/null || true
    status=0
    wait "$child" || status=$?
    [ $status = 0 ] || break
    echo "try $try: it was over before the signal"
done
[ $status = 75 ] || fail "exit status $status after SIGTERM"
"${linear[@]}" -o "$work/parts" >"$work/second.log" 2>&1 || fail "going on"
grep -q 'goes on after epoch' "$work/second.log" || fail "it did not go on"
for file in linear.safetensors log.txt; do
    cmp "$work/whole/$file" "$work/parts/$file" || fail "$file is another one"
done
tensors() { "$IBOT_BIN/ibot-convert" diff "$1/classifiers.safetensors" "$2/classifiers.safetensors"; }
tensors "$work/whole" "$work/parts" >"$work/diff.log" 2>&1 || fail "other classifiers"

# the backbone and its best classifier in one file, either kind: the same tensors, and a backbone as any
convert=("$IBOT_BIN/ibot-convert")
for file in classifier.safetensors classifier.pth; do
    "${convert[@]}" "$work/run" "$work/$file" --linear "$work/whole" >"$work/convert.log" 2>&1 || fail "--linear $file"
    grep -q "(10 classes of 64 features, Top1 $(top1 "$work/whole.log" best))" "$work/convert.log" || fail "what is it"
    "${convert[@]}" diff "$work/$file" "$work/whole/linear.safetensors" >"$work/diff.log" || true
    grep -q '^2 tensors are the same' "$work/diff.log" || fail "another classifier in $file"
    "${convert[@]}" diff "$work/$file" "$work/run" >"$work/diff.log" || true
    grep -q '^30 tensors are the same' "$work/diff.log" || fail "another backbone in $file"
    "$IBOT_BIN/ibot-eval" knn --train "$data" --test "$data" --nb_knn 5 --checkpoint "$work/$file" >"$work/knn_$file" \
        2>"$work/knn.log" || fail "k-NN of $file"
    grep -q '30 tensors loaded, 0 missing, 0 unexpected, 2 outside' "$work/knn.log" || fail "no counts for $file"
done
cmp "$work/knn_classifier.safetensors" "$work/knn_classifier.pth" || fail "two networks"
grep -q '^avgpool_patchtokens: 0$' <<<"$("${convert[@]}" inspect "$work/classifier.safetensors")" || fail "no features"
grep -Eq "^best_acc: $(top1 "$work/whole.log" best | sed "s/\\.\\?0*\$//")" <<<"$("${convert[@]}" inspect "$work/classifier.pth")" || fail "no Top1"
"$IBOT_BIN/ibot-eval" knn --train "$data" --test "$data" --nb_knn 5 --checkpoint "$work/run" >"$work/knn_run" \
    2>"$work/knn.log" || fail "k-NN of the run"
cmp "$work/knn_run" "$work/knn_classifier.pth" || fail "another network"
expect_error 3 'takes 64 features, and this backbone (width 32, 2 blocks) gives 32 with' \
    "${convert[@]}" "$work/run" "$work/x.pth" --linear "$work/whole" --n_last_blocks 1
expect_error 1 'no linear.safetensors in the folder' "${convert[@]}" "$work/run" "$work/x.pth" --linear "$work/run"
expect_error 1 'no linear classifier in it' "${convert[@]}" "$work/run" "$work/x.pth" --linear "$work/run/checkpoints/"*4/model.safetensors
expect_error 2 'leave --to backbone and --with_head out' \
    "${convert[@]}" "$work/run" "$work/x.pth" --linear "$work/whole" --with_head
expect_error 2 'are for --linear' "${convert[@]}" "$work/run" "$work/x.pth" --n_last_blocks 1

# what has ended is told again; other options are another run
"${linear[@]}" -o "$work/whole" --json >"$work/again.log" 2>/dev/null || fail "once more"
grep -q "{\"which\": \"best\", \"top1\": $(top1 "$work/whole.log" best), " "$work/again.log" ||
    fail "another result at the second telling"
expect_error 3 'holds another run' "${linear[@]}" -o "$work/whole" --seed 1
expect_error 3 'holds another run' "${linear[@]}" -o "$work/whole" --resize_size 36
# nor are the run's newer weights those that the classifiers were for
cp -r "$work/run" "$work/older"
train --data "$data" --loaders 1 --stop_at_step 6 -o "$work/run" >"$work/train.log" 2>&1 || fail "more steps"
expect_error 3 'holds another run.*step_00000004.*step_00000006' "${linear[@]}" -o "$work/whole"
rm -r "$work/run"
mv "$work/older" "$work/run"
printf 'x' >"$work/parts/classifiers.safetensors"
expect_error 1 'classifiers.safetensors' "${linear[@]}" -o "$work/parts"

# part-wise probing: patches that are looked at; the file says which, and robustness takes them
"${linear[@]}" --epochs 2 --topk 3 -o "$work/parts_of" >"$work/topk.log" 2>&1 || fail "--topk"
grep -q ' 45 classifiers of 32 features' "$work/topk.log" || fail "other features"
"${linear[@]}" --epochs 2 --topk 3 --reverse_top -o "$work/least" >"$work/least.log" 2>&1 || fail "--reverse_top"
cmp -s "$work/parts_of/log.txt" "$work/least/log.txt" && fail "the least are the most"
"${convert[@]}" "$work/run" "$work/part.pth" --linear "$work/least" >"$work/convert.log" 2>&1 || fail "--linear of patches"
"$IBOT_BIN/ibot-eval" robustness --checkpoint "$work/part.pth" --test "$data" --bicubic_resize --resize_size 32 --drop_grid 4 \
    --drop_ratios 0 --shuffle_grids none --json >"$work/robust" 2>"$work/robust.log" || fail "robustness of patches"
grep -q "\"top1\": $(top1 "$work/least.log" best | sed 's/0*$//')" "$work/robust" || fail "another accuracy: $(cat "$work/robust")"
expect_error 3 'holds another run.*top 3 patches' "${linear[@]}" --epochs 2 --topk 4 -o "$work/parts_of"
expect_error 2 '17 patch tokens is wanted, and there are 16' "${linear[@]}" --epochs 2 --topk 17

# what a folder says of its run is text, and so are paths
expect_error 2 'byte .* (0xe9) is not printable UTF-8' "${linear[@]}" --test "$work/$(printf 'caf\351')"

# every combination of rates, decays and optimizers; too many of them
"${linear[@]}" --epochs 1 --lr 0.1 1 --weight_decay 0 1e-6 --optimizer both >"$work/both.log" 2>&1 ||
    fail "both optimizers"
grep -q ' 8 classifiers of 64 features' "$work/both.log" || fail "wanted 8 classifiers"
expect_error 2 '256 are the most' "${linear[@]}" --weight_decay 0 1 2 --optimizer both
expect_error 2 'give --checkpoint' "$IBOT_BIN/ibot-eval" linear --train "$data" --test "$data"
mkdir -p "$work/fewer"
cp -r "$data/cat" "$work/fewer"
expect_error 3 'wanted the same names in both' "${linear[@]}" --test "$work/fewer"
echo "linear accuracy: best $(top1 "$work/whole.log" best) %, last $(top1 "$work/whole.log" last) %"
