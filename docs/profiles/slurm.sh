#!/bin/bash
# Two nodes of 8 GPUs under Slurm: sbatch docs/profiles/slurm.sh RECIPE
#SBATCH --job-name=gptft
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@120
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
    --rdzv-id "$SLURM_JOB_ID" -m gptft finetune "$@"
