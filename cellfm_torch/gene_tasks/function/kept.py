"""Predictions of a cross-validation that are done, so that an interrupted job goes on.

Shapes: n genes of a question, T terms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.files import written_beside
from cellfm_torch.gene_tasks.function.features import Features
from cellfm_torch.gene_tasks.function.labels import Question

Floats = NDArray[np.float64]


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


def kept(folder: Path | None, number: int, shape: Any, compute: Callable[[], Floats]) -> Floats:
    """Return the predictions (n, T) that were kept under a number, or compute and keep them.

    Parameters
    ----------
    folder
        Where; None keeps nothing.
    number
        Of the cross-validation in the job.
    shape
        What is expected; a file that is damaged or of another shape is computed again.
    compute
        What gives them.
    """
    file = None if folder is None else folder / f"{number:06}.npy"
    if file is not None and file.is_file():
        try:
            there: Floats = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            there = np.zeros(0)
        if there.shape == shape:
            return there
    found = compute()
    if file is not None:
        with written_beside(file) as part, part.open("wb") as opened:
            np.save(opened, found)
    return found
