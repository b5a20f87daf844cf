#!/usr/bin/env bash
# PyTorch and timm from PyPI, for checks against them; nothing else needs them. They go into a folder
# of their own, IBOT_TORCH (default ~/.cache/ibot/torch), and stay there.
#
#   scripts/setup_torch.sh install       unless they are there; at most IBOT_TORCH_SECONDS (default 900)
#   scripts/setup_torch.sh run FILE …    runs a Python file with them; exit status 77: they are not there
#   scripts/setup_torch.sh which         names that Python; the same
set -euo pipefail

folder=${IBOT_TORCH:-${HOME:-/tmp}/.cache/ibot/torch}

# The Python that has PyTorch: that folder's, or the system's.
find_python() {
    local python
    for python in "$folder/bin/python" python3; do
        if command -v "$python" > /dev/null && "$python" -c 'import torch, numpy' 2> /dev/null; then
            echo "$python"
            return 0
        fi
    done
    return 1
}

install() {
    if find_python > /dev/null; then
        return 0
    fi
    # What was there before is nobody's to delete but its owner's.
    if [ ! -e "$folder/pyvenv.cfg" ] && [ -n "$(ls -A "$folder" 2> /dev/null)" ]; then
        echo "setup_torch: '$folder' has other things in it: set IBOT_TORCH to a folder of its own" >&2
        return 1
    fi
    mkdir -p "$(dirname "$folder")"
    python3 -m venv "$folder" &&
        timeout "${IBOT_TORCH_SECONDS:-900}" "$folder/bin/pip" install -q --disable-pip-version-check \
            torch numpy timm pillow && find_python > /dev/null && return 0
    rm -rf "$folder"
    echo "setup_torch: PyTorch could not be installed; checks against it are left out" >&2
    return 1
}

case ${1:-} in
-h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
install) install ;;
run | which)
    python=$(find_python) || {
        echo "skipped: no PyTorch; scripts/setup_torch.sh install" >&2
        exit 77
    }
    [ "$1" = run ] || exec echo "$python"
    shift
    exec "$python" "$@"
    ;;
*)
    sed -n '5,7p' "$0" >&2
    exit 2
    ;;
esac
