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
# Rank 1 begins when there is a file RANK.go: until then rank 0 waits for it, and for strangers.
two() {
    timeout 400 "$run_ranks" 2 bash -c 'echo $$ >"$0.$RANK"
        until [ "$RANK" = 0 ] || [ -e "$0.go" ]; do sleep 0.05; done; exec "$@"' "$work/$1.rank" "$program" \
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

touch "$work/calm.rank.go"
two calm || fail "a calm run"

attackers=()
port=$((31000 + ($$ * 7) % 1500)) # apart from other tests' ports, below those that the system hands out
while [ "$(connections "$port" 0A)" -gt 0 ]; do
    port=$((port + 1))
done
attack "$port" random_bytes half_open slow_loris huge_length oversized messages keys
IBOT_RANKS_AT=127.0.0.1:$port two attacked &
run=$!
others=
until [ -n "$others" ] && [ "$(connections "$port" 01)" -gt 50 ]; do
    kill -0 "$run" 2>/dev/null || fail "the run has ended, and 50 strangers or a second port were not there"
    sleep 0.02
    others=$(ports_of "$(cat "$work/attacked.rank.0" 2>/dev/null)" | grep -vx "$port" || true)
done
for other in $others; do
    attack "$other" random_bytes huge_length oversized messages
done
touch "$work/attacked.rank.go"
wait "$run" || fail "the attacked run"
for pid in "${attackers[@]}"; do
    kill -0 "$pid" || fail "an attacker has ended"
done
[ "$(state_of "$work/calm")" = "$(state_of "$work/attacked")" ] || fail "it ends elsewhere"
echo "strangers at the ranks' ports change nothing"
