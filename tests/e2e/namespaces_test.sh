#!/usr/bin/env bash
# Hosts of their own for trainer and loaders: network namespaces with links between them, encrypted. Links
# are cut and come back, one loader's host gets another address, one is gone for good: the batches are
# those of a calm run.
source "$(dirname "$0")/processes.sh"

name=ibot-$$
hosts=("$name-t" "$name-a" "$name-b")
drop_hosts() {
    for host in "${hosts[@]}"; do
        ip netns pids "$host" 2> /dev/null | xargs -r kill -9 2> /dev/null || true
        ip netns del "$host" 2> /dev/null || true
    done
}
trap 'drop_hosts; cleanup' EXIT
command -v ip > /dev/null && ip netns add "$name-t" 2> /dev/null || {
    echo "SKIPPED: no right to make network namespaces, or no iproute2"
    exit 77
}
in_host() {
    local host=$1
    shift
    ip netns exec "$name-$host" "$@"
}
n=1
for host in a b; do # 10.99.1.0/24 and 10.99.2.0/24: the trainer's end is 1, the loader's 2
    ip netns add "$name-$host"
    ip -n "$name-t" link add "to-$host" type veth peer name eth0 netns "$name-$host" || {
        echo "SKIPPED: no veth links here"
        exit 77
    }
    ip -n "$name-t" addr add "10.99.$n.1/24" dev "to-$host"
    ip -n "$name-$host" addr add "10.99.$n.2/24" dev eth0
    ip -n "$name-t" link set "to-$host" up
    ip -n "$name-$host" link set eth0 up
    n=$((n + 1))
done

cd "$work"
"$IBOT_BIN/ibot-stream" keygen trainer 2> "$work/keys.log"
"$IBOT_BIN/ibot-stream" keygen loader 2>> "$work/keys.log"
long=(--epochs 80 --lr 0.001 --prefetch 2)
train "${long[@]}" --data "$data" --loaders 1 -o "$work/calm" --log_digests "$work/calm.digests" \
    > "$work/calm.log" 2>&1 || fail "calm run"

# Once, so that every loader opens it at once.
"$IBOT_BIN/ibot-index" "$data" > /dev/null 2>&1
start_loader() { # start_loader HOST NETWORK
    in_host "$1" "$IBOT_BIN/ibot-loader" --data "$data" --connect "tcp://10.99.$2.1:5550" --threads 1 \
        --key loader.secret --server_key trainer.public >> "$work/loader_$1.log" 2>&1 &
    children+=($!)
}
in_host t "$IBOT_BIN/ibot-train" "${tiny[@]}" "${long[@]}" --listen tcp://0.0.0.0:5550 --key trainer.secret \
    --allow loader.public -o "$work/run" --log_digests "$work/run.digests" > "$work/trainer.log" 2>&1 &
trainer=$!
children+=("$trainer")
start_loader a 1
start_loader b 2

total=$(wc -l < "$work/calm.digests")
# Waits for n more batches; says how long it took.
more() {
    local from begin now
    from=$(wc -l < "$work/run.digests")
    begin=$(date +%s%N)
    now=$from
    until [ "$now" -ge $((from + $1)) ] || [ "$now" -ge "$total" ]; do
        kill -0 "$trainer" 2> /dev/null || [ "$(wc -l < "$work/run.digests")" -ge "$total" ] ||
            fail "the trainer has ended"
        [ $(($(date +%s%N) - begin)) -lt 180000000000 ] || fail "too few batches in three minutes: $2"
        sleep 0.02
        now=$(wc -l < "$work/run.digests")
    done
    printf '%-40s %5d ms for %d batches\n' "$2" $((($(date +%s%N) - begin) / 1000000)) $((now - from))
}
link() { ip -n "$name-t" link set "to-$1" "$2"; }

wait_for "$work/run.digests" '^10 '
more 50 "both loaders"
link a down
more 150 "one link is cut"
link a up
more 50 "it is back"
link a down
link b down
sleep 1.5
link a up
link b up
more 50 "both were cut for 1.5 s"
ip -n "$name-b" addr del 10.99.2.2/24 dev eth0
ip -n "$name-b" addr add 10.99.2.77/24 dev eth0
more 150 "a loader's host has another address"
link a down
for pid in $(ip netns pids "$name-a"); do kill -9 "$pid" || true; done
more 150 "a host is gone"
link a up
start_loader a 1
more 100 "another one in its place"
wait "$trainer" || fail "the trainer ends with $?"
cmp "$work/calm.digests" "$work/run.digests" || fail "other batches"
[ "$(state_of "$work/calm")" = "$(state_of "$work/run")" ] || fail "the run ends elsewhere"
for host in a b; do
    grep -q 'serving, encrypted' "$work/loader_$host.log" || fail "loader $host has not served"
done
echo "batches are those of a calm run"
