"""cellfm prepare and cellfm store, as typed."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata
import pytest

from cellfm_torch import cli
from cellfm_torch.paths import PBMC3K


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files of real cells, one with a comma and a space in its name."""
    folder = tmp_path_factory.mktemp("files")
    adata = anndata.read_h5ad(PBMC3K)
    adata[:60].copy().write_h5ad(folder / "one.h5ad")
    adata[60:100].copy().write_h5ad(folder / "two, three.h5ad")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def store(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "cells.store"
    assert cli.main(["prepare", *map(str, files), "--output", str(folder), "--processes", "1"]) == 0
    return folder


def test_prepare_again_and_add(
    store: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["prepare", *map(str, files), "--output", str(store)]) == 0
    said = capsys.readouterr().out
    assert "added 0 files with 0 cells, 2 were there already" in said and "100 cells of 2 files" in said
    other = tmp_path / "more.h5ad"
    anndata.read_h5ad(PBMC3K)[100:130].copy().write_h5ad(other)
    copied = tmp_path / "copy.store"
    shutil.copytree(store, copied)
    page = (copied / "qc.html").read_text()
    assert cli.main(["prepare", str(other), "--output", str(copied)]) == 0
    assert "130 cells of 3 files" in capsys.readouterr().out
    assert "more.h5ad" in (copied / "qc.html").read_text() and "more.h5ad" not in page


def test_info(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["store", "info", str(store)]) == 0
    said = capsys.readouterr().out
    assert "100 cells of 2 files" in said and "one.h5ad" in said and "obs: cell_type" in said


def test_verify(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["store", "verify", str(store)]) == 0
    assert "100 cells in 2 shards, all as they were written" in capsys.readouterr().out
    copied = tmp_path / "copy"
    shutil.copytree(store, copied)
    shard = copied / "shards" / "00001-000.cells"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert cli.main(["store", "verify", str(copied)]) == 2
    said = capsys.readouterr().err
    assert "00001-000.cells: its contents have changed" in said and "two, three.h5ad" in said


def test_page_stands_alone(store: Path) -> None:
    page = (store / "qc.html").read_text()
    assert page.count("<svg") == 2 and "one.h5ad" in page and "Counts per cell: median" in page
    for outside in ("http://localhost", "<link", "<script", "src="):
        assert outside not in page
    assert "href=" not in page.replace('xlink:href="#', "")


def test_a_bad_file_is_reported_and_the_rest_prepared(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.h5ad").write_text("nothing")
    typed = ["prepare", str(tmp_path / "bad.h5ad"), str(files[0]), "--output", str(tmp_path / "store"), "page=false"]
    assert cli.main(typed) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "bad.h5ad: is not an h5ad file" in said.err
    assert "added 1 file with" in said.out and not (tmp_path / "store" / "qc.html").exists()


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["prepare", "--output", "x"], "the option sources must be given"),
        (["prepare", "no.h5ad", "--output", "x"], "no.h5ad: "),
        (["prepare", str(PBMC3K)], "the option output must be given"),
        (
            ["prepare", str(PBMC3K), "--output", "x", "procesess=2"],
            "there is no option 'procesess'; did you mean 'processes'",
        ),
        (["prepare", str(PBMC3K), "--output", "x", "shard_cells=0"], "shard_cells=0: must be at least 1"),
        (["prepare", str(PBMC3K), "--output", "x", "genes.match=most"], "genes.match=most: choose all or exact"),
        (["store", "info", "nowhere"], "nowhere: is no prepared store"),
        (["store", "inform", "x"], "there is no verb 'store inform'; did you mean 'info'?"),
    ],
)
def test_mistakes(
    typed: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(typed)
    except SystemExit as exit:
        code = exit.code
    said = capsys.readouterr().err
    assert code == 2 and says in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_training_on_a_store(store: Path, tmp_path: Path) -> None:
    from jobs import small_job

    assert cli.main(["train", "--steps", "4", *small_job(store, tmp_path / "run", "data.min_genes=10")[1:]]) == 0
    assert (tmp_path / "run" / "metrics.json").is_file()
