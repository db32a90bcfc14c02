"""What an embedded AnnData says of itself: which cells were fit for it, and what made the numbers.

Shapes: n cells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.data.fingerprint import checksum
from cellfm_torch.data.report import ReadReport
from cellfm_torch.model.loading import Backbone

FEW_GENES = 10
"""Cells with fewer genes of the model have a warning."""

GENES_COLUMN, WARNING_COLUMN = "cellfm_genes", "cellfm_warning"
"""Columns of ``obs``: expressed genes of the model, and what is to be said against a cell's embedding."""

NONE, WITHOUT, FEW = "", "no counts in the model's genes", f"fewer than {FEW_GENES} genes"


def cell_columns(lengths: NDArray[np.integer]) -> dict[str, NDArray[Any] | pd.Categorical]:
    """Return the columns of ``obs`` for cells with so many expressed genes of the model (n,)."""
    codes = np.where(lengths == 0, 1, np.where(lengths < FEW_GENES, 2, 0))
    return {
        GENES_COLUMN: lengths.astype(np.int32),
        WARNING_COLUMN: pd.Categorical.from_codes(codes, categories=[NONE, WITHOUT, FEW]),
    }


def weights_of(folder: Path | None) -> str:
    """Return the SHA-256 of a model folder's weights; nothing for a network that came from no folder."""
    return "" if folder is None else checksum(folder / "model.safetensors")


def record(
    *, model: Backbone, folder: Path | None, weights: str, reports: Sequence[ReadReport], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what goes into ``uns``; text, numbers and dicts of them, as h5ad keeps nothing else.

    Parameters
    ----------
    model, folder, weights
        The network, its folder where it has one, and the SHA-256 of its weights.
    reports
        What reading said of the genes.
    options
        What was asked for.
    """
    from cellfm_torch import __version__

    conversion = {} if folder is None else _conversion(folder)
    return {
        "model": {
            "kind": type(model).__name__,
            "folder": "" if folder is None else str(folder),
            "weights_sha256": weights,
            "genes": len(model.input_spec.genes or ()),
            "converted_from": conversion,
        },
        "version": __version__,
        "options": json.dumps(dict(options), default=str),
        "genes": {
            report.file: {
                "read": report.genes_read,
                "matched": report.genes_matched,
                "matched_by": dict(report.matched_by),
                "share_of_counts": report.counts_kept / report.counts_read if report.counts_read else float("nan"),
                "table": report.gene_table,
            }
            for report in reports
        },
    }


def _conversion(folder: Path) -> dict[str, str]:
    """Return what the converter wrote of the source, where the folder was converted."""
    file = folder / "conversion.json"
    if not file.is_file():
        return {}
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    kept = ("source", "sha256", "tool", "licence")
    return {key: str(said[key]) for key in kept if isinstance(said, dict) and said.get(key)}
