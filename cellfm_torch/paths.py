"""Where the files that travel with the package are: in a checkout, an editable install or a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
"""Folder of the package itself."""

CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
"""Hydra's configuration: inside the package in a wheel, beside it in a checkout."""

_DOCS = PACKAGE.parent / "docs" / "troubleshooting"
TROUBLESHOOTING = _DOCS if _DOCS.is_dir() else PACKAGE / "troubleshooting"
"""Pages on what may go wrong, PAGE.md: in docs/ in a checkout, inside the package in a wheel."""

VOCAB = PACKAGE / "data" / "vocab"
"""Gene lists in checkpoint order, one symbol a line."""

PBMC3K = PACKAGE / "data" / "bundled" / "pbmc3k.h5ad"
"""2,700 peripheral blood cells (10x Genomics, CC BY 4.0), raw counts, cell types by marker rule."""

CROPSEQ = PACKAGE / "data" / "bundled" / "cropseq_28genes.h5ad"
"""4,343 cells with one of 28 genes perturbed (scMAGeCK, BSD 2-clause), raw counts of these genes alone."""
