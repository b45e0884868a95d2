#!/bin/bash
# A job array: each task makes what no other task makes, so any number of them may run at a time,
# and a task that is killed and requeued continues. Submit again to make what is left.
#SBATCH --job-name=reinforce
#SBATCH --array=1-16
#SBATCH --gpus=1
#SBATCH --cpus-per-task=12
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --output=reinforce-%A-%a.log
set -euo pipefail

# Since 22.05, srun does not take over the number of CPUs.
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" dr-plugins reinforce \
    --images "${IMAGES:-/datasets/imagenet/train}" \
    --teacher "${TEACHER:-timm:resnetv2_152x2_bit}" \
    --out "${OUT:-/shared/imagenet-plus}" \
    --workers "$SLURM_CPUS_PER_TASK" \
    --grace 240 --quiet "$@"
