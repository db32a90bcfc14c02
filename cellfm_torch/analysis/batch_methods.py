"""What an integration is compared with: PCA, Harmony and scVI, the latter two where they are installed.

Shapes: B cells, G genes, P components.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import log_normalised, pca
from cellfm_torch.analysis.integration import Scorer, scores
from cellfm_torch.errors import UserError, nearest

Strings = NDArray[Any]


@dataclass(frozen=True)
class Cells:
    """What the methods are given: `counts` (B, G), `components` (B, P) of log1p(CP10K), `batches` (B,), a seed."""

    counts: sp.csr_matrix
    components: NDArray[np.float32]
    batches: Strings
    seed: int


def _pca(cells: Cells) -> NDArray[np.float32]:
    return cells.components


def _harmony(cells: Cells) -> NDArray[np.float32]:
    import harmonypy

    table = pd.DataFrame({"batch": cells.batches})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = harmonypy.run_harmony(
            cells.components.astype(np.float64), table, "batch", random_state=cells.seed, verbose=False
        )
    corrected = np.asarray(found.Z_corr, dtype=np.float32)
    # Releases before 2 give components by cells.
    return corrected if corrected.shape == cells.components.shape else corrected.T


def _scvi(cells: Cells) -> NDArray[np.float32]:
    import anndata
    import scvi

    obs = pd.DataFrame({"batch": pd.Categorical(cells.batches)}, index=[str(i) for i in range(len(cells.batches))])
    adata = anndata.AnnData(cells.counts, obs=obs)
    scvi.settings.seed = cells.seed
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata)
    model.train(enable_progress_bar=False)
    return np.asarray(model.get_latent_representation(), dtype=np.float32)


METHODS: dict[str, tuple[str, str | None, Callable[[Cells], NDArray[np.float32]]]] = {
    "pca": ("PCA", None, _pca),
    "harmony": ("Harmony", "harmonypy", _harmony),
    "scvi": ("scVI", "scvi", _scvi),
}
"""Option: name in tables, package that is imported, function."""

INSTALLED_AS = {"scvi": "scvi-tools"}


def available(option: str) -> bool:
    """Say whether a method's package is installed."""
    package = METHODS[option][1]
    return package is None or find_spec(package) is not None


def check_baselines(options: Iterable[str]) -> None:
    """Refuse a method that there is not.

    Raises
    ------
    UserError
        Naming the nearest.
    """
    for option in options:
        if option not in METHODS:
            known = ", ".join(METHODS)
            raise UserError(f"baselines: there is no '{option}'{nearest(option, METHODS)} There are: {known}")


def missing(options: Iterable[str]) -> list[tuple[str, str]]:
    """Return (name in tables, what pip installs) of the methods that cannot run here."""
    absent = [METHODS[option] for option in options if not available(option)]
    return [(name, INSTALLED_AS.get(str(package), str(package))) for name, package, _ in absent]


def score_beside(
    embeddings: Mapping[str, Any],
    counts: Any,
    labels: Strings,
    batches: Strings,
    *,
    baselines: Iterable[str] = tuple(METHODS),
    scorer: Scorer = "auto",
    seed: int = 0,
    say: Callable[[str], object] = lambda text: None,
) -> pd.DataFrame:
    """Score embeddings, and the baselines that are installed beside them.

    Parameters
    ----------
    embeddings
        Name in the table: (B, C).
    counts : (B, G)
        For the baselines: PCA is of log1p(CP10K).
    labels, batches : (B,)
    baselines
        Keys of :data:`METHODS`.
    scorer, seed
        As :func:`cellfm_torch.analysis.integration.scores`.
    say
        Is told what is going on.

    Returns
    -------
    DataFrame, one row per embedding, the columns of :data:`cellfm_torch.analysis.integration.NAMES`.

    Raises
    ------
    UserError
        If there is no such baseline, or as `scores`.
    """
    check_baselines(baselines := list(baselines))
    components = pca(log_normalised(counts), seed=seed)
    cells = Cells(sp.csr_matrix(counts), components, batches, seed)
    every = dict(embeddings)
    for option in filter(available, baselines):
        name, _, method = METHODS[option]
        say(f"{name} ...")
        every[name] = method(cells)
    rows = {}
    for name, x in every.items():
        say(f"scoring {name} ...")
        rows[name] = scores(x, labels, batches, before=components, scorer=scorer, seed=seed)
    return pd.DataFrame.from_dict(rows, orient="index")
