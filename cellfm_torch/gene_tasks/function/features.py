"""What is said of genes before any label: the embeddings that are asked about, and baselines beside them.

Shapes: G genes, E width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray

from cellfm_torch.errors import UserError, nearest
from cellfm_torch.gene_tasks.embeddings.static import STATIC
from cellfm_torch.gene_tasks.embeddings.table import read_genes, stored_gene_embedding
from cellfm_torch.gene_tasks.network import on_device
from cellfm_torch.gene_tasks.profiles import GeneProfiles
from cellfm_torch.model.loading import Backbone

Floats = NDArray[np.float64]
Feature = Callable[[int], Floats]
"""Features of all genes by a seed, (G, E)."""

MAJORITY, EXPRESSION, RANDOM, UNTRAINED, PCA = "majority", "expression", "random", "untrained", "pca"
BASELINES = {
    MAJORITY: "share of each class among the training genes",
    EXPRESSION: "mean log1p(CP10K) of the gene and share of cells that express it",
    RANDOM: "normal numbers, as many as the embedding has",
    UNTRAINED: "static embedding of the same network with random weights",
    PCA: "loadings of the gene in 50 principal components of log-normalised cells",
}


@dataclasses.dataclass(frozen=True)
class Features:
    """Features by name, all over the same genes.

    Attributes
    ----------
    genes : tuple of str, G
    known : (G,) bool
        Genes that have all of the embeddings asked about.
    asked : tuple of str
        Names of these embeddings.
    by_name : dict of str to callable
        Embeddings, then baselines; :data:`MAJORITY` has none and is not here.
    left_out : tuple of str
        Why baselines are missing, a line each.
    """

    genes: tuple[str, ...]
    known: NDArray[np.bool_]
    asked: tuple[str, ...]
    by_name: dict[str, Feature]
    left_out: tuple[str, ...] = ()


def read_features(
    model: Backbone | str | Path | None,
    embeddings: AnnData | str | Path | None,
    keys: Sequence[str],
    cells: AnnData | str | Path | None,
    *,
    baselines: Sequence[str],
    seed: int = 0,
    accelerator: str = "cpu",
    **reading: Any,
) -> Features:
    """Read the embeddings and prepare the baselines.

    Parameters
    ----------
    model
        A model folder or a network: its static embedding, and what the untrained one is like.
    embeddings
        Genes as :func:`~cellfm_torch.gene_tasks.embeddings.gene_embeddings` leaves them; None: the model's static ones.
    keys
        Which of their ``obsm``.
    cells
        For the baselines of expression; None leaves these out.
    baselines
        Names of :data:`BASELINES`.

    Raises
    ------
    UserError
        If there is neither model nor embeddings, or one cannot be used.
    """
    if model is None and embeddings is None:
        raise UserError("there is nothing to ask about: give a model folder or gene embeddings (embeddings=FILE)")
    for name in baselines:
        if name not in BASELINES:
            raise UserError(
                f"baselines: there is no '{name}'{nearest(name, BASELINES)} There are {', '.join(BASELINES)}"
            )
    genes: tuple[str, ...] | None = None
    by_name: dict[str, Feature] = {}
    if embeddings is not None:
        stored, source = _genes_of(embeddings)
        genes = tuple(map(str, stored.obs_names))
        for key in keys:
            short = key.removeprefix("X_")
            by_name[key if short in BASELINES else short] = _constant(stored_gene_embedding(stored, key, source))
    untrained: Feature | None = None
    if model is not None:
        with on_device(model, accelerator) as (network, _):
            known = network.input_spec.genes
            if known is None:
                raise UserError("the model does not know which genes its rows are: give it a genes.txt in its folder")
            if genes is None:
                genes = tuple(known)
                rows = network.static_genes.detach().double().cpu().numpy()
                by_name[STATIC.removeprefix("X_")] = _constant(rows)
            untrained = _untrained(type(network), network.config, known, genes)
    assert genes is not None
    asked = tuple(by_name)
    first = next(iter(by_name.values()))(0)
    finite = np.all([np.isfinite(by_name[name](0)).all(1) for name in asked], axis=0)
    if not finite.any():
        raise UserError(f"no gene has an embedding in {', '.join(asked)}: all are NaN")
    left_out = []
    if {EXPRESSION, PCA} & {*baselines}:
        if cells is None:
            left_out.append("left out: baselines of expression, which take cells=FILE")
        else:
            profiles = GeneProfiles.read(cells, genes, seed=seed, **reading)
            if EXPRESSION in baselines:
                by_name[EXPRESSION] = _constant(profiles.expression())
            if PCA in baselines:
                by_name[PCA] = _constant(profiles.loadings(seed=seed))
    if RANDOM in baselines:
        shape = (len(genes), first.shape[1])
        by_name[RANDOM] = lambda seed: np.random.default_rng([31, seed]).normal(size=shape)
    if UNTRAINED in baselines:
        if untrained is None:
            left_out.append("left out: the untrained network, which takes its folder (--model FOLDER)")
        else:
            by_name[UNTRAINED] = untrained
    return Features(genes, finite, asked, by_name, tuple(left_out))


def _genes_of(given: AnnData | str | Path) -> tuple[AnnData, str]:
    if isinstance(given, AnnData):
        return given, "the AnnData of genes"
    path = Path(given).expanduser()
    if not path.is_file():
        raise UserError(f"embeddings={path}: there is no such file: cellfm genes embed makes one")
    return read_genes(path), str(path)


def _constant(values: NDArray[Any]) -> Feature:
    kept = np.asarray(values, dtype=np.float64)
    return lambda _: kept


def _untrained(kind: Any, config: Any, known: Sequence[str], genes: Sequence[str]) -> Feature:
    """Return the static embedding of new networks; of their layers, which it does not depend on, there is one."""
    layers = [name for name in ("num_layers", "encoder_layers", "decoder_layers") if hasattr(config, name)]
    small = dataclasses.replace(config, **dict.fromkeys(layers, 1))
    place = pd.Index(known).get_indexer(pd.Index(genes))

    def feature(seed: int) -> Floats:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            rows = kind(small, genes=known).static_genes.detach().double().numpy()
        return np.where(place[:, None] >= 0, rows[place], 0.0)

    return feature
