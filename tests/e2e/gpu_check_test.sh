#!/usr/bin/env bash
# scripts/gpu_check.sh where there is no GPU: what it refuses, and a rehearsal of every part with the
# emulated kernels. What only a GPU machine has (nvidia-smi, compute-sanitizer, a Python with PyTorch)
# is played by small scripts here.
source "$(dirname "$0")/processes.sh"
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(dirname "$IBOT_BIN")
check=("$root/scripts/gpu_check.sh" --build "$build")

mkdir "$work/fake" "$work/site" "$work/site/torch-1.0.dist-info"
export PATH=$work/fake:$PATH
fake() {
    cat >"$work/fake/$1"
    chmod +x "$work/fake/$1"
}
fake nvidia-smi <<<'#!/bin/sh
exit 9'
fake compute-sanitizer <<<'#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift 2; done
exec "$@"'
printf 'Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n' >"$work/site/torch-1.0.dist-info/METADATA"
fake torch-python <<END
#!/bin/sh
case \$1 in
*bench_torch_step.py) echo warming up; echo '{"what": "step in PyTorch", "images_per_second": 1.5}' ;;
*) PYTHONPATH=$work/site exec python3 "\$@" ;;
esac
END

# value EXPRESSION: of the newest JSON in $work/out, as r
value() {
    python3 - "$(ls -t "$work"/out/*.json | head -n 1)" "$1" <<'END'
import json, sys
r = json.load(open(sys.argv[1]))
print(eval(sys.argv[2]))
END
}
expect_value() {
    [ "$(value "$1")" = "$2" ] || fail "$1: got '$(value "$1")', wanted '$2'"
}

"${check[@]}" --help >"$work/help.log" || fail "--help"
grep -q compute-sanitizer "$work/help.log" || fail "--help names no parts"
expect_error 2 "got 'tets', wanted some of build,tests" "${check[@]}" --parts build,tets
expect_error 2 'wanted more than 0' "${check[@]}" --minutes 0
expect_error 2 "'/nowhere' does not exist" "${check[@]}" --packages /nowhere
expect_error 2 "got 'sm_90', wanted a number" "${check[@]}" --arch sm_90
expect_error 1 'no NVIDIA GPU found: nvidia-smi lists no GPU' "${check[@]}" --parts build,tests
expect_error 1 'holds no build' "${check[@]}" --emulated --build "$work/none" --parts tests

expect_error 2 'learn wants --cifar10' "${check[@]}" --parts learn
expect_error 2 "'/nowhere' does not exist" "${check[@]}" --cifar10 /nowhere
expect_error 2 'wanted 1 or more' "${check[@]}" --cifar10_epochs 0

# 20 images of each class to learn from, 10 to tell
mkdir -p "$work/set"
mv "$data" "$work/set/train"
for class in "$work"/test/*; do
    mkdir -p "$work/set/test/$(basename "$class")"
    find "$class" -name '*.jpg' | LC_ALL=C sort | sed -n 1,10p |
        xargs cp -t "$work/set/test/$(basename "$class")"
done

# every part; what other programs print as JSON is kept
"${check[@]}" --emulated --out "$work/out" --python "$work/fake/torch-python" --minutes 12 \
    --cifar10 "$work/set" --cifar10_epochs 2 \
    >"$work/rehearsal.log" 2>&1 || fail "the rehearsal"
expect_value 'r["mode"]' cuda_emulated
expect_value 'r["passed"], r["machine"]["gpu"]' '(True, None)'
expect_value '" ".join(r["parts"])' 'build tests golden sanitizer step ops stream torch learn'
expect_value 'set(p["status"] for p in r["parts"].values())' "{'passed'}"
expect_value 'len(r["parts"]["golden"]["runs"])' 2
expect_value 'all(e["worst"] <= 1e-4 for k, e in r["parts"]["golden"]["worst"].items() if "f32" in k)' True
expect_value 'r["parts"]["torch"]["measurements"]["vit_tiny.official"]["results"][0]["images_per_second"]' 1.5
expect_value 'sorted(r["parts"]["sanitizer"]["tools"])' "['initcheck', 'memcheck', 'racecheck', 'synccheck']"
expect_value 'r["parts"]["stream"]["measurements"]["vit_test"]["results"][0]["what"]' end_to_end
expect_value '[e["epoch"] for e in r["parts"]["learn"]["result"]["evaluations"]], r["parts"]["learn"]["result"]["ended"]' \
    '([0, 1, 2], True)'
grep -q '^| learning run' <<<"$(python3 "$root/scripts/bench_report.py" "$(ls -t "$work"/out/*.json | head -n 1)")" ||
    fail "no learning run in the report"
ls "$work"/out/*_learn.svg >/dev/null || fail "no curve beside the JSON"
expect_value 'r["parts"]["step"]["measurements"]["vit_test"]["results"][0]["backend"]' cuda_emulated

# a part that fails takes no other along, and the exit status says so
mkdir "$work/golden"
echo nonsense >"$work/golden/vit_nonsense.safetensors"
"${check[@]}" --emulated --out "$work/out" --golden "$work/golden" --parts tests,golden \
    --minutes 4 >"$work/failed.log" 2>&1 && fail "a golden file of nonsense passed"
expect_value 'r["passed"], r["parts"]["tests"]["status"], r["parts"]["golden"]["status"]' "(False, 'passed', 'failed')"
expect_value '"vit_nonsense.safetensors" in r["parts"]["golden"]["runs"]["vit_nonsense.f32.graph_on"]["reason"]' True

# no time: not run, which is not passed
"${check[@]}" --emulated --out "$work/out" --parts golden,stream --minutes 0.01 >"$work/time.log" 2>&1 &&
    fail "parts that were not run passed"
expect_value 'set(p["status"] for p in r["parts"].values())' "{'not run'}"

# a GPU that nvidia-smi knows and CUDA does not: its tests are skipped, which is not passed
fake nvidia-smi <<<'#!/bin/sh
case $1 in
*=name,compute_cap,memory.total,driver_version) echo "NVIDIA Test 80GB, 9.0, 81559, 580.1" ;;
*=clocks.max.sm) echo 1980 ;;
*) exit 2 ;;
esac'
if [ -x "$IBOT_BIN/test_ops_cast" ]; then
    CUDA_VISIBLE_DEVICES= "${check[@]}" --out "$work/out" --parts tests --minutes 4 --only ops.cast >"$work/skipped.log" 2>&1 &&
        fail "tests without a device passed"
    ls "$work"/out/*_gpu_Test-80GB.json >/dev/null || fail "the JSON is not named after the chip"
    expect_value 'r["machine"]["gpu"]["name"], r["passed"]' "('NVIDIA Test 80GB', False)"
    expect_value 'r["machine"]["gpu"]["max_sm_mhz"], "power_limit_w" in r["machine"]["gpu"]' "('1980', False)"
    expect_value 'r["parts"]["tests"]["counts"]' "{'skipped': 2}"
fi
