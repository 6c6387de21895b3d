#!/usr/bin/env bash
# shellcheck disable=SC2086,SC2154
# The bundled checkpoints, from sounds to tables.
set -e
set -o pipefail

# Options: --name value on the command line. Say ./run.sh --help.
stage=1
stop_stage=5
demo=0
samples_dir=
real_dir=
valid_dir=
records_dir=
font=
data_dir=
exp_dir=
n_train=
minutes=
device=cpu
seed=0
n_jobs=
python_path=python

help_message="Usage: $0 [--option value]...

Makes apollo-small and apollo-small-streaming anew. Stages (--stage N to start at, --stop_stage M to stop after):
  1  material: songs of stems with their pairs, whole songs, recordings to choose and measure by
  2  tokens: both models, part after part (parts.yml)
  3  highs: the envelope paths of both, side by side
  4  assemble: small.safetensors and streaming.safetensors
  5  measure: the tables of the model cards, small.md and streaming.md

Sounds
  --samples_dir DIR    samples named by what they play (Sonic Pi's, CC0)
  --real_dir DIR       folders of recordings, named by what they play
  --valid_dir DIR      recordings in WAV or FLAC, 44.1 kHz, that no training hears
  --records_dir DIR    whole songs (gathered from Debian packages, records.tsv)
  --font FILE          General MIDI sound font for fluidsynth (FluidR3's)
  --demo 1             everything small, of sounds that this package makes, in minutes
Results
  --data_dir DIR       material (data; demo: data/demo)
  --exp_dir DIR        trainings, checkpoints and tables (exp; demo: exp/demo)
  --n_train N          training songs (120; demo: 2)
  --minutes M          of stage 3, whose rates follow the clock (60; demo: 0.1)
  --seed N             of everything random ($seed)
Machine
  --device NAME        of stage 3: cpu or cuda ($device)
  --n_jobs N           processes of stage 1 (one for each core)
  --python_path PATH   python that has apollo_plugin ($python_path)

What is finished is kept when a stage runs again, unless it was made with other options or of older
files; what was stopped goes on. README.md tells times."

options="stage stop_stage demo samples_dir real_dir valid_dir records_dir font data_dir exp_dir n_train"
options="$options minutes device seed n_jobs python_path"

caller=$PWD
cd "$(dirname "$0")"
moises=../musdb18hq_moises
. $moises/utils/parse_options.sh
. $moises/utils/stages.sh

for name in stage stop_stage seed; do must_match "$name" '[0-9]+' "a number"; done
must_match demo '0|1' "0 or 1"
must_match n_train '([1-9][0-9]*)?' "a number from 1 up"
must_match n_jobs '([1-9][0-9]*)?' "a number from 1 up"
must_match minutes '([0-9]+(\.[0-9]+)?)?' "a number of minutes"
from_caller samples_dir real_dir valid_dir records_dir font data_dir exp_dir
require_python

# What --demo 1 makes small, by script; split into words where it is used.
songs= pairs= valid= energies= start= tokens= highs= measured=
if [ "$demo" = 1 ]; then
  data_dir=${data_dir:-data/demo}
  exp_dir=${exp_dir:-exp/demo}
  sounds=$data_dir/sounds
  samples_dir=${samples_dir:-$sounds/samples}
  real_dir=${real_dir:-$sounds/real}
  valid_dir=${valid_dir:-$sounds/valid}
  records_dir=${records_dir:-$sounds/records}
  songs="--n_train ${n_train:-2} --n_valid 2 --n_test 1 --seconds 12"
  [ -n "$font" ] || songs="$songs --no_font"
  pairs="--n_valid 1 --n_test 1 --segment 0.2"
  valid="--seconds 1"
  energies="--n_mixes 2 --seconds 2"
  start="--steps 2 --batch 1 --songs 2 --seconds 0.3 --n-valid 4 --threads 1"
  tokens="--conf demo.yml"
  minutes=${minutes:-0.1}
  highs="--features 176 --kernel 3 --batch 1 --seconds 1.2 --slots 4 --ridge_batches 2"
  measured="--n_most 1 --no_visqol"
else
  songs="--n_train ${n_train:-120} --n_valid 12 --n_test 8"
  pairs="--n_valid 3 --n_test 4"
  minutes=${minutes:-60}
fi
data_dir=${data_dir:-data}
exp_dir=${exp_dir:-exp}
gather=
[ -n "$records_dir" ] || gather=1
records_dir=${records_dir:-$data_dir/records}
work=(${n_jobs:+--n_jobs "$n_jobs"})
if [ "$stage" -le 3 ] && { [ -z "$samples_dir" ] || [ -z "$real_dir" ] || [ -z "$valid_dir" ]; }; then
  echo "$0: pass --samples_dir, --real_dir and --valid_dir, or --demo 1; see $0 --help" >&2
  exit 1
fi
mkdir -p "$data_dir" "$exp_dir"
sources=(--real "$real_dir" --songs "$data_dir/songs" --loops "$samples_dir" --records "$records_dir")

# Whether FILE was made by this command, and of files no newer: fresh FILE command...
fresh() {
  local made=$1.made input
  [ -e "$1" ] && [ -f "$made" ] && [ "$(cat "$made")" = "${*:2}" ] || return 1
  for input in "${@:4}"; do
    if [ -f "$input" ] && [ "$input" -nt "$made" ]; then return 1; fi
  done
}

# Runs a command that makes FILE, unless it is fresh: once FILE command...
once() {
  if fresh "$@"; then
    echo "'$1' is there and kept"
    return
  fi
  "${@:2}"
  printf '%s\n' "${*:2}" >"$1.made"
}

# The output of a script as a file, whole or not at all: run_into FILE script...
run_into() {
  run_script "${@:2}" >"$1.part"
  mv "$1.part" "$1"
  cat "$1"
}

if due 1; then
  say 1 "material, in $data_dir"
  [ "$demo" = 0 ] || once "$sounds" run_script make_demo.py --out "$sounds"
  [ -z "$gather" ] || once "$records_dir" run_script gather_records.py --out "$records_dir"
  once "$data_dir/songs" run_script make_material.py --samples "$samples_dir" --out "$data_dir" \
    --seed "$seed" $songs ${font:+--font "$font"} "${work[@]}"
  once "$data_dir/train/segments.json" run_script $moises/local/detect_activity.py \
    --data_dir "$data_dir" "${work[@]}"
  once "$data_dir/test/pairs.json" run_script $moises/local/make_pairs.py --data_dir "$data_dir" \
    --seed "$seed" $pairs "${work[@]}"
  once "$data_dir/pairs" run_script make_valid.py "$valid_dir" \
    --energies "$data_dir/energies/valid" --pairs "$data_dir/pairs" $valid
  # What the baseline of stage 5 is fitted to.
  once "$data_dir/energies/train" run_script make_energies.py "${sources[@]}" \
    --out "$data_dir/energies/train" --seed "$seed" $energies
fi

if due 2; then
  say 2 "tokens, in $exp_dir"
  once "$exp_dir/start.safetensors" run_script train.py --samples "$samples_dir" \
    --out "$exp_dir/start.safetensors" --seed "$seed" $start
  once "$exp_dir/streaming4/best_model.pth" run_script train_tokens.py small streaming \
    --data_dir "$data_dir" --exp_dir "$exp_dir" --init_from "$exp_dir/start.safetensors" \
    --seed "$seed" $tokens
fi

if due 3; then
  say 3 "highs, in $exp_dir/highs"
  once "$exp_dir/highs/streaming.safetensors" run_script train_envelope.py "${sources[@]}" \
    --valid "$data_dir/energies/valid" --out "$exp_dir/highs" --minutes "$minutes" \
    --device "$device" --seed "$seed" $highs
fi

for model in small streaming; do
  if due 4; then
    say 4 "assembling $exp_dir/$model.safetensors"
    once "$exp_dir/$model.safetensors" run_script assemble.py "$exp_dir/${model}4/best_model.pth" \
      "$exp_dir/highs/$model.safetensors" "$exp_dir/$model.safetensors" \
      --valid "$data_dir/energies/valid" --low 0.4
  fi
  if due 5; then
    say 5 "measuring, into $exp_dir/$model.md"
    once "$exp_dir/$model.md" run_into "$exp_dir/$model.md" measure.py "$data_dir/pairs" \
      "$exp_dir/$model.safetensors" --energies "$data_dir/energies/train" $measured
  fi
done
