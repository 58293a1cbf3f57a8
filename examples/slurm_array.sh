#!/usr/bin/env bash
# Trigger examples of a whole corpus as a SLURM array: every job takes a part, the last one merges.
#
#   N_JOBS=32 examples/slurm_array.sh gpt2 wiki.train.tokens runs/gpt2 --k 50 --dtype bfloat16
#
# A job that dies costs what it did in its last 30 seconds; the same line takes up the rest, and
# opens the parts that are done. The result has the bits of one process with the same --threads.
set -euo pipefail

if (($# < 3)); then
    echo "usage: [N_JOBS=16] [CPUS=8] $0 MODEL CORPUS RUN [OPTION OF pyengine triggers ...]" >&2
    exit 2
fi
n_jobs=${N_JOBS:-16}
cpus=${CPUS:-8}
model=$1 corpus=$2 run=$3
shift 3
mkdir -p "$run-parts"
command=$(printf '%q ' pyengine triggers "$model" "$corpus" --threads "$cpus" "$@")
parts=$(printf '%q' "$run-parts")

# Everything in single quotes is filled in by the job itself.
jobs=$(sbatch --parsable --requeue --array="0-$((n_jobs - 1))" \
    --cpus-per-task="$cpus" --gpus=1 --time=02:00:00 --output="$run-parts/log-%a.txt" \
    --wrap="$command --out $parts/"'$SLURM_ARRAY_TASK_ID --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT')
sbatch --dependency="afterok:${jobs%%;*}" --kill-on-invalid-dep=yes \
    --cpus-per-task="$cpus" --time=01:00:00 --output="$run-parts/log-merge.txt" \
    --wrap="pyengine merge $parts/[0-9]* --out $(printf '%q' "$run")"
