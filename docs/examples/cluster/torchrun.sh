#!/bin/bash
# Train with torchrun, on each machine: NODES=2 HEAD=node1 CELLS='/data/atlas/*.h5ad' RUN=/shared/runs/atlas bash torchrun.sh
# On one machine NODES and HEAD may be left out, and so may GPUs: PROCESSES=2 bash torchrun.sh trainer.accelerator=cpu
set -euo pipefail

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
torchrun --nnodes="${NODES:-1}" --nproc-per-node="${PROCESSES:-gpu}" \
    --rdzv-backend=c10d --rdzv-endpoint="${HEAD:-localhost}:${PORT:-29400}" --rdzv-id="${ID:-cellfm}" \
    -m cellfm_torch.cli train --experiment pretrain_80m --data "${CELLS:?name the cells}" \
    --run-dir "${RUN:?name the run folder}" --strategy ddp --resume "$@"
