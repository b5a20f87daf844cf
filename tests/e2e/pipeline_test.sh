#!/usr/bin/env bash
# scripts/pipeline.sh: pre-training and evaluations in one line. What was interrupted goes on, what is done is
# skipped, results are those of the programs, ranks and nodes share the work, and what is wrong is named.
source "$(dirname "$0")/processes.sh"

export IBOT_BIN
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir "$work/set"
mv "$data" "$work/set/train"
cp -r "$work/set/train" "$work/set/val"
pipeline() { DATA=$work/set OUTPUT_DIR=$work/job LOADERS=1 "$root/scripts/pipeline.sh" "$@"; }
# For the background: the script itself, so that signals reach it.
pipeline_exec() { DATA=$work/set OUTPUT_DIR=$work/job LOADERS=1 exec "$root/scripts/pipeline.sh" "$@"; }

# asked to end while it trains: it says so, and the same line goes on to the same state
line=(pretrain+imagenet_knn+imagenet_reg+imagenet_unsup_cls+extract tiny vit_test teacher,student 0 "${tiny[@]:2}"
    --epochs 30 --saveckp_freq 30)
train --data "$work/set/train" --loaders 1 --epochs 30 --saveckp_freq 30 -o "$work/calm" >"$work/calm.log" 2>&1 ||
    fail "training alone"
for try in 1 2 3 4 5; do
    rm -rf "$work/job"
    pipeline_exec "${line[@]}" >"$work/first.out" 2>"$work/first.log" &
    child=$!
    children+=("$child")
    wait_for "$work/first.log" 'in each of 30 epochs'
    kill -TERM "$child" 2>/dev/null || true
    status=0
    wait "$child" || status=$?
    [ $status = 75 ] && grep -q 'pretrain was interrupted: the same line goes on' "$work/first.log" && break
    echo "try $try: it was further than training before the signal"
done
[ $status = 75 ] || fail "exit status $status after SIGTERM"
[ ! -e "$work/job/stages/pretrain" ] || fail "pre-training is not done"
pipeline "${line[@]}" >"$work/all.out" 2>"$work/all.log" || fail "the whole line"
[ "$(state_of "$work/calm")" = "$(state_of "$work/job/run")" ] || fail "another state than without the script"
grep -q 'all is done' "$work/all.log" || fail "it does not say that all is done"

# results are what the programs say, of each network
knn=("$IBOT_BIN/ibot-eval" knn --train "$work/set/train" --test "$work/set/val" --checkpoint "$work/job/run" --json)
for key in teacher student; do
    "${knn[@]}" --checkpoint_key $key >"$work/knn" 2>"$work/knn.log" || fail "k-NN"
    cmp "$work/knn" "$work/job/results/imagenet_knn_$key.jsonl" || fail "another k-NN of the $key"
    grep -q "^imagenet_knn_$key: {\"k\": 20, " "$work/all.out" || fail "k-NN of the $key is not told"
    [ -s "$work/job/results/imagenet_reg_$key.jsonl" ] || fail "no regression of the $key"
    grep -q '"nmi": ' "$work/job/results/imagenet_unsup_cls_$key.jsonl" || fail "no clusters of the $key"
    "$IBOT_BIN/ibot-convert" "$work/job/run" "$work/$key.pth" --key $key 2>"$work/convert.log" || fail "ibot-convert"
    "$IBOT_BIN/ibot-convert" diff "$work/job/checkpoint_$key.pth" "$work/$key.pth" >"$work/diff.log" || fail "another $key"
done
cmp -s "$work"/job/results/imagenet_knn_{teacher,student}.jsonl && fail "two networks, one result"

# again: nothing runs, the same is told
mv "$work/set" "$work/away"
mkdir -p "$work/set/train" "$work/set/val" # nothing to run on
pipeline "${line[@]}" >"$work/again.out" 2>"$work/again.log" || fail "once more"
cmp "$work/all.out" "$work/again.out" || fail "other results"
[ "$(grep -c ': done before' "$work/again.log")" = 11 ] || fail "not all of it was done before"
rmdir "$work/set/train" "$work/set/val" "$work/set"
mv "$work/away" "$work/set"

# evaluations by another line, with options of theirs; robustness of what linear made
LINEAR_N_LAST_BLOCKS=2 pipeline imagenet_linear+robustness tiny vit_small teacher 0 --epochs 3 >"$work/linear.out" 2>"$work/linear.log" && fail "epochs are none of robustness"
[ -s "$work/job/linear_teacher/linear.safetensors" ] || fail "no classifier"
grep -q '"epoch": 2, ' "$work/job/linear_teacher/log.txt" || fail "not three epochs"
pipeline robustness tiny vit_small teacher 0 --drop_grid 4 --shuffle_grids 2x2 >"$work/robust.out" 2>"$work/robust.log" || fail "robustness"
grep -q '^robustness_teacher: {"test": "shuffle", "setting": "2x2"' "$work/robust.out" || fail "no shuffling"
TOPK='1 5' pipeline imagenet_part_linear tiny vit_small teacher 0 --epochs 1 >"$work/part.out" 2>"$work/part.log" || fail "parts"
grep -q '^imagenet_part_linear_teacher_5: {"which": "best"' "$work/part.out" || fail "no five patches"
expect_error 3 'imagenet_part_linear_teacher_1 was done, of other weights or by another line' \
    env TOPK=1 DATA="$work/set" OUTPUT_DIR="$work/job" "$root/scripts/pipeline.sh" imagenet_part_linear tiny vit_small teacher 0 --epochs 2

DAVIS=/videos pipeline -n davis_viseg tiny vit_small teacher 0 --topk 3 >"$work/davis.out" 2>"$work/davis.log" || fail "-n of videos"
grep -q '^davis_viseg_teacher: ibot-eval video .*--data_path /videos --output_dir .*/davis_teacher --topk 3' "$work/davis.out" || fail "no videos"

REVISITED=/places pipeline -n paris_oxford_reid tiny vit_small teacher 0 --imsize 224 >"$work/places.out" 2>"$work/places.log" || fail "-n of places"
grep -q '^paris_oxford_reid_teacher: ibot-eval retrieval .*--data /places --dataset roxford5k --dataset rparis6k --imsize 512 --multiscale .*/retrieval_teacher --imsize 224' "$work/places.out" || fail "no places"
ADE20K=/scenes pipeline -n ade20k_dense_linear tiny vit_small teacher 0 --steps 3 >"$work/ade.out" 2>"$work/ade.log" || fail "-n of scenes"
grep -q '^ade20k_dense_linear_teacher: ibot-eval segment .*--data_path /scenes --output_dir .*/ade20k_teacher .*--steps 3' "$work/ade.out" || fail "no scenes"
COPYDAYS_WHITENING=/others pipeline -n copydays_copydet tiny vit_small teacher 0 >"$work/copies.out" 2>"$work/copies.log" || fail "-n of copies"
grep -q '^copydays_copydet_teacher: ibot-eval copy_detection .*--data data/copydays --whitening /others --output_dir .*/copydays_teacher' "$work/copies.out" || fail "no copies"

# a node takes its share of the networks; ranks are told who they are
NODE_ID=1 TOTAL_NODES=2 pipeline -n imagenet_knn tiny vit_small teacher,student,both 0 >"$work/node.out" 2>"$work/node.log" || fail "-n"
[ "$(wc -l <"$work/node.out")" = 1 ] || fail "more than one of three networks for the second of two nodes"
grep -q -- '--checkpoint_key student' "$work/node.out" || fail "another network"
mkdir "$work/bin"
cat >"$work/bin/ibot-train" <<'END'
#!/usr/bin/env bash
echo "rank $RANK of $WORLD_SIZE, here $LOCAL_RANK, $MASTER_ADDR $MASTER_PORT: $1 $2" >>"$RANKS"
[ "${FAILS:-}" != "$RANK" ] || exit 1
[ -z "${FAILS:-}" ] || { trap 'exit 75' TERM; sleep 600 & wait; }
END
ln -s "$IBOT_BIN/ibot-eval" "$IBOT_BIN/ibot-convert" "$work/bin"
chmod +x "$work/bin/ibot-train"
ranks=(env DATA="$work/set" RANKS="$work/ranks" IBOT_BIN="$work/bin" TOTAL_NODES=2 NODE_ID=1 MASTER_ADDR=head)
"${ranks[@]}" OUTPUT_DIR="$work/ranked" "$root/scripts/pipeline.sh" pretrain j vit_base teacher 4 >"$work/ranks.log" 2>&1 || fail "ranks"
LC_ALL=C sort "$work/ranks" | cmp - <(printf 'rank %d of 4, here %d, head 29500: --recipe vit_base_16\n' 2 0 3 1) || fail "ranks"
[ -e "$work/ranked/stages/pretrain.node1" ] || fail "the node's part is not done"
# one of them fails: the other one, which would go on for minutes, is asked to end
expect_error 1 'pretrain.node1 ended with status 1' \
    "${ranks[@]}" FAILS=2 OUTPUT_DIR="$work/failed" "$root/scripts/pipeline.sh" pretrain j vit_base teacher 4

# k-NN of a network takes the GPUs of its node, and what they print is one result
rm "$work/bin/ibot-eval"
cat >"$work/bin/ibot-eval" <<'END'
#!/usr/bin/env bash
echo "rank $RANK of $WORLD_SIZE, here $LOCAL_RANK, $MASTER_ADDR $MASTER_PORT: $1 $2" >>"$RANKS"
[ "$RANK" != 0 ] || echo '{"k": 10}'
END
chmod +x "$work/bin/ibot-eval"
rm "$work/ranks"
"${ranks[@]}" PRETRAINED=network.pth OUTPUT_DIR="$work/shared" "$root/scripts/pipeline.sh" imagenet_knn j vit_base teacher,student 4 \
    >"$work/shared.out" 2>"$work/shared.log" || fail "k-NN on ranks"
LC_ALL=C sort "$work/ranks" | cmp - <(printf 'rank %d of 2, here %d, 127.0.0.1 29500: knn --checkpoint\n' 0 0 1 1) || fail "ranks of k-NN"
[ "$(cat "$work/shared.out")" = 'imagenet_knn_student: {"k": 10}' ] || fail "another result: $(cat "$work/shared.out")"

# what is wrong is named
script=(env DATA="$work/set" "$root/scripts/pipeline.sh")
expect_error 2 "no 'imagenet_kn'; there are: pretrain imagenet_knn" "${script[@]}" pretrain+imagenet_kn j vit_small teacher 0
expect_error 2 'wanted TASKS JOB ARCH KEYS' "${script[@]}" imagenet_knn
expect_error 2 "JOB '../x'" "${script[@]}" imagenet_knn ../x vit_small teacher
expect_error 2 "GPUS 'many'" "${script[@]}" imagenet_knn j vit_small teacher many
expect_error 2 "has no 'val'" env DATA="$work" "$root/scripts/pipeline.sh" imagenet_knn j vit_small teacher
expect_error 2 'are not 1 on each' env TOTAL_NODES=2 "${script[@]}" imagenet_knn j vit_small teacher 3
expect_error 2 'takes GPUs' env TOTAL_NODES=2 "${script[@]}" pretrain j vit_small teacher
expect_error 2 'NODE_ID 2 of TOTAL_NODES 2' env TOTAL_NODES=2 NODE_ID=2 "${script[@]}" imagenet_knn j vit_small teacher
expect_error 2 'wants the classifier that imagenet_linear makes' env OUTPUT_DIR="$work/none" "${script[@]}" robustness j vit_small teacher
expect_error 1 'imagenet_knn_teacher ended with status 1' env OUTPUT_DIR="$work/none" "${script[@]}" imagenet_knn j vit_small teacher
rm "$work/error.log"
echo "the pipeline runs, goes on, skips, and shares out its work"
