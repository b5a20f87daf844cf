#!/usr/bin/env bash
# rank_strangers_test.sh IBOT_TRAIN RUN_RANKS ATTACKER: strangers at the ports of two ranks, from before they
# meet until they have ended: random bytes, connections that say nothing or little, lengths beyond all
# bounds, messages without the key. The run ends with the bits of a calm one.
source "$(dirname "$0")/processes.sh"
program=$1 run_ranks=$2 attacker=$3
export IBOT_EMULATOR_DEVICES=2 OMP_NUM_THREADS=1

for class in "$data"/*; do
    find "$class" -name '*.jpg' | LC_ALL=C sort | sed -n '2,$p' | xargs -r rm
done
two() {
    timeout 200 "$run_ranks" 2 bash -c 'echo $$ >"$0.$RANK"; exec "$@"' "$work/$1.rank" "$program" \
        "${tiny[@]}" --data "$data" --loaders 1 --batch_size_per_gpu 2 --epochs 2 --backend cuda \
        --precision f32 -o "$work/$1" >"$work/$1.log" 2>&1
}
attack() { # PORT KINDS…
    local port=$1 kind
    shift
    for kind in "$@"; do
        "$attacker" "127.0.0.1:$port" "$kind" >>"$work/attackers.log" 2>&1 &
        children+=($!)
        attackers+=($!)
    done
}
# Connections in a state (01: established, 0A: listening) at a port of this machine.
connections() { awk -v port="$(printf ':%04X' "$1")" -v state="$2" \
    'substr($2, 9) == port && $4 == state' /proc/net/tcp | wc -l; }
# The ports where a process listens.
ports_of() {
    local inode
    for inode in $(find "/proc/$1/fd" -type l -printf '%l\n' 2>/dev/null | sed -n 's/^socket:\[\(.*\)\]$/\1/p'); do
        awk -v inode="$inode" '$4 == "0A" && $10 == inode { print substr($2, 10) }' /proc/net/tcp
    done | while read -r hex; do echo $((16#$hex)); done
}

two calm || fail "a calm run"

attackers=()
port=$((20000 + ($$ * 7) % 12000))
attack "$port" random_bytes half_open slow_loris huge_length oversized messages keys
IBOT_RANKS_AT=127.0.0.1:$port two attacked &
run=$!
wait_for "$work/attacked.log" 'steps in each of'
until [ "$(connections "$port" 01)" -gt 50 ]; do
    kill -0 "$run" 2>/dev/null || fail "no 50 strangers have come while it trained"
    sleep 0.02
done
others=$(ports_of "$(cat "$work/attacked.rank.0")" | grep -vx "$port")
[ -n "$others" ] || fail "rank 0 has no second port"
for other in $others; do
    attack "$other" random_bytes huge_length oversized messages
done
wait "$run" || fail "the attacked run"
for pid in "${attackers[@]}"; do
    kill -0 "$pid" || fail "an attacker has ended"
done
[ "$(state_of "$work/calm")" = "$(state_of "$work/attacked")" ] || fail "it ends elsewhere"
echo "strangers at the ranks' ports change nothing"
