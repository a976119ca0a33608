#!/usr/bin/env bash
# All that is asked of a GPU, within some ten minutes: tests, programs of networks, whole steps.
#
#     bash examples/results/on_gpu.sh [SECONDS]
#
# Each part writes its results as they come, does not stop the others, and is stopped after five
# minutes. Compilations run beside the tests, timings alone; each takes about SECONDS (1).
set -u
cd "$(dirname "$0")/../.."
seconds=${1:-1}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
begin=$SECONDS
part() { # NAME COMMAND...
    local name=$1 code=0
    shift
    timeout 300 "$@" || code=$?
    echo "[$((SECONDS - begin)) s] $name: ended with $code"
}

python - <<'PYTHON'
from pathlib import Path
import sys
sys.path.insert(0, "examples/results")
from speed import model_file
for name in ("painn", "schnet", "nequip"):
    model_file(name, Path("runs/speed"))
PYTHON
for model in runs/speed/painn.pt runs/speed/schnet.pt runs/speed/nequip.pt sevennet-0; do
    part "eqcalc compile $model" eqcalc compile "$model" --device cuda &
done
part tests python -m pytest -m gpu -n 8 --dist worksteal -q tests &
wait
part programs python examples/results/gpu.py
part steps python examples/results/against_limit.py --device cuda --seconds "$seconds"
