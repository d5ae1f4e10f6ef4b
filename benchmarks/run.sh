#!/usr/bin/env bash
# All tables, by hand: benchmarks/run.sh [FOLDER]. FOLDER needs 30 GB; .bench by default.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-"$here/../.bench"}
mkdir -p "$folder"
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1

grep -m1 'model name' /proc/cpuinfo || true
python -I "$here/../examples/make_base.py" "$folder/smollm2"
python "$here/startup.py"
python "$here/catalog.py"
python "$here/adding.py"
python "$here/completion.py"
python "$here/rounding.py" "$folder/smollm2" "$here"/../examples/adapters/*
python "$here/hub.py"
python "$here/hub_push.py" 20 200
python "$here/merging.py" "$folder"
