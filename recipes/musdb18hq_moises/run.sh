#!/usr/bin/env bash
# Apollo, or SR-GAN, on MUSDB18-HQ and MoisesDB, from the data sets to a published model.
set -e
set -o pipefail

# Options: --name value on the command line; see ./run.sh --help.
stage=0
stop_stage=6
model=apollo
tag=
python_path=python
id=${CUDA_VISIBLE_DEVICES:-}
musdb18hq_dir=
moisesdb_dir=
songs_dir=
pairs_dir=
data_dir=
download=0
demo=0
seed=0
segment=
n_valid=
n_test=
n_jobs=
dask=
conf=
resume=0
allow_partial=0
allow_lossy=0
init_from=
devices=
num_nodes=1
use_gpu=
n_examples=20
iterations=
beside=

help_message="Usage: $0 [--option value]...

Trains and evaluates Apollo, or SR-GAN. Stages (--stage N to start at, --stop_stage M to stop after):
  0  check the data sets (--download 1 fetches MUSDB18-HQ, --demo 1 makes synthetic ones)
  1  index songs and stems, divide them into train, valid and test
  2  detect the active segments of each stem
  3  make the fixed validation and test pairs, at six bit rates, of four kinds of music
  4  train
  5  evaluate: the paper's Table II and Figure 2, with the untouched MP3
  6  publish: Asteroid package, safetensors, model card

Data
  --musdb18hq_dir DIR  with train/ and test/       --moisesdb_dir DIR   with moisesdb_v0.1/
  --songs_dir DIR      songs without stems         --pairs_dir DIR      with original/ and coded/
                       (one of the four is enough) --data_dir DIR       results of stages 1 to 3 (data)
  --allow_lossy 1      include songs of --songs_dir that are cut off themselves
  --download 1         download MUSDB18-HQ (22 GB) to --musdb18hq_dir
  --demo 1             run the whole recipe in minutes, on small synthetic data
  --n_valid N          validation pairs for each bit rate and kind (25; demo: 1)
  --n_test N           test pairs for each bit rate and kind (200; demo: 2; the paper has 5000)
  --segment S          length of training items and pairs in seconds (3; demo: 1, 3)
  --seed N             seed of splits, pairs and training ($seed)
Machine
  --n_jobs N           processes for stages 0, 2, 3 and 5 (one for each core)
  --dask ADDRESS       a Dask cluster instead, such as tcp://host:8786
  --id IDS             CUDA devices to use, such as 0,1
  --python_path PATH   python with apollo_plugin installed ($python_path)
Training and evaluation
  --model NAME         apollo, or srgan, which the paper compares with ($model)
  --tag NAME           results go to exp/NAME (apollo, srgan; demo, demo_srgan)
  --conf FILE          configuration (local/conf.yml, conf_demo.yml, conf_srgan.yml or conf_srgan_demo.yml)
  --resume 1           continue from the last checkpoint of exp/NAME
  --allow_partial 1    evaluate and publish an unfinished training
  --init_from NAME     start from the weights of a checkpoint: path, Hub id or bundled name
  --devices N          processes per machine, one for each GPU; --num_nodes N machines
  --use_gpu 0|1        evaluate on a GPU (where there is one)
  --n_examples N       examples on the listening page ($n_examples)
  --iterations N       runs for the mean real-time factor (1000; demo: 100)
  --beside DIRS        other experiments to compare in tables and figure, such as
                       'exp/one exp/two' (with --model srgan: exp/apollo or exp/demo, if there)

A stage that runs again keeps its finished results. README.md lists times and sizes."

options="stage stop_stage model tag python_path id musdb18hq_dir moisesdb_dir songs_dir pairs_dir data_dir"
options="$options download demo seed segment n_valid n_test n_jobs dask conf resume allow_partial allow_lossy init_from"
options="$options devices num_nodes use_gpu n_examples iterations beside"

caller=$PWD
cd "$(dirname "$0")"
. utils/parse_options.sh
. utils/stages.sh

for name in stage stop_stage; do must_match "$name" '[0-9]+' "a number"; done
for name in download demo resume allow_partial allow_lossy; do must_match "$name" '0|1' "0 or 1"; done
must_match model 'apollo|srgan' "apollo or srgan"
must_match seed '[0-9]+' "a number"
must_match segment '([0-9]+(\.[0-9]+)?)?' "a number of seconds"
must_match n_valid '[0-9]*' "a number"
must_match n_test '[0-9]*' "a number"
must_match iterations '([1-9][0-9]*)?' "a number from 1 up"
must_match n_jobs '([1-9][0-9]*)?' "a number from 1 up"

from_caller musdb18hq_dir moisesdb_dir songs_dir pairs_dir data_dir conf
[[ -z $init_from || ! -e $caller/$init_from ]] || init_from=$caller/$init_from
data_dir=${data_dir:-data}

variant=
[ "$model" = apollo ] || variant=_$model
if [ "$demo" = 1 ]; then
  tag=${tag:-demo$variant}
  conf=${conf:-local/conf${variant}_demo.yml}
  n_valid=${n_valid:-1}
  n_test=${n_test:-2}
  iterations=${iterations:-100}
  musdb18hq_dir=${musdb18hq_dir:-$data_dir/demo/musdb18hq}
  moisesdb_dir=${moisesdb_dir:-$data_dir/demo/moisesdb}
fi
tag=${tag:-$model}
conf=${conf:-local/conf$variant.yml}
expdir=exp/$tag
apollo=exp/$([ "$demo" = 1 ] && echo demo || echo apollo)
if [ "$model" != apollo ] && [ -z "$beside" ] && [ -f "$apollo/best_model.pth" ]; then
  beside=$apollo
fi
[ -z "$id" ] || export CUDA_VISIBLE_DEVICES=$id

require_python

# Empty options are left to the scripts' defaults.
sets=()
for name in musdb18hq_dir moisesdb_dir songs_dir pairs_dir; do
  [ -z "${!name}" ] || sets+=("--$name" "${!name}")
done
work=(${n_jobs:+--n_jobs "$n_jobs"} ${dask:+--dask "$dask"})

if due 0; then
  say 0 "data sets"
  run_script local/prepare_data.py "${sets[@]}" "${work[@]}" --download "$download" --demo "$demo"
fi

if due 1; then
  say 1 "index and splits"
  run_script local/index_tracks.py "${sets[@]}" --data_dir "$data_dir" --seed "$seed" \
    --allow_lossy "$allow_lossy"
fi

if due 2; then
  say 2 "source activity detection"
  run_script local/detect_activity.py "${work[@]}" --data_dir "$data_dir"
fi

if due 3; then
  say 3 "validation and test pairs"
  run_script local/make_pairs.py "${work[@]}" --data_dir "$data_dir" --seed "$seed" \
    ${segment:+--segment "$segment"} --n_valid "${n_valid:-25}" --n_test "${n_test:-200}"
fi

if due 4; then
  say 4 "training, in $expdir"
  start=()
  [ "$resume" = 0 ] || start+=(--resume 1)
  run_script train.py --model "$model" --conf "$conf" --exp_dir "$expdir" --data_dir "$data_dir" \
    --seed "$seed" --num_nodes "$num_nodes" ${segment:+--segment "$segment"} \
    ${devices:+--devices "$devices"} ${init_from:+--init_from "$init_from"} "${start[@]}"
fi

if due 5; then
  say 5 "evaluation, in $expdir"
  run_script eval.py --exp_dir "$expdir" --test_dir "$data_dir/test" "${work[@]}" \
    ${use_gpu:+--use_gpu "$use_gpu"} --n_examples "$n_examples" \
    ${iterations:+--iterations "$iterations"} ${beside:+--beside $beside} \
    --allow_partial "$allow_partial"
fi

if due 6; then
  say 6 "publishing, in $expdir/publish_dir"
  run_script local/publish.py --exp_dir "$expdir" --allow_partial "$allow_partial"
fi
