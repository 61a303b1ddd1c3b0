#!/usr/bin/env bash
# A cohort as a SLURM job array: each job does its own part of the cases, and a last job writes the tables.
#
#   sbatch --array=1-20 slurm_array.sh MANIFEST OUT BUNDLE
#
# then, with the number that sbatch has printed:
#
#   sbatch --array=1-1 --dependency=afterany:NUMBER slurm_array.sh MANIFEST OUT BUNDLE
#
# OUT is on a file system that all nodes see, or a URL. Submitted again, the same array does what is left.
#SBATCH --job-name=cohort
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --output=cohort-%A-%a.log
# For a GPU: --gres=gpu:1
set -euo pipefail
. "${CONVFORMER_ENVIRONMENT:-$HOME/env}/bin/activate"

# With one job in the array the part is 1/1: left out, so that the tables are written.
shard=()
if [ "$SLURM_ARRAY_TASK_COUNT" -gt 1 ]; then
  shard=(--shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT")
fi
# exec: SLURM's signal, five minutes before the end, then reaches the command, which ends in good order.
exec convformer-monai cohort "$1" -o "$2" -b "$3" ${shard[@]+"${shard[@]}"}
