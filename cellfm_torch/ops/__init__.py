"""Operators on ragged batches: pure functions of tensors, no modules."""

from cellfm_torch.ops.backend import set_backend, use_backend
from cellfm_torch.ops.gate import norm_gate
from cellfm_torch.ops.layout import Layout
from cellfm_torch.ops.retention import RetentionState, retention, retention_map, retention_state
from cellfm_torch.ops.split import split_retention

__all__ = [
    "Layout",
    "RetentionState",
    "norm_gate",
    "retention",
    "retention_map",
    "retention_state",
    "set_backend",
    "split_retention",
    "use_backend",
]
