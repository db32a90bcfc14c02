"""Tiny screens of real cells of which some genes were moved."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

FEW = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
"""Options of a training that is over in a second."""


def screen_of(real: anndata.AnnData, words: list[str], sizes: list[int], *, seed: int = 0) -> anndata.AnnData:
    """Return cells of conditions; each word but control doubles ten genes of its own and silences those it names."""
    rng = np.random.default_rng(seed)
    names = list(real.var_names)
    counts = real.X.toarray()[np.arange(sum(sizes)) % real.n_obs]
    obs = pd.DataFrame({"condition": np.repeat(words, sizes)}, index=[f"cell{i}" for i in range(sum(sizes))])
    for word in words:
        genes = [gene for gene in word.split("+") if gene in names]
        rows = np.flatnonzero(obs["condition"] == word)
        if genes:
            counts[np.ix_(rows, rng.choice(len(names), 10, replace=False))] *= 3
            counts[np.ix_(rows, [names.index(gene) for gene in genes])] = 0
    obs["condition"] = pd.Categorical(obs["condition"])
    return anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=real.var[[]].copy())
