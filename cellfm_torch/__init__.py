"""CellFM, a foundation model of human single-cell RNA, in PyTorch and Lightning: the public names."""

from cellfm_torch.batch import CellBatch, InputSpec
from cellfm_torch.model import CellFM, CellFMConfig, Encoding, Prediction
from cellfm_torch.ops import RetentionState, retention, retention_state
from cellfm_torch.tasks.losses import pretraining_loss

__version__ = "0.1.0"

__all__ = [
    "CellBatch",
    "CellFM",
    "CellFMConfig",
    "Encoding",
    "InputSpec",
    "Prediction",
    "RetentionState",
    "pretraining_loss",
    "retention",
    "retention_state",
]
