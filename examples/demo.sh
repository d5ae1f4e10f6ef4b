#!/usr/bin/env bash
# The main job on a real model: add, list, show, check, merge, verify, try, export, rebuild.
# Everything it makes is in .demo, which is made anew each time, but for the base.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$here/../.demo
mkdir -p "$work"
work=$(cd "$work" && pwd)
export ADREG_HOME=$work/home
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
unset ADREG_DATABASE_URL

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
run() { printf '\033[36m$ %s\033[0m\n' "$*"; "$@"; }

say "a real base: SmolLM2-135M-Instruct, from the Python package that carries it"
run python -I "$here/make_base.py" "$work/smollm2"

rm -rf "$work/home" "$work/support" "$work/release" "$work/again" "$work/back"
say "the catalog learns the base and two real adapters"
run adreg base add "$work/smollm2" --name smollm2 --alias HuggingFaceTB/SmolLM2-135M-Instruct --license apache-2.0
run adreg add "$here/adapters/pirate" --name team/pirate --base smollm2 --tag style=pirate --alias prod --note "Talks like a pirate."
run adreg add "$here/adapters/brief" --name team/brief --base smollm2 --tag style=brief
run adreg list
run adreg show team/pirate
run adreg check team/pirate --base smollm2

say "merged: first the plan, then the model"
run adreg merge team/pirate@prod --dry-run | tail -n 1
run adreg merge team/pirate@prod --name team/pirate-merged
run adreg merge team/pirate=0.7 team/brief=0.3 --name team/mixed -o "$work/support"
run adreg list --models

say "what was stored is what is there"
run adreg verify --all

say "base, base with the adapter on top, and the merged model, side by side"
run adreg try team/pirate team/pirate-merged --prompt "What is the capital of France?" --max-new-tokens 32

say "an adapter back as a PEFT folder, and a model as a release that anyone can check and rebuild"
run adreg export team/pirate -o "$work/back"
run cmp "$work/back/adapter_model.safetensors" "$here/adapters/pirate/adapter_model.safetensors"
run adreg export team/pirate-merged -o "$work/release"
(cd "$work/release" && run sha256sum --quiet -c SHA256SUMS)
run adreg rebuild "$work/release/adreg.lock.json" -o "$work/again"
run diff -r "$work/release" "$work/again"
run adreg history --limit 5
say "done: the merged model is in $work/release and loads with transformers alone"
