"""HDF5 files on a disk that takes no more: an error, and nothing else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from cellfm_torch.h5_files import h5_beside, write_anndata

ROOT = Path(__file__).parents[1]
WRITE = """
import resource, sys
from pathlib import Path
import anndata
from cellfm_torch.h5_files import write_anndata
adata, out = anndata.read_h5ad(sys.argv[1]), Path(sys.argv[2])
for most in (1 << 12, 1 << 14, 1 << 16):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        write_anndata(adata, out)
    except OSError as problem:
        print(problem.errno)
"""


@pytest.fixture
def adata() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    made = anndata.AnnData(sp.csr_matrix(rng.poisson(0.5, (300, 200)).astype(np.float32)))
    made.obs["batch"] = rng.choice(["one", "two"], 300)
    made.obsm["X"] = rng.random((300, 8), dtype=np.float32)
    made.uns["note"] = {"a": 1, "b": "two"}
    made.raw = made.copy()
    return made


def test_full_disk(adata: anndata.AnnData, tmp_path: Path) -> None:
    """h5py by itself prints tracebacks, and the process ends with a segmentation fault."""
    adata.write_h5ad(tmp_path / "in.h5ad")
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(errno.EFBIG)] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]


def test_as_anndata_writes_it(adata: anndata.AnnData, tmp_path: Path) -> None:
    write_anndata(adata, tmp_path / "ours.h5ad", compression="gzip")
    adata.write_h5ad(tmp_path / "theirs.h5ad", compression="gzip")
    ours, theirs = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("ours", "theirs"))
    assert (ours.X != theirs.X).nnz == 0 and (ours.raw.X != theirs.raw.X).nnz == 0
    assert ours.obs.equals(theirs.obs) and ours.var.equals(theirs.var) and ours.uns == theirs.uns
    np.testing.assert_array_equal(ours.obsm["X"], theirs.obsm["X"])
    with h5_beside(tmp_path / "more.h5ad", copy_of=tmp_path / "ours.h5ad") as file:
        file["obsm"]["Y"] = np.arange(300.0)[:, None]
        assert file["obsm/X"][5, 3] == adata.obsm["X"][5, 3]
    more = anndata.read_h5ad(tmp_path / "more.h5ad")
    assert more.obsm["Y"][7, 0] == 7 and more.obs.equals(ours.obs)
