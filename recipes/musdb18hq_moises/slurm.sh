#!/usr/bin/env bash
# Stage 4 under Slurm, begun again and again until it is finished: sbatch slurm.sh TAG [run.sh's options]
#SBATCH --job-name=apollo
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=40
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
# Two minutes before the time is over Slurm sends USR1 to this script alone (B:), a preemption TERM.
# run.sh hands either to the training, which ends at once: checkpoints are written between epochs.
set -u
tag=${1:?"usage: sbatch slurm.sh TAG [options of run.sh]"}
shift
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")}"

resume=0
[ ! -e "exp/$tag/checkpoints/last.ckpt" ] || resume=1
./run.sh --stage 4 --stop_stage 4 --tag "$tag" --resume "$resume" "$@" &
child=$!
trap 'kill -USR1 "$child"' USR1
trap 'kill -TERM "$child"' TERM
status=0
wait "$child" || status=$?
while kill -0 "$child" 2>/dev/null; do
  status=0
  wait "$child" || status=$?
done
# Ended by a signal and not by a fault: once more, from the last whole epoch.
if [ "$status" = 138 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
