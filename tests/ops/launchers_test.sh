#!/usr/bin/env bash
# launchers_test.sh COLLECTIVE_RANKS: two emulated ranks meet through what each launcher sets, each with the
# device of its local rank; what can't be is refused by name.
set -uo pipefail
program=$1
work=$(mktemp -d /tmp/ibot-launchers-XXXXXX)
trap 'rm -rf "$work"' EXIT
for name in RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT IBOT_RANKS_AT CUDA_VISIBLE_DEVICES \
    "${!SLURM_@}" "${!OMPI_@}" "${!PMIX_@}" "${!TORCHELASTIC_@}"; do
    unset "$name"
done
export IBOT_EMULATOR_DEVICES=2 OMP_NUM_THREADS=1

fail() {
    echo "FAIL: $*" >&2
    cat "$work"/*.log >&2
    exit 1
}

# both STATUS NAME=VALUE…: two ranks end with this status; @ is the rank.
both() {
    local wanted=$1 pids=() status
    shift
    for rank in 0 1; do
        env "${@//@/$rank}" timeout 60 "$program" cuda_emulated 2 >"$work/$rank.log" 2>&1 &
        pids+=($!)
    done
    for rank in 0 1; do
        status=0
        wait "${pids[$rank]}" || status=$?
        [ "$status" -eq "$wanted" ] || fail "rank $rank: exit status $status, wanted $wanted: $*"
    done
}
# Seven ports in a row that nobody listens at, below those that the system hands out, apart from those of
# tests/e2e/fleet_test.c.
port=$((26000 + ($$ * 7) % 5000))
for ((i = 0; i < 7; i++)); do
    if (: <"/dev/tcp/127.0.0.1/$((port + i))") 2>/dev/null; then
        port=$((port + 7)) i=-1
    fi
done

both 0 RANK=@ WORLD_SIZE=2 LOCAL_RANK=@ MASTER_ADDR=127.0.0.1 MASTER_PORT=$port
both 0 RANK=@ WORLD_SIZE=2 LOCAL_RANK=@ MASTER_ADDR=localhost MASTER_PORT=$((port + 1)) \
    TORCHELASTIC_USE_AGENT_STORE=True
both 0 SLURM_PROCID=@ SLURM_NTASKS=2 SLURM_LOCALID=@ SLURM_STEP_ID=0 SLURM_JOB_ID=$((port + 3 - 20000)) \
    SLURM_STEP_NODELIST=localhost
both 0 OMPI_COMM_WORLD_RANK=@ OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=@ \
    OMPI_COMM_WORLD_LOCAL_SIZE=2 PMIX_NAMESPACE="job $port"

# two machines with one device each; and a launcher that lets each rank see its own device alone
both 0 RANK=@ WORLD_SIZE=2 LOCAL_RANK=0 NCCL_HOSTID=machine@ IBOT_EMULATOR_DEVICES=1 \
    IBOT_RANKS_AT=127.0.0.1:$((port + 4))
both 0 SLURM_PROCID=@ SLURM_NTASKS=2 SLURM_LOCALID=@ SLURM_STEP_ID=0 CUDA_VISIBLE_DEVICES=@ \
    IBOT_RANKS_AT=127.0.0.1:$((port + 5))

# one device for two
both 1 RANK=@ WORLD_SIZE=2 LOCAL_RANK=0 IBOT_RANKS_AT=127.0.0.1:$((port + 6))
grep -q 'Duplicate GPU' "$work/0.log" || fail "that two ranks share a device is not said"
RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 IBOT_EMULATOR_DEVICES=1 "$program" cuda_emulated 2 >"$work/1.log" 2>&1
[ $? -eq 77 ] || fail "one device for two local ranks"
grep -q 'CUDA device 1 .* this machine has 1' "$work/1.log" || fail "devices are not counted"
echo "torchrun, Slurm and Open MPI: two ranks met, each with its device"
