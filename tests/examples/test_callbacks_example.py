"""The example of docs/examples runs as its first lines say, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np

from cellfm_torch.paths import PBMC3K

ROOT = Path(__file__).resolve().parents[2]


def test_foreign_module_with_our_callbacks(tmp_path: Path) -> None:
    adata = anndata.read_h5ad(PBMC3K)[::9].copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    command = [sys.executable, str(ROOT / "docs" / "examples" / "callbacks.py"), str(tmp_path / "cells.h5ad")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(tmp_path / "out")], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "look:" in done.stdout
    written = anndata.read_h5ad(tmp_path / "out" / "cells.h5ad")
    assert written.obsm["X_autoencoder"].shape == (adata.n_obs, 8)
    assert np.isfinite(written.obsm["X_autoencoder"]).all() and list(written.obs_names) == list(adata.obs_names)
    assert (tmp_path / "out" / "umap.png").stat().st_size > 10_000
