#!/bin/bash
# Four machines with eight GPUs each: one rank per GPU. After a rank is lost, torchrun starts all
# ranks again, which continue with the shards that are left.
#SBATCH --job-name=reinforce
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --output=reinforce-%j.log
set -euo pipefail

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Since 22.05, srun does not take over the number of CPUs.
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" --max-restarts 100 \
    --rdzv-backend c10d --rdzv-endpoint "$head_node:29500" --rdzv-id "$SLURM_JOB_ID" \
    -m dr_plugins reinforce \
    --images "${IMAGES:-/datasets/imagenet/train}" \
    --teacher "${TEACHER:-timm:resnetv2_152x2_bit}" \
    --out "${OUT:-/shared/imagenet-plus}" \
    --grace 20 "$@"
