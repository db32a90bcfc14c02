"""Operators on ragged batches: pure functions of tensors, no modules."""

from cellfm_torch.ops.retention import RetentionState, retention, retention_state

__all__ = ["RetentionState", "retention", "retention_state"]
