"""An interrupted cross-validation goes on, to the same predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellfm_torch import UserError, gene_function
from cellfm_torch.gene_tasks.function import run

GENES = [f"GENE{i}" for i in range(60)]


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    embeddings = AnnData(
        obs=pd.DataFrame(index=GENES),
        obsm={"X_static": rng.normal(size=(60, 8)).astype(np.float32)},
        var=pd.DataFrame(index=[]),
    )
    labels = tmp_path / "labels.csv"
    labels.write_text("gene,label\n" + "".join(f"{gene},{'ab'[i % 2]}\n" for i, gene in enumerate(GENES)))
    return {
        "labels": labels,
        "embeddings": embeddings,
        "cells": None,
        "probes": ["logistic", "knn"],
        "baselines": ["majority", "random"],
        "seeds": [0, 1],
        "keep": tmp_path / "keep",
        "verbose": False,
    }


def test_goes_on_with_the_same_predictions(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gene_function(**asked | {"keep": None})
    called: list[tuple[str, str]] = []
    cross_validate = run._cross_validate

    def counted(question: Any, features: Any, name: str, probe: str, *args: Any, **options: Any) -> Any:
        called.append((name, probe))
        if len(called) == 4:
            raise KeyboardInterrupt
        return cross_validate(question, features, name, probe, *args, **options)

    monkeypatch.setattr(run, "_cross_validate", counted)
    with pytest.raises(KeyboardInterrupt):
        gene_function(**asked)
    (asked["keep"] / "000001.npz").write_bytes(b"damaged")
    resumed = gene_function(**asked)
    # 2 seeds of 5 ways each; three were done, of which one is damaged.
    assert len(called) == 4 + 10 - 2
    pd.testing.assert_frame_equal(resumed.scores, whole.scores)
    assert np.array_equal(np.isnan(resumed.scores["auroc"]), np.isnan(whole.scores["auroc"]))


def test_another_job_is_not_gone_on_with(asked: dict[str, Any]) -> None:
    gene_function(**asked)
    other = asked["embeddings"].copy()
    other.obsm["X_static"] = other.obsm["X_static"] + 1
    with pytest.raises(UserError, match="an interrupted job has done that had another labels_and_embeddings"):
        gene_function(**asked | {"embeddings": other})
    gene_function(**asked | {"embeddings": other, "overwrite": True})
