"""Operators on ragged batches: pure functions of tensors, no modules."""

from cellfm_torch.ops.layout import Layout
from cellfm_torch.ops.retention import RetentionState, retention, retention_map, retention_state

__all__ = ["Layout", "RetentionState", "retention", "retention_map", "retention_state"]
