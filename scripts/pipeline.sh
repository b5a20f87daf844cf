#!/usr/bin/env bash
# Pre-training and evaluations in one line, one after the other, for each network of a run. What is done is
# skipped, what was interrupted goes on: give the same line again.
#
#   scripts/pipeline.sh [-n] TASKS JOB ARCH KEYS [GPUS] [OPTIONS]
#
#   -n       only say what would be run
#   TASKS    one or more of these, joined by +, in any order:
#              pretrain              ibot-train
#              imagenet_knn          ibot-eval knn
#              imagenet_linear       ibot-eval linear: 45 learning rates at once
#              imagenet_linear_solo  the same with one, 0.001
#              imagenet_part_linear  the same of the 1, 7, 14, 56, 112, 196 patches that [CLS] looks at most
#              imagenet_reg          ibot-eval logistic on the features of k-NN
#              imagenet_unsup_cls    ibot-eval cluster
#              robustness            ibot-eval robustness of the classifier that imagenet_linear made
#              davis_viseg           ibot-eval video: DAVIS 2017
#              ade20k_dense_linear   ibot-eval segment: ADE20K, a linear layer on the frozen backbone
#              paris_oxford_reid     ibot-eval retrieval: revisited Oxford and Paris, 512 px, 3 sizes
#              copydays_copydet      ibot-eval copy_detection: Copydays
#              extract               ibot-convert: the backbone as checkpoint_KEY.pth
#   JOB      the name of the run: its folder is OUTPUT_DIR, by default work_dirs/JOB
#   ARCH     a recipe of ibot-train (vit_small_16, swin_tiny_w14, …), or an architecture (vit_small, swin_tiny, …),
#            whose recipe is taken where there is one
#   KEYS     networks to evaluate: teacher, student or both, teacher,student
#   GPUS     in all, on all nodes; 0 (default): train and evaluate on the CPU
#   OPTIONS  more options, for ibot-train where pretrain is among the tasks, else for each evaluation
#
# For example:
#   scripts/pipeline.sh pretrain+imagenet_knn+imagenet_linear small vit_small teacher 8
#   scripts/pipeline.sh imagenet_linear small vit_small teacher,student 1 --epochs 20
#
# From the environment:
#   DATA          data set with the folders train and val; default: data/imagenet
#   IMNET_BG, IMNET_A, IMNET_C   of robustness; default: data/imnet_bg, …, those that are there
#   DAVIS         of davis_viseg; default: data/davis
#   ADE20K        of ade20k_dense_linear; default: data/ade/ADEChallengeData2016
#   REVISITED     of paris_oxford_reid; default: data/revisited
#   COPYDAYS, COPYDAYS_DISTRACTORS, COPYDAYS_WHITENING   of copydays_copydet; default: data/copydays, without the others
#   OUTPUT_DIR    default: work_dirs/JOB
#   PRETRAINED    what is evaluated, if not this run: any weights that ibot-eval takes
#   LOADERS       loader processes of each program; default: one per core, less two, 1 to 12
#   AVGPOOL, LINEAR_AVGPOOL, LINEAR_N_LAST_BLOCKS   features; by default as published: 0, 0 and 4, of ViT-B and -L 0, 2
#                 and 1. Giving one leaves the others at 0, 0 and 4
#   TOPK          of imagenet_part_linear, numbers of patches
#   IBOT_BIN      where the programs are; default: build/bin here, else found by PATH
#
# Several nodes run the same line at the same time, with a folder that all of them see:
#   TOTAL_NODES, NODE_ID         how many, and which one this is, from 0
#   MASTER_ADDR, MASTER_PORT     node 0, which the others must reach; port 29500
#   GPUS_PER_NODE                default: GPUS / TOTAL_NODES
# Networks are shared out among nodes for evaluation; k-NN and linear evaluation of one take all GPUs of its node. Under Slurm use scripts/slurm/ for pre-training.
#
# In the folder: run/ (as ibot-train leaves it), results/TASK_KEY.jsonl, logs/, linear_KEY/ and so on. The exit status
# is 0 when all is done, 75 when it was interrupted and the same line goes on, 3 when something was done by another
# line, others as of the programs.
set -euo pipefail
set -m # each process in a group of its own: Ctrl-C comes to this script alone, which hands it on

root=$(cd "$(dirname "$0")/.." && pwd)
say() { echo "pipeline: $*" >&2; }
stop() {
    say "$2"
    exit "$1"
}

dry=no
while :; do
    case ${1:-} in
    -h | --help)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    -n) dry=yes ;;
    *) break ;;
    esac
    shift
done
[ $# -ge 4 ] || stop 2 "wanted TASKS JOB ARCH KEYS [GPUS] [OPTIONS], got '$*'; --help says more"
tasks=$1 job=$2 arch=$3 keys=$4
shift 4
gpus=0
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
    [[ $1 =~ ^[0-9]+$ ]] || stop 2 "GPUS '$1': wanted a whole number, 0 for the CPU"
    gpus=$1
    shift
fi
[ "${1:-}" != -- ] || shift
more=("$@")

known='pretrain imagenet_knn imagenet_linear imagenet_linear_solo imagenet_part_linear imagenet_reg imagenet_unsup_cls robustness davis_viseg ade20k_dense_linear paris_oxford_reid copydays_copydet extract'
IFS=+ read -ra wanted <<<"$tasks"
for task in "${wanted[@]}"; do
    [[ " $known " == *" $task "* ]] || stop 2 "TASKS: no '$task'; there are: $known"
done
[ ${#wanted[@]} -gt 0 ] || stop 2 "TASKS is empty; there are: $known"
has() { [[ "+$tasks+" == *"+$1+"* ]]; }
[[ $job =~ ^[A-Za-z0-9_.-]+$ && $job != .* ]] || stop 2 "JOB '$job': wanted a name of letters, digits, _, - and ."
IFS=, read -ra networks <<<"$keys"
[ ${#networks[@]} -gt 0 ] || stop 2 "KEYS is empty: wanted teacher, student or both, joined by a comma"
for key in "${networks[@]}"; do
    [[ $key =~ ^[A-Za-z0-9_]+$ ]] || stop 2 "KEYS '$keys': wanted names joined by commas, such as teacher,student"
done

bin=${IBOT_BIN:-$root/build/bin}
unset IBOT_BIN # programs read options from IBOT_…
[ ! -x "$bin/ibot-train" ] || PATH=$bin:$PATH
command -v ibot-train ibot-eval ibot-convert >/dev/null || stop 2 "no ibot-train in '$bin', nor by PATH: build first, or set IBOT_BIN"

number() { # number NAME VALUE LEAST
    [[ $2 =~ ^[0-9]+$ ]] && [ "$2" -ge "$3" ] || stop 2 "$1 '$2': wanted a whole number, $3 or more"
}
nodes=${TOTAL_NODES:-1} node=${NODE_ID:-0}
number TOTAL_NODES "$nodes" 1
number NODE_ID "$node" 0
[ "$node" -lt "$nodes" ] || stop 2 "NODE_ID $node of TOTAL_NODES $nodes: wanted 0 to $((nodes - 1))"
here=${GPUS_PER_NODE:-$((gpus / nodes))}
number GPUS_PER_NODE "$here" 0
if [ $((here * nodes)) -ne "$gpus" ]; then
    stop 2 "$gpus GPUS on $nodes nodes are not $here on each: give a multiple, or GPUS_PER_NODE"
fi
if [ "$nodes" -gt 1 ] && [ "$gpus" = 0 ] && has pretrain; then
    stop 2 "pre-training on $nodes nodes takes GPUs: give GPUS; on CPUs start ibot-train under mpirun"
fi
loaders=${LOADERS:-$(($(nproc) > 14 ? 12 : $(nproc) > 3 ? $(nproc) - 2 : 1))}
number LOADERS "$loaders" 1

data=${DATA:-data/imagenet}
for split in train val; do
    [ $dry = yes ] || [ -e "$data/$split" ] || stop 2 "DATA '$data' has no '$split': wanted the folders train and val"
done
out=${OUTPUT_DIR:-work_dirs/$job}
weights=${PRETRAINED:-$out/run}

# the features of the published figures
if [ -z "${AVGPOOL:-}${LINEAR_AVGPOOL:-}${LINEAR_N_LAST_BLOCKS:-}" ] && [[ ! $arch =~ small|swin ]]; then
    LINEAR_AVGPOOL=2 LINEAR_N_LAST_BLOCKS=1
fi
pool=(--avgpool_patchtokens "${AVGPOOL:-0}")
linear_pool=(--avgpool_patchtokens "${LINEAR_AVGPOOL:-0}" --n_last_blocks "${LINEAR_N_LAST_BLOCKS:-4}")

recipe_of() {
    local name
    for name in "$1" "${1}_16" "${1}_w7"; do
        if [ -f "$root/trainer/recipes/$name.yaml" ]; then
            echo "--recipe $name"
            return
        fi
    done
    echo "--arch $1"
}

# ---------------------------------------------------------------------------------- stages

children=()
asked=
hand_on() {
    asked=yes
    for child in "${children[@]}"; do kill -TERM "$child" 2>/dev/null || true; done
}
trap hand_on INT TERM HUP

# Waits for all children. The status is the first that is not 0; then the others are asked to end.
wait_for_children() {
    local result=0 status child
    for child in "${children[@]}"; do
        while :; do # a signal ends a wait, with a status of its own
            status=0
            wait "$child" || status=$?
            kill -0 "$child" 2>/dev/null || break
        done
        if [ $result = 0 ] && [ $status != 0 ]; then
            result=$status
            [ $result = 75 ] || hand_on
        fi
    done
    children=()
    return $result
}

# What the weights are now: results of others are no results of these.
version_of() {
    if [ -d "$1/checkpoints" ]; then
        ls "$1/checkpoints" | LC_ALL=C sort | grep '^step_' | tail -n 1
    elif [ -e "$1" ]; then
        stat -c '%s bytes of %Y' "$1"
    fi
}

# one COMMAND…: on this node; standard output is the result
one() {
    [ -z "$asked" ] || return 75
    "$@" &
    children=($!)
    wait_for_children
}

# start_ranks FIRST WORLD ADDRESS COMMAND…: one process for each GPU of this node, told who it is as torchrun does
start_ranks() {
    local i first=$1 world=$2 address=$3
    shift 3
    [ -z "$asked" ] || return 75
    children=()
    for ((i = 0; i < here; i++)); do
        RANK=$((first + i)) LOCAL_RANK=$i WORLD_SIZE=$world MASTER_ADDR=$address \
            MASTER_PORT=${MASTER_PORT:-29500} "$@" &
        children+=($!)
    done
    wait_for_children
}
# ranks COMMAND…: those of this node, of all nodes; ranks_here: of this node alone
ranks() { start_ranks $((node * here)) "$gpus" "${MASTER_ADDR:-127.0.0.1}" "$@"; }
ranks_here() { start_ranks 0 "$here" 127.0.0.1 "$@"; }

# stage NAME OF HOW COMMAND…: runs the command by HOW (one, ranks, ranks_here), once; OF: the weights it is about, or ''
stage() {
    local name=$1 of=$2 how=$3 status=0 line mark
    shift 3
    line="$(printf '%q ' "$@")${of:+# $(version_of "$of")}"
    mark=$out/stages/$name
    if [ $dry = yes ]; then
        echo "$name: $(printf '%q ' "$@")"
        return
    fi
    if [ -e "$mark" ]; then
        [ "$(cat "$mark")" = "$line" ] || {
            say "$name was done, of other weights or by another line: $(cat "$mark")"
            stop 3 "and now would be: $line; remove '$mark' to do it again, or give another JOB"
        }
        say "$name: done before"
    else
        say "$name: begins; its log is $out/logs/$name.log"
        "$how" "$@" >"$out/results/$name.new" 2> >(exec tee -a "$out/logs/$name.log" >&2) || status=$?
        [ $status != 75 ] || stop 75 "$name was interrupted: the same line goes on"
        [ $status = 0 ] || stop $status "$name ended with status $status: see $out/logs/$name.log"
        mv "$out/results/$name.new" "$out/results/$name.jsonl"
        echo "$line" >"$mark.new"
        mv "$mark.new" "$mark"
    fi
    sed "s/^/$name: /" "$out/results/$name.jsonl"
}

backend=(--backend "$([ "$gpus" -gt 0 ] && echo cuda || echo cpu)")
evaluation=("${more[@]}")
! has pretrain || evaluation=()
[ $dry = yes ] || mkdir -p "$out/stages" "$out/results" "$out/logs"

if has pretrain; then
    read -ra recipe <<<"$(recipe_of "$arch")"
    how=one
    [ "$gpus" -le 1 ] || how=ranks
    name=pretrain
    [ "$node" = 0 ] || name=pretrain.node$node
    stage $name '' $how ibot-train "${recipe[@]}" "${backend[@]}" --data "$data/train" --loaders "$loaders" \
        --output_dir "$out/run" "${more[@]}"
fi

eval_of() { # eval_of WHAT KEY OPTIONS…: the command, in `command`
    local what=$1 key=$2
    shift 2
    command=(ibot-eval "$what" --checkpoint "$weights" --checkpoint_key "$key" "${backend[@]}" --json "$@")
}
shared=one # for evaluations that GPUs share
[ "$here" -le 1 ] || shared=ranks_here
sets=(--train "$data/train" --test "$data/val" --loaders "$loaders")

for ((k = node; k < ${#networks[@]}; k += nodes)); do
    key=${networks[k]}
    if has extract; then
        stage "extract_$key" "$weights" one ibot-convert "$weights" "$out/checkpoint_$key.pth" --key "$key"
    fi
    if has imagenet_knn; then
        eval_of knn "$key" "${sets[@]}" "${pool[@]}" "${evaluation[@]}"
        stage "imagenet_knn_$key" "$weights" $shared "${command[@]}"
    fi
    if has imagenet_reg; then
        eval_of knn "$key" "${sets[@]}" "${pool[@]}" --nb_knn 20 --dump_features "$out/features_$key"
        stage "features_$key" "$weights" $shared "${command[@]}"
        stage "imagenet_reg_$key" "$weights" one ibot-eval logistic --load_features "$out/features_$key" "${backend[@]}" \
            --json "${evaluation[@]}"
    fi
    if has imagenet_linear; then
        eval_of linear "$key" "${sets[@]}" "${linear_pool[@]}" --output_dir "$out/linear_$key" "${evaluation[@]}"
        stage "imagenet_linear_$key" "$weights" $shared "${command[@]}"
    fi
    if has imagenet_linear_solo; then
        eval_of linear "$key" "${sets[@]}" "${linear_pool[@]}" --lr 0.001 --output_dir "$out/linear_solo_$key" "${evaluation[@]}"
        stage "imagenet_linear_solo_$key" "$weights" $shared "${command[@]}"
    fi
    if has imagenet_part_linear; then
        for top in ${TOPK:-1 7 14 56 112 196}; do
            eval_of linear "$key" "${sets[@]}" --topk "$top" --output_dir "$out/part_linear_${key}_$top" "${evaluation[@]}"
            stage "imagenet_part_linear_${key}_$top" "$weights" $shared "${command[@]}"
        done
    fi
    if has imagenet_unsup_cls; then
        eval_of cluster "$key" --test "$data/val" --loaders "$loaders" "${evaluation[@]}"
        stage "imagenet_unsup_cls_$key" "$weights" one "${command[@]}"
    fi
    if has robustness; then
        [ $dry = yes ] || [ -e "$out/linear_$key/linear.safetensors" ] ||
            stop 2 "robustness wants the classifier that imagenet_linear makes: there is none in '$out/linear_$key'"
        benchmarks=(--test "$data/val")
        for name in bg a c; do
            variable=IMNET_${name^^}
            folder=${!variable:-data/imnet_$name}
            case $name in bg) option=--backgrounds ;; *) option=--imagenet_$name ;; esac
            if [ -n "${!variable:-}" ] || [ -d "$folder" ]; then
                benchmarks+=("$option" "$folder")
            fi
        done
        eval_of robustness "$key" --linear "$out/linear_$key" "${benchmarks[@]}" --output_dir "$out/robustness_$key" "${evaluation[@]}"
        stage "robustness_$key" "$weights" one "${command[@]}"
    fi
    if has davis_viseg; then
        eval_of video "$key" --data_path "${DAVIS:-data/davis}" --output_dir "$out/davis_$key" "${evaluation[@]}"
        stage "davis_viseg_$key" "$weights" one "${command[@]}"
    fi
    if has ade20k_dense_linear; then
        eval_of segment "$key" --data_path "${ADE20K:-data/ade/ADEChallengeData2016}" --output_dir "$out/ade20k_$key" \
            "${evaluation[@]}"
        stage "ade20k_dense_linear_$key" "$weights" one "${command[@]}"
    fi
    if has paris_oxford_reid; then
        eval_of retrieval "$key" --data "${REVISITED:-data/revisited}" --dataset roxford5k --dataset rparis6k --imsize 512 \
            --multiscale --output_dir "$out/retrieval_$key" "${evaluation[@]}"
        stage "paris_oxford_reid_$key" "$weights" one "${command[@]}"
    fi
    if has copydays_copydet; then
        others=()
        for name in distractors whitening; do
            variable=COPYDAYS_${name^^}
            [ -z "${!variable:-}" ] || others+=("--$name" "${!variable}")
        done
        eval_of copy_detection "$key" --data "${COPYDAYS:-data/copydays}" "${others[@]}" --output_dir "$out/copydays_$key" \
            "${evaluation[@]}"
        stage "copydays_copydet_$key" "$weights" one "${command[@]}"
    fi
done
[ $dry = yes ] || say "all is done: $out/results"
