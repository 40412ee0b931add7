#!/bin/bash
# Trains on the GPUs of several nodes: `sbatch slurm.sh`. See docs/clusters.md.

# Change these values, and the three below.
#SBATCH --partition=gpu
#SBATCH --time=04:00:00
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8

#SBATCH --job-name=kd_jax
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --requeue

environment=$HOME/kd_jax/venv
config=horkd/cifar100
workdir=$HOME/runs/horkd

source "$environment/bin/activate" || exit
srun --kill-on-bad-exit=1 kd-jax train --config="$config" --workdir="$workdir" --multihost
code=$?

# The run has saved its state after SIGTERM: it resumes when the job starts again.
if ((code == 143)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
