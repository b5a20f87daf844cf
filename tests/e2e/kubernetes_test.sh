#!/usr/bin/env bash
# The manifests of scripts/kubernetes against Kubernetes' schemas, against each other, and against the
# options of the programs. IBOT_PYTHON: a python that has the package kubernetes-validate.
set -euo pipefail

python=${IBOT_PYTHON:-python3}
command -v "$python" > /dev/null || {
    echo "SKIPPED: no python3"
    exit 77
}
"$python" -c 'import kubernetes_validate, yaml' 2> /dev/null || {
    echo "SKIPPED: no validator (pip install kubernetes-validate, or IBOT_PYTHON)"
    exit 77
}
exec "$python" "$(dirname "$0")/../../scripts/kubernetes/check.py" --programs "$IBOT_BIN"
