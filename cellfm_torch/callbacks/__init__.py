"""Lightning callbacks that know nothing of our tasks: for any LightningModule, of either Lightning package."""

from __future__ import annotations

from cellfm_torch.callbacks.embedding_writer import EmbeddingWriter
from cellfm_torch.callbacks.freezer import BackboneFreezer
from cellfm_torch.callbacks.guard import StepGuard
from cellfm_torch.callbacks.memory import ActivationCheckpointing, KeepFreedMemory, TokenBudgetFinder
from cellfm_torch.callbacks.pictures import LossCurve, UMAPPicture
from cellfm_torch.callbacks.precision import MatmulPrecision
from cellfm_torch.callbacks.progress import RunProgress
from cellfm_torch.callbacks.throughput import Throughput

__all__ = [
    "ActivationCheckpointing",
    "BackboneFreezer",
    "EmbeddingWriter",
    "KeepFreedMemory",
    "LossCurve",
    "MatmulPrecision",
    "RunProgress",
    "StepGuard",
    "Throughput",
    "TokenBudgetFinder",
    "UMAPPicture",
]
