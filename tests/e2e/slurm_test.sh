#!/usr/bin/env bash
# scripts/slurm/ibot.sbatch under a Slurm of its own: controller, three node daemons and munge on this
# machine, without touching another one's. A heterogeneous job trains to the end; one that runs out of
# time, and one that is preempted by SIGTERM, save, are queued again and go on.
#
# Runs with IBOT_TEST_SLURM=1 alone: when a queued job begins is Slurm's affair, by timers of its own,
# and on a busy machine that takes minutes.
source "$(dirname "$0")/processes.sh"

[ "${IBOT_TEST_SLURM:-0}" = 1 ] || {
    echo "SKIPPED: runs with IBOT_TEST_SLURM=1"
    exit 77
}
for program in slurmctld slurmd srun sbatch munged mungekey; do
    command -v $program > /dev/null || PATH=$PATH:/usr/sbin
    command -v $program > /dev/null || {
        echo "SKIPPED: no $program (packages slurmctld, slurmd, slurm-client, munge)"
        exit 77
    }
done
[ "$(id -u)" = 0 ] || {
    echo "SKIPPED: a slurmd needs root"
    exit 77
}

scripts=$(cd "$(dirname "$0")/../../scripts" && pwd)
slurm=$work/slurm
# Jobs of our own cluster, and of no other one that this machine may know.
end_jobs() {
    if [ "${SLURM_CONF:-}" = "$slurm/slurm.conf" ]; then
        scancel --user=root 2> /dev/null || true
        sleep 1
    fi
}
trap 'end_jobs; cleanup' EXIT
mkdir -p "$slurm/state" "$slurm/munge"
chmod 0755 "$work"
chmod 0700 "$slurm/munge"
# Below the ports that the system hands out by itself; the first row that nobody listens on.
base=$((12000 + $$ % 9000 / 20 * 20))
while ss -Hltn 2> /dev/null | grep -q ":\($base\|$((base + 1))\|$((base + 2))\|$((base + 3))\|$((base + 10))\) "; do
    base=$((base + 20))
done
mungekey --create --keyfile "$slurm/munge/key"
munged --foreground --force --key-file "$slurm/munge/key" --socket "$slurm/munge.socket" \
    --pid-file "$slurm/munge/pid" --log-file "$slurm/munge/log" --seed-file "$slurm/munge/seed" \
    > "$work/munged.log" 2>&1 &
children+=($!)

cat > "$slurm/slurm.conf" << END
ClusterName=ibot
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
SlurmctldPort=$base
SlurmdPort=$((base + 1))
AuthType=auth/munge
AuthInfo=socket=$slurm/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool-%n
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=20
MinJobAge=300
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName=n0 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((base + 1)) CPUs=2
NodeName=n1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((base + 2)) CPUs=2
NodeName=n2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((base + 3)) CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF=$slurm/slurm.conf
slurmctld -D -i > "$work/slurmctld.log" 2>&1 &
children+=($!)
for node in n0 n1 n2; do
    mkdir -p "$slurm/spool-$node"
    slurmd -D -N $node > "$work/slurmd-$node.log" 2>&1 &
    children+=($!)
done

# until_true SECONDS COMMAND…
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || {
            scontrol show job >&2
            sinfo -N -l >&2
            fail "waited in vain: $*"
        }
        sleep 0.1
    done
}
nodes_are_up() { [ "$(sinfo -h -N -t idle -o %N 2> /dev/null | wc -l)" = 3 ]; }
until_true 30 nodes_are_up

# submit NAME RANKS OPTIONS-OF-ibot-train…: the job's number
submit() {
    local name=$1 ranks=$2
    shift 2
    IBOT_DATA=$data IBOT_RUN=$work/$name IBOT_BIN=$IBOT_BIN IBOT_PORT=$((base + 10)) IBOT_THREADS=1 \
        sbatch --parsable --output="$work/$name.log" --time=10 --nodes=1 --ntasks-per-node="$ranks" \
        --cpus-per-task=1 : --nodes=2 --cpus-per-task=1 "$scripts/slurm/ibot.sbatch" "${tiny[@]}" "$@"
}
state_is() { [ "$(squeue -h -j "$1" -o %T 2> /dev/null | head -n 1)" = "$2" ]; }
job_is_over() {
    scontrol show job "$1" | grep -q 'JobState=\(COMPLETED\|FAILED\|CANCELLED\|TIMEOUT\)' &&
        ! squeue -h -j "$1" -o %T 2> /dev/null | grep -q 'RUNNING\|COMPLETING\|PENDING'
}
started_again() {
    scontrol update JobId="$1" Nice=0 > /dev/null 2>&1
    ! state_is "$1" PENDING
}
exit_of() { scontrol show job "$1" | sed -n 's/.* ExitCode=\([0-9]*\):.*/\1/p' | head -n 1; }

train --data "$data" --loaders 1 -o "$work/alone" --epochs 30 > "$work/alone.log" 2>&1 || fail "alone"

job=$(submit whole 1 --epochs 30)
until_true 90 job_is_over "$job"
[ "$(exit_of "$job")" = 0 ] || fail "exit status $(exit_of "$job") of a job that trains to the end"
[ "$(state_of "$work/whole")" = "$(state_of "$work/alone")" ] || fail "the job ends elsewhere"
grep -q 'keys' <(ls "$work/whole") || fail "no keys"
grep -q '^[01]: .*ibot-loader' "$work/whole.log" || fail "no loader of the second component"
[ "$(stat -c %a "$work/whole/keys/trainer.secret")" = 600 ] || fail "others may read the keys"

# asked to end, by USR1 as Slurm does at the end of the time, and by TERM as preemption does
for signal in USR1 TERM; do
    job=$(submit "again_$signal" 1 --epochs 4000 --stop_at_step 36)
    until_true 60 grep -q 'steps in each' "$work/again_$signal.log"
    until_true 60 test -d "$work/again_$signal/checkpoints/step_00000012"
    scancel --batch --signal=$signal "$job"
    until_true 60 grep -q 'goes into the queue again' "$work/again_$signal.log"
    # On a cluster where nothing else happens, the scheduler of heterogeneous jobs has to be told that
    # the time which a requeued one must wait is over.
    until_true 60 state_is "$job" PENDING
    until_true 30 started_again "$job"
    until_true 90 job_is_over "$job"
    [ "$(exit_of "$job")" = 0 ] || fail "exit status $(exit_of "$job") after $signal"
    grep -q 'going on from' "$work/again_$signal.log" || fail "it did not go on after $signal"
done

# two ranks of the first component, each with its own port
if srun --mpi=list 2>&1 | grep -q pmix && command -v mpirun > /dev/null; then
    export SLURM_MPI_TYPE=pmix
    job=$(submit two 2 --batch_size_per_gpu 8 --epochs 3)
    until_true 120 job_is_over "$job"
    if ! grep -q 'no MPI' "$work/two.log"; then
        [ "$(exit_of "$job")" = 0 ] || fail "exit status $(exit_of "$job") of two ranks"
        train --data "$data" --loaders 1 -o "$work/one" > "$work/one.log" 2>&1 || fail "one rank"
        last=$(ls "$work/one/checkpoints" | LC_ALL=C sort | tail -n 1)
        "$IBOT_BIN/compare_states" "$work/one/checkpoints/$last/model.safetensors" \
            "$work/two/checkpoints/$last/model.safetensors" 1e-5 || fail "two ranks end elsewhere"
    fi
fi
echo "a heterogeneous job trains, saves when it is asked to end, and goes on"
