"""What torchrun or SLURM say of the processes of this job, before any of them knows the others."""

from __future__ import annotations

import os
import re


def here(otherwise: int | str = "auto") -> int | str:
    """Return how many processes the launcher starts on this machine; `otherwise` where there is no launcher."""
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun
        return int(os.environ["LOCAL_WORLD_SIZE"])
    tasks = re.match(r"\d+", os.environ.get("SLURM_NTASKS_PER_NODE", "")) if _in_srun() else None
    return int(tasks[0]) if tasks else otherwise


def nodes() -> int:
    """Return on how many machines the launcher starts processes; 1 where there is no launcher."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"])
    return int(os.environ.get("SLURM_NNODES", 1)) if _in_srun() else 1


def rank() -> int:
    """Return the number of this process; 0 is the one that speaks and writes."""
    from lightning.pytorch.utilities import rank_zero_only

    return getattr(rank_zero_only, "rank", 0)


def _in_srun() -> bool:
    """Whether srun has started this process: a script of sbatch has some of its variables too."""
    return "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
