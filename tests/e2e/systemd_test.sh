#!/usr/bin/env bash
# The units of scripts/systemd, as systemd reads them: every line is understood, and little is exposed.
# tests/e2e/signals_test.c has what the programs say to it.
source "$(dirname "$0")/processes.sh"

command -v systemd-analyze > /dev/null || {
    echo "SKIPPED: no systemd-analyze (package systemd)"
    exit 77
}
units=$(cd "$(dirname "$0")/../../scripts/systemd" && pwd)
for unit in "$units"/*.service; do
    name=$(basename "$unit" @.service)
    # an instance, of programs that are there
    sed "s|/usr/bin/|$IBOT_BIN/|" "$unit" > "$work/$name@test.service"
    cp "$work/$name@test.service" "$work/$name@.service"
    systemd-analyze verify --man=no "$work/$name@test.service" > "$work/$name.log" 2>&1 ||
        fail "systemd-analyze verify $name"
    if grep -q "$work" "$work/$name.log"; then
        fail "systemd-analyze verify $name has remarks"
    fi
    # 10 is everything; what remains is the network, and a GPU's devices of a trainer
    systemd-analyze security --offline=yes --threshold=25 "$work/$name@test.service" \
        > "$work/$name.log" 2>&1 || fail "$name is exposed"
    grep 'Overall' "$work/$name.log"
done
