"""What a cross-validation is of, so that an interrupted job goes on with its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from cellfm_torch.gene_tasks.function.features import Features
from cellfm_torch.gene_tasks.function.labels import Question


def digest(questions: Sequence[Question], features: Features) -> str:
    """Return a SHA-256 of what is asked and of what it is learned from."""
    found = hashlib.sha256()
    for question in questions:
        found.update(repr((question.name, question.terms)).encode())
        for array in (question.rows, question.targets):
            found.update(np.ascontiguousarray(array).tobytes())
    for name, feature in features.by_name.items():
        found.update(name.encode())
        found.update(np.ascontiguousarray(feature(0)).tobytes())
    return found.hexdigest()
