#!/usr/bin/env bash
# kernels_test.sh SOURCES LIBRARY NOTES TEST...
#
# Every kernel that SOURCES/*.cu and *.cuh define, in each instance that LIBRARY has, was run by a test
# with the emulated kernels: a kernel that no test has executed is a defect. The tests left notes in
# NOTES/TEST (IBOT_EMULATOR_KERNELS). Where some of them have not run, what is missing can't be said to
# be a defect: 77. Notes that are older than their program count for nothing. What may be missing, and
# why, is in kernels_not_executed.txt.
set -euo pipefail
export LC_ALL=C
sources=$1
library=$2
notes=$3
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# names of the functions behind __global__
cat "$sources"/*.cu "$sources"/*.cuh | tr '\n' ' ' |
    grep -oE '__global__ void *(__launch_bounds__\([^()]*(\([^()]*\)[^()]*)*\))? *[A-Za-z_0-9]+ *\(' |
    sed -E 's/ *\($//; s/.*[ )]//' | sort -u > "$work/names"

# kernels OBJECT: "address signature" of each instance
kernels() {
    nm -C --defined-only "$1" 2> /dev/null | awk -v names="$work/names" '
        BEGIN { while ((getline name < names) > 0) is_kernel[name] = 1 }
        $2 ~ /^[TtWw]$/ && !/\[clone/ {
            address = $1
            sub(/^[0-9a-f]+ [A-Za-z] /, "")
            name = $0
            template = name ~ /^void /
            sub(/^void /, "", name)
            if (!match(name, /^[A-Za-z_0-9]+/)) next
            after = substr(name, RLENGTH + 1, 1)
            name = substr(name, 1, RLENGTH)
            if (name in is_kernel && (template ? after == "<" : after == "(")) print address, $0
        }'
}

kernels "$library" | sed 's/^[^ ]* //' | sort -u > "$work/there"
if [ ! -s "$work/names" ] || [ ! -s "$work/there" ]; then
    echo "no kernels found in $sources and $library" >&2
    exit 1
fi

touch "$work/lines"
for note in "$notes"/*/*; do
    [ -f "$note" ] || continue
    object=$(sed -n '1s/^[^ ]* //p' "$note")
    if [ -f "$object" ] && [ ! "$object" -nt "$note" ]; then
        cat "$note" >> "$work/lines"
    else
        rm -f "$note"
    fi
done
not_run=()
for test in "$@"; do
    [ -n "$(ls "$notes/$test" 2> /dev/null)" ] || not_run+=("$test")
done
sort -u "$work/lines" -o "$work/lines"
cut -d ' ' -f 2- "$work/lines" | sort -u | while read -r object; do
    kernels "$object" > "$work/object"
    awk -v object="$object" 'NR == FNR { name = $0; sub(/^[^ ]* /, "", name); at[$1] = name; next }
        { place = $1; sub(/^[^ ]* /, ""); if ($0 == object && place in at) print at[place] }' \
        "$work/object" "$work/lines"
done | sort -u > "$work/executed"

grep -v '^#' "$(dirname "$0")/kernels_not_executed.txt" > "$work/allowed"
comm -23 "$work/there" "$work/executed" | { grep -vEf "$work/allowed" || true; } > "$work/missing"
echo "$(wc -l < "$work/names") kernels, $(wc -l < "$work/there") instances," \
    "$(comm -12 "$work/there" "$work/executed" | wc -l) of them executed by $(($# - ${#not_run[@]})) tests"
# a name without any instance is a kernel that nobody launches
sed -E 's/^void //; s/[<(].*//' "$work/there" | sort -u | comm -23 "$work/names" - > "$work/unused"
if [ -s "$work/unused" ]; then
    echo "kernels that are not launched at all:"
    cat "$work/unused"
    exit 1
fi
[ -s "$work/missing" ] || exit 0
echo "not executed:"
cat "$work/missing"
if [ ${#not_run[@]} -gt 0 ]; then
    echo "but these tests have not run: ${not_run[*]}"
    exit 77
fi
exit 1
