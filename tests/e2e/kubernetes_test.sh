#!/usr/bin/env bash
# The manifests of scripts/kubernetes against Kubernetes' schemas, against each other, and against the
# options of the programs. IBOT_PYTHON: a Python that has the package kubernetes-validate, as
# scripts/setup.sh installs it.
set -euo pipefail

python=${IBOT_PYTHON:-python3}
"$python" -c 'import kubernetes_validate, yaml' 2> /dev/null || {
    echo "SKIPPED: no validator in $python (package kubernetes-validate; scripts/setup.sh)"
    exit 77
}
exec "$python" "$(dirname "$0")/../../scripts/kubernetes/check.py" --programs "$IBOT_BIN"
