"""An AnnData as the page needs it: columns found, cells laid out in the plane; and the page written.

Shapes: B cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch import __version__
from cellfm_torch.analysis.columns import ANNDATA, EMBEDDING, column, counts_of, finite_rows, stored_embedding
from cellfm_torch.analysis.expression import is_counts, log_normalised
from cellfm_torch.errors import UserError, examples
from cellfm_torch.files import write_text
from cellfm_torch.plots.cells import umap_coordinates
from cellfm_torch.report.annotated import UNKNOWN, Annotated, flat
from cellfm_torch.report.cells import MOST_CELLS, render

UMAP = "X_umap"
"""Key of obsm."""


def write_report(
    adata: Any,
    output: str | Path,
    *,
    prediction: str = "cellfm_label",
    label: str | None = None,
    batch: str | None = None,
    labels_map: Mapping[str, str] | None = None,
    layer: str | None = None,
    most_cells: int = MOST_CELLS,
    seed: int = 0,
    source: str = ANNDATA,
) -> Path:
    """Write one HTML page about annotated cells that needs no other file and no network.

    Adds ``obsm["X_umap"]`` where it is not there.

    Parameters
    ----------
    adata
        As ``cellfm annotate`` leaves it: ``obsm["X_cellfm"]`` and, in obs, `prediction` and where they are there the
        columns with the same prefix ``probability``, ``runner_up`` and ``unknown``.
    output
        The page, ``.html``.
    prediction
        Column of obs with the likeliest type of each cell.
    label, batch
        Columns of obs with given types, to compare with, and batches.
    labels_map
        Names of given types as predictions have them; an empty name stands for no given type.
    layer
        Matrix of counts, for genes: None for X, ``"raw"``, or the name of a layer.
    most_cells
        Cells in the picture; of more a sample that keeps rare types. Tables are of all.
    seed
        Of UMAP, the clusters of unknown cells and the sample.
    source
        Name of the cells on the page and in messages.

    Raises
    ------
    UserError
        If a column, the embedding or the layer is missing, or an option is out of its range.
    """
    columns = {"prediction": prediction, "label": label, "batch": batch}
    output = checked(adata, output, labels_map=labels_map, most_cells=most_cells, source=source, **columns)
    counts = counts_of(adata, layer, source)
    own = lay_out(adata, seed=seed, source=source)
    picture = f"obsm['{UMAP}'] as the file has it"
    if own:
        picture = f"UMAP of obsm['{EMBEDDING}'], 15 neighbours, minimal distance 0.5, seed {seed}"
    facts = [
        ("Cells", f"{source}, {adata.n_obs:,} cells by {adata.n_vars:,} genes"),
        ("Prediction", f"obs['{prediction}']"),
        *([] if label is None else [("Given types", f"obs['{label}']" + (", renamed" if labels_map else ""))]),
        ("Picture", picture),
        ("Matrix", f"{layer or 'X'}: " + ("counts" if is_counts(counts) else "no counts, taken as log-normalised")),
        ("Page by", f"cellfm_torch {__version__}"),
    ]
    for key in sorted(name for name in adata.uns if str(name).startswith("cellfm")):
        facts += [(f"{key}: {name}", words) for name, words in flat(adata.uns[key])]
    genes = (adata.raw if layer == "raw" else adata).var_names
    truth = None if label is None else given_types(adata, label, labels_map, source)
    cells = annotated(adata, log_normalised(counts), list(genes), prediction, truth=truth, batch=batch, source=source)
    write_text(output, render(cells, title=f"Cells of {source}", facts=facts, most=most_cells, seed=seed))
    return output


def checked(
    adata: Any,
    output: str | Path,
    *,
    most_cells: int,
    source: str,
    labels_map: Mapping[str, str] | None = None,
    **columns: str | None,
) -> Path:
    """Return the page's path, or say what is wrong, before any work.

    Raises
    ------
    UserError
        As :func:`write_report`.
    """
    output = Path(output).expanduser()
    if output.suffix not in (".html", ".htm"):
        raise UserError(f"output={output}: the name must end in .html")
    if most_cells < 100:
        raise UserError(f"most_cells={most_cells}: must be at least 100")
    finite_rows(stored_embedding(adata, source), source)
    for option, name in columns.items():
        if name is not None:
            column(adata, name, option, source, gaps=True)
    if (label := columns.get("label")) is not None:
        given = set(given_types(adata, label, labels_map, source)) - {None}
        predicted = set(column(adata, str(columns["prediction"]), "prediction", source, gaps=True)) - {None}
        if not given & predicted:
            raise UserError(
                f"label={label}: none of its types ({examples(sorted(given))}) is among the predicted ones "
                f"({examples(sorted(predicted))}): give labels_map=FILE.csv with columns from,to"
            )
    return output


def given_types(
    adata: Any, label: str, labels_map: Mapping[str, str] | None = None, source: str = ANNDATA
) -> NDArray[np.object_]:
    """Return the given types under the names of the predictions, (B,); None where there is none."""
    words = column(adata, label, "label", source, gaps=True)
    names = labels_map or {}
    return np.array([None if word is None else names.get(word, word) or None for word in words], dtype=object)


def lay_out(adata: Any, *, seed: int = 0, source: str = ANNDATA) -> bool:
    """Add ``obsm["X_umap"]``, (B, 2), NaN for cells without embedding, where it is missing; return whether it was."""
    if UMAP in adata.obsm and np.shape(adata.obsm[UMAP])[1:] == (2,):
        return False
    embedding = stored_embedding(adata, source)
    finite = finite_rows(embedding, source)
    coordinates = np.full((len(embedding), 2), np.nan, dtype=np.float32)
    coordinates[finite] = umap_coordinates(embedding[finite], seed=seed)
    adata.obsm[UMAP] = coordinates
    return True


def annotated(
    adata: Any,
    expression: Any,
    genes: list[str],
    prediction: str,
    *,
    truth: NDArray[np.object_] | None,
    batch: str | None,
    source: str = ANNDATA,
) -> Annotated:
    """Gather what the page shows; cells without a prediction are unknown."""
    prefix = prediction.removesuffix("label")
    words = column(adata, prediction, "prediction", source, gaps=True)
    rejected: NDArray[np.bool_] = np.array([word is None or word.lower() == UNKNOWN for word in words])
    words[[word is None for word in words]] = UNKNOWN
    if prefix + "unknown" in adata.obs:
        rejected |= adata.obs[prefix + "unknown"].astype(str).str.lower().isin(["true", "1"]).to_numpy()
    sure = adata.obs.get(prefix + "probability")

    def optional(name: str | None) -> NDArray[np.object_] | None:
        return None if name is None or name not in adata.obs else column(adata, name, "", source, gaps=True)

    return Annotated(
        names=np.asarray(adata.obs_names, dtype=object),
        embedding=stored_embedding(adata, source),
        coordinates=np.asarray(adata.obsm[UMAP], dtype=np.float32),
        label=words,
        unknown=rejected,
        probability=None if sure is None else sure.to_numpy(dtype=np.float64),
        runner_up=optional(prefix + "runner_up"),
        truth=truth,
        batch=optional(batch),
        expression=expression,
        genes=np.asarray(genes, dtype=object),
    )
