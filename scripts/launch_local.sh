#!/usr/bin/env bash
# A fleet on one machine: loaders, each started again when it dies, and a trainer of one or several
# ranks. Every line of output says whose it is. Ctrl-C (or SIGTERM, SIGUSR1) lets the trainer finish
# its step and save, a second one ends it at once; then the loaders end. The exit status is the
# trainer's: 75 means that the same command goes on from there.
#
#   scripts/launch_local.sh [--loaders N] [--threads N] [--ranks N] --data DATA [-- OPTIONS OF ibot-train]
#
#   --loaders N   loader processes; default 2
#   --threads N   threads of each; default: the processors shared out
#   --ranks N     trainer processes, under mpirun; default 1
#
#   IBOT_BIN      where the programs are; default: build/bin here, else found by PATH
#
# For example: scripts/launch_local.sh --loaders 8 --data /data/imagenet/train -- \
#                  --recipe vit_small_16 --output_dir runs/small
#
# `ibot-train --loaders N` alone does the same for one rank, without scripts.
set -euo pipefail
set -m # each process in a group of its own: Ctrl-C comes to this script alone, which hands it on

here=$(cd "$(dirname "$0")" && pwd)
bin=${IBOT_BIN:-$here/../build/bin}
unset IBOT_BIN # programs read options from IBOT_…
[ ! -x "$bin/ibot-train" ] || PATH=$bin:$PATH
loaders=2
threads=0
ranks=1
data=

usage() {
    sed -n '7,11p' "$0" | sed 's/^# \{0,1\}//' >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case $1 in
    --loaders) loaders=${2:-} ;;
    --threads) threads=${2:-} ;;
    --ranks) ranks=${2:-} ;;
    --data) data=${2:-} ;;
    --)
        shift
        break
        ;;
    -h | --help)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *)
        echo "launch_local: unknown option '$1'; options of ibot-train come behind --" >&2
        usage
        ;;
    esac
    [ $# -ge 2 ] || usage
    shift 2
done
for number in "$loaders" "$threads" "$ranks"; do
    [[ $number =~ ^[0-9]+$ ]] || usage
done
if [ -z "$data" ] || [ "$loaders" -lt 1 ] || [ "$ranks" -lt 1 ]; then
    usage
fi
if [ "$threads" = 0 ]; then
    threads=$((($(nproc) + loaders - 1) / loaders))
fi

# The stream's address is this user's alone: a socket in a folder that nobody else can enter. Ranks
# need one each, and ports have rows.
folder=$(mktemp -d)
if [ "$ranks" = 1 ]; then
    listen=ipc://$folder/stream
    connect=$listen
else
    # the first row that nobody listens at, below the ports that the system hands out by itself
    port=$((20000 + $$ % 12000))
    for ((i = 0; i < ranks; i++)); do
        if (: < "/dev/tcp/127.0.0.1/$((port + i))") 2> /dev/null; then
            port=$((port + ranks)) i=-1
        fi
    done
    listen=tcp://127.0.0.1:$port
    connect=$listen-$((port + ranks - 1))
fi

started=()
labels=()
trainer=0
asked=
interrupted=no

# start NAME COMMAND…: in the background, with its name before each line; $! is the command's.
start() {
    local name=$1
    shift
    setpriv=()
    if setpriv --pdeathsig TERM true 2> /dev/null; then
        setpriv=(setpriv --pdeathsig TERM) # should this script be killed
    fi
    exec {out}> >(exec sed -u "s/^/[$name] /" >&2)
    labels+=($!)
    "${setpriv[@]}" "$@" >&$out 2>&1 &
    exec {out}>&-
}

hand_on() {
    asked=$1
    interrupted=yes
    [ $trainer = 0 ] || kill -"$1" $trainer 2> /dev/null || true
}
trap 'hand_on TERM' INT TERM HUP
trap 'hand_on USR1' USR1

finish() {
    local status=$?
    trap '' INT TERM HUP USR1
    if [ $trainer != 0 ]; then
        kill -TERM $trainer 2> /dev/null || true
        kill -CONT $trainer 2> /dev/null || true
        wait $trainer 2> /dev/null || true
    fi
    for child in "${started[@]}"; do
        kill -TERM "$child" 2> /dev/null || true
    done
    for child in "${started[@]}"; do
        wait "$child" 2> /dev/null || true
    done
    for label in "${labels[@]}"; do # until the last line is out
        wait "$label" 2> /dev/null || true
    done
    rm -rf "$folder"
    exit $status
}
trap finish EXIT

for ((i = 1; i <= loaders; i++)); do
    start "loader $i" "$here/keep_running.sh" ibot-loader --data "$data" --connect "$connect" \
        --threads "$threads" --exit_when_done
    started+=($!)
done
command=(ibot-train --listen "$listen" "$@")
[ "$ranks" = 1 ] || command=(mpirun --bind-to none -np "$ranks" "${command[@]}")
[ -z "$asked" ] || exit 75 # before anything was begun
start trainer "${command[@]}"
trainer=$!
[ -z "$asked" ] || kill -"$asked" $trainer 2> /dev/null || true

while :; do # a signal ends a wait, with a status of its own
    status=0
    interrupted=no
    wait $trainer || status=$?
    [ $interrupted = no ] || continue
    kill -0 $trainer 2> /dev/null || break
    sleep 0.2 # it was stopped, which is not its end
done
trainer=0
exit $status
