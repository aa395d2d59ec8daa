#!/usr/bin/env bash
# gpu-check.sh WHEELS OUT [REHEARSE]: install from a folder of wheels without a network, run the tests and the benchmark that
# need a GPU, and leave their results in OUT. With a third argument it rehearses on the CPU: tiny sizes, and no GPU test runs.
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=$(realpath "$1") out=$(realpath -m "$2") rehearse=${3:-}
mkdir -p "$out"
venv=$out/venv
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install -q --no-index --find-links "$wheels" -c constraints.txt -e '.[dev]'
"$venv/bin/lora-assets" doctor --json >"$out/doctor.json" || true
status=0
if [ -n "$rehearse" ]; then
    "$venv/bin/python" -m pytest -q -m gpu --collect-only --junitxml "$out/tests.xml" || status=$?
    "$venv/bin/python" -m benchmarks.gpu --rehearse --json "$out/bench.json" || status=$?
else
    "$venv/bin/python" -m pytest -q -m gpu --junitxml "$out/tests.xml" || status=$?
    "$venv/bin/python" -m benchmarks.gpu --json "$out/bench.json" || status=$?
fi
exit $status
