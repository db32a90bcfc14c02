"""Preparing a store and reading it back: contents, additions, repetitions, damage, kills between two steps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellfm_torch.data import store_jobs, store_manifest, store_write
from cellfm_torch.data.files import Input
from cellfm_torch.data.gene_table import BUNDLED, Gene, GeneTable
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.reader import read_cells
from cellfm_torch.data.store import Store, is_store
from cellfm_torch.data.store_table import StoreTable
from cellfm_torch.data.store_verify import check_shard, check_store
from cellfm_torch.data.store_write import Outcome, StoreOptions
from cellfm_torch.errors import UserError

OPTIONS = StoreOptions(read=ReadOptions(min_genes=1), shard_cells=16, block_cells=4)


def prepare(sources: list[Path], folder: Path, options: StoreOptions = OPTIONS) -> Outcome:
    return store_write.prepare([Input(path) for path in sources], folder, options, lambda *_: None)


@pytest.fixture
def files(
    synthetic_cells: Callable[..., anndata.AnnData], synthetic_counts: np.ndarray, write: Callable[..., Path]
) -> list[Path]:
    """Three files with other cells, other annotations, and cells deeper than the recipe's 1e5 counts in the last."""
    rng = np.random.default_rng(3)
    made = []
    for i in range(3):
        counts = synthetic_counts[rng.permutation(40)[: 40 - 7 * i]].copy()
        if i == 2:
            counts[:5] *= 3000
        adata = synthetic_cells(sp.csr_matrix(counts.astype(np.float32)))
        adata.obs_names = [f"file{i}_{name}" for name in adata.obs_names]
        if i == 1:
            adata.obs["donor"] = np.resize(["d1", "d2"], len(adata))
            del adata.obs["depth"]
        made.append(write(adata, f"file{i}.h5ad"))
    return made


@pytest.fixture
def store(files: list[Path], tmp_path: Path) -> Path:
    assert not prepare(files, tmp_path / "store").failed
    return tmp_path / "store"


def dense(table: StoreTable, rows: np.ndarray) -> np.ndarray:
    offsets, genes, counts = table.read(rows)
    return sp.csr_matrix((counts, genes, offsets), shape=(len(rows), table.num_genes)).toarray()


@pytest.mark.parametrize("kind", ["bundled 19264", "bundled 24078", "bundled 27855", "own"])
def test_cells_are_those_of_the_files(store: Path, files: list[Path], vocab: GeneVocab, kind: str) -> None:
    """Over the vocabularies whose numbers of genes are kept, and over one they are counted for."""
    vocab = vocab if kind == "own" else GeneVocab.bundled(int(kind.split()[1]))
    cells = read_cells(files, vocab)
    table = StoreTable(Store(store), vocab)
    assert len(table) == len(cells) == 99
    np.testing.assert_array_equal(table.lengths, np.diff(cells.counts.indptr))
    assert table.blocks[0] == 0 and table.blocks[-1] == 99 and np.diff(table.blocks).max() == 4
    for rows in (np.arange(99), np.array([0]), np.array([15, 16, 39, 40, 98]), np.arange(1, 99, 3)):
        np.testing.assert_array_equal(dense(table, rows), cells.counts[rows].toarray())


def test_models_that_take_deep_cells_as_they_are(store: Path, files: list[Path], vocab: GeneVocab) -> None:
    """scFoundation scales no cell down, CellFM those above 1e5 counts; both load from one store."""
    for num_genes, most in ((19_264, np.inf), (19_264, 1e5), (19_264, 3e4), (24_078, 1e5)):
        cells = read_cells(files, GeneVocab.bundled(num_genes), most_counts=most)
        table = StoreTable(Store(store), GeneVocab.bundled(num_genes), most_counts=most)
        np.testing.assert_array_equal(table.lengths, np.diff(cells.counts.indptr))
        np.testing.assert_array_equal(dense(table, np.arange(99)), cells.counts.toarray())
        # Each of 60 counts is rounded after the scaling.
        assert cells.read_depth.max() > 1.2e5 if most == np.inf else cells.read_depth.max() < most + 30


@pytest.mark.parametrize("name", ["KIAA0100", "BLTP2", "ENSG00000007202.14"])
def test_one_gene_under_two_names(
    name: str,
    vocab: GeneVocab,
    synthetic_cells: Callable[..., anndata.AnnData],
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """scFoundation's list has KIAA0100, CellFM's lists the newer BLTP2: whichever a file says, both models find it."""
    both = Gene("BLTP2", ("ENSG00000007202",), ("KIAA0100",))
    GeneTable(_with(both)).save(tmp_path / "own.tsv.gz")
    monkeypatch.setenv("CELLFM_GENES", str(tmp_path / "own.tsv.gz"))
    file = write(synthetic_cells(genes=[name, *vocab.symbols[1:]]), "named.h5ad")
    assert not prepare([file], tmp_path / "named").failed
    for num_genes, symbol in ((19_264, "KIAA0100"), (24_078, "BLTP2"), (27_855, "BLTP2")):
        whole = GeneVocab.bundled(num_genes)
        counts = read_cells(file, whole).counts.toarray()
        assert (counts[:, whole.symbols.index(symbol)] == 1).all()
        table = StoreTable(Store(tmp_path / "named"), whole)
        np.testing.assert_array_equal(dense(table, np.arange(40)), counts)


def _with(gene: Gene) -> list[Gene]:
    """The bundled table, in which a gene has another entry."""
    others = [one for one in GeneTable.load(BUNDLED).genes if not set(one.ensembl) & set(gene.ensembl)]
    return [*others, gene]


def test_filters_of_loading(store: Path, files: list[Path], vocab: GeneVocab) -> None:
    cells = read_cells(files, vocab, min_genes=34, max_genes=38)
    table = StoreTable(Store(store), vocab, min_genes=34, max_genes=38)
    assert 5 < len(table) == len(cells) < 90
    np.testing.assert_array_equal(dense(table, np.arange(len(table))), cells.counts.toarray())
    assert table.blocks[-1] == len(table) and (np.diff(table.blocks) > 0).all()
    with pytest.raises(UserError, match="none of its 99 cells has the number of genes asked for"):
        StoreTable(Store(store), vocab, min_genes=60)
    with pytest.raises(UserError, match=r"none of its .* genes .* is in the vocabulary"):
        StoreTable(Store(store), GeneVocab(["no such gene"]))


def test_annotations(store: Path, files: list[Path]) -> None:
    opened = Store(store)
    adatas = [anndata.read_h5ad(file) for file in files]
    assert opened.names().tolist() == [name for adata in adatas for name in adata.obs_names]
    obs = opened.obs
    measured = ["n_genes_by_counts", "total_counts", "pct_counts_mt"]
    assert list(obs) == ["cell_type", "depth", *measured, "donor", "source_file"]
    assert obs["cell_type"].tolist() == [name for adata in adatas for name in adata.obs["cell_type"]]
    assert obs["source_file"].tolist() == np.repeat([file.name for file in files], [len(a) for a in adatas]).tolist()
    depth = obs["depth"].to_numpy()
    np.testing.assert_array_equal(depth[:40], np.arange(40))
    assert np.isnan(depth[40:73]).all() and isinstance(obs["donor"].dtype, pd.CategoricalDtype)
    assert obs["donor"][40:73].tolist() == adatas[1].obs["donor"].tolist() and obs["donor"][:40].isna().all()
    with pytest.raises(KeyError):
        opened.column("nothing")


def test_quality_numbers(store: Path, files: list[Path]) -> None:
    source = Store(store).sources[0]
    counts = anndata.read_h5ad(files[0]).X
    quality = source["quality"]
    assert quality["counts"]["mean"] == pytest.approx(counts.sum() / 40) and quality["counts_kept"] == counts.sum()
    assert quality["genes"]["mean"] == pytest.approx(counts.nnz / 40)
    # Medians are read off bins of a twentieth of a decade, 12 % wide.
    low, high = np.quantile(counts.sum(1).A1, [0.45, 0.55])
    assert low / 1.13 < quality["counts"]["median"] < high * 1.13
    assert sum(quality["mito"]["histogram"][1]) == 40
    assert [source["report"][name] for name in ("cells_read", "genes_read", "genes_matched")] == [40, 60, 60]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_again_changes_nothing(store: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(store)
    monkeypatch.setattr(store_jobs, "prepare_source", lambda *_: pytest.fail("a finished file was read again"))
    outcome = prepare(files, store)
    assert (len(outcome.known), outcome.added) == (3, []) and snapshot(store) == before


def test_additions_go_to_the_end(files: list[Path], tmp_path: Path, vocab: GeneVocab) -> None:
    prepare(files[1:2], tmp_path / "store")
    one = snapshot(tmp_path / "store")
    prepare([files[2], files[0], files[1]], tmp_path / "store")
    opened = Store(tmp_path / "store")
    assert [Path(source["source"]).name for source in opened.sources] == ["file1.h5ad", "file2.h5ad", "file0.h5ad"]
    after = snapshot(tmp_path / "store")
    assert all(after[name] == data for name, data in one.items() if name != "manifest.jsonl")
    cells = read_cells([files[1], files[2], files[0]], vocab)
    np.testing.assert_array_equal(dense(StoreTable(opened, vocab), np.arange(99)), cells.counts.toarray())


def test_processes_change_nothing(files: list[Path], tmp_path: Path) -> None:
    prepare(files, tmp_path / "one")
    prepare(files, tmp_path / "two", StoreOptions(read=OPTIONS.read, shard_cells=16, block_cells=4, processes=2))
    one, two = snapshot(tmp_path / "one"), snapshot(tmp_path / "two")
    assert one.keys() == two.keys()
    different = {name for name in one if one[name] != two[name]}
    assert different <= {"manifest.jsonl"}, "the order in which files were finished may differ"
    assert Store(tmp_path / "one").sources == Store(tmp_path / "two").sources


def test_same_contents_twice(store: Path, files: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5ad"
    shutil.copy(files[0], copy)
    for _ in range(2):
        outcome = prepare([*files, copy], store)
        assert [entry["of"] for entry in outcome.repeated] == [str(files[0])] and not outcome.added
    assert len(Store(store)) == 99
    both = tmp_path / "both"
    outcome = prepare([files[0], copy], both)
    assert len(outcome.added) == len(outcome.repeated) == 1 and len(Store(both)) == 40
    assert len(list((both / "shards").iterdir())) == 3


def test_changed_source(store: Path, files: list[Path]) -> None:
    files[0].touch()
    assert len(prepare(files, store).known) == 3, "only the time of change is new"
    adata = anndata.read_h5ad(files[0])
    adata[:10].copy().write_h5ad(files[0])
    with pytest.raises(UserError, match=r"file0\.h5ad: has changed since it was added"):
        prepare(files, store)


def test_other_options_for_a_known_source(store: Path, files: list[Path]) -> None:
    with pytest.raises(UserError, match=r"file0\.h5ad: is in .* already, read with other options \(min_genes=1 there"):
        prepare(files, store, StoreOptions(read=ReadOptions(min_genes=3)))


def test_a_bad_source_does_not_stop_the_others(files: list[Path], tmp_path: Path) -> None:
    files[1].write_text("no h5ad")
    outcome = prepare(files, tmp_path / "store")
    ((path, problem),) = outcome.failed
    assert path.name == "file1.h5ad" and "is not an h5ad file" in str(problem) and problem.page == "files"
    assert [source["number"] for source in Store(tmp_path / "store").sources] == [0, 2]


def test_what_is_wrong_with_cells_leads_to_their_page(files: list[Path], tmp_path: Path) -> None:
    adata = anndata.read_h5ad(files[1])
    adata.X = adata.X * 0.5
    adata.write_h5ad(files[1])
    ((_, problem),) = prepare(files, tmp_path / "store").failed  # noticed in another process
    assert "is no whole count" in str(problem) and problem.page == "cells"


def test_only_bad_sources(files: list[Path], tmp_path: Path) -> None:
    files[0].write_text("no h5ad")
    assert len(prepare(files[:1], tmp_path / "store").failed) == 1
    with pytest.raises(UserError, match="holds no cells yet"):
        Store(tmp_path / "store")


def test_foreign_folder(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists and is no prepared store"):
        prepare(files, tmp_path)
    assert not (tmp_path / "shards").exists()
    assert not is_store(tmp_path)
    with pytest.raises(UserError, match="is no prepared store"):
        Store(tmp_path)


def test_two_writers(store: Path, files: list[Path]) -> None:
    with store_write._locked(store), pytest.raises(UserError, match="another cellfm prepare is writing"):
        prepare(files, store)


@pytest.mark.parametrize("place", ["index", "block", "cut", "gone"])
def test_damaged_shard(store: Path, vocab: GeneVocab, place: str) -> None:
    """Found by its checksum, named, and left out only on request."""
    shard = store / "shards" / "00000-001.cells"
    data = bytearray(shard.read_bytes())
    if place == "gone":
        shard.unlink()
    elif place == "cut":
        shard.write_bytes(data[: len(data) // 2])
    else:
        data[-60 if place == "index" else 40] ^= 1
        shard.write_bytes(data)
    vocab_all = np.arange(99)
    with pytest.raises(UserError, match=r"00000-001\.cells: is damaged .*data\.skip_damaged=true"):
        StoreTable(Store(store), vocab).read(vocab_all)
    opened = Store(store)
    found = [problem for one in opened.shards if (problem := check_shard(opened, one))]
    assert len(found) == 1 and "00000-001.cells" in found[0]

    sound = Store(store, skip_damaged=True)
    assert len(sound.skipped) == 1 and "00000-001.cells" in sound.skipped[0]
    assert len(sound) == 83 == len(sound.obs) == len(sound.names())
    table = StoreTable(sound, vocab)
    kept = np.r_[0:16, 32:99]
    assert sound.names().tolist() == np.array(opened.names())[kept].tolist()
    assert dense(table, np.arange(83)).sum() > 0 and table.blocks[-1] == 83


def test_sound_store_verifies(store: Path) -> None:
    opened = Store(store)
    assert check_store(opened) == [] and not any(check_shard(opened, shard) for shard in opened.shards)
    (store / "obs" / "00001.h5").write_bytes(b"")
    assert "00001.h5: is missing or damaged" in check_store(opened)[0]


def test_the_index_is_of_arrays_only(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy before 2.1 takes every keyword for an array, and the shard could not be read again."""
    write, given = np.savez_compressed, []

    def kept(file: object, **arrays: object) -> None:
        given.extend(arrays.values())
        write(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", kept)
    assert not prepare(files, tmp_path / "store").failed
    assert given and all(isinstance(x, np.ndarray) for x in given)


def test_manifest_after_a_kill(store: Path, files: list[Path], tmp_path: Path, vocab: GeneVocab) -> None:
    """A line cut short anywhere is as if it had not been written; what it named is made again."""
    whole = (store / "manifest.jsonl").read_bytes()
    complete = Store(store).sources
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    for end in (start, start + 1, start + 100, len(whole) - 2, len(whole) - 1):
        (store / "manifest.jsonl").write_bytes(whole[:end])
        assert len(Store(store).sources) == 2 and len(StoreTable(Store(store), vocab)) == 73
        prepare(files, store)
        assert (store / "manifest.jsonl").read_bytes() == whole
        assert Store(store).sources == complete


def test_damaged_manifest(store: Path) -> None:
    path = store / "manifest.jsonl"
    data = bytearray(path.read_bytes())
    data[data.index(b"\n") + 30] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"manifest\.jsonl: is damaged at line 2"):
        Store(store)


def test_later_format_and_foreign_genes(store: Path) -> None:
    (store / "genes.txt").write_text("A1BG\n")
    with pytest.raises(UserError, match=r"genes\.txt: is not the gene list"):
        Store(store)
    entries = store_manifest.read(store)
    store_manifest.create(store, entries[0] | {"format": 99})
    with pytest.raises(UserError, match="is a store of format 99, this version reads format 1"):
        Store(store)


def test_leftovers_of_a_kill_are_removed(store: Path, files: list[Path]) -> None:
    before = snapshot(store)
    (store / "shards" / "00007-000.cells").write_bytes(b"x")
    (store / "shards" / "00002-000.cells.123.part").write_bytes(b"x")
    (store / "obs" / "00007.h5").write_bytes(b"x")
    prepare(files, store)
    assert snapshot(store) == before


def test_own_genes(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("MYGENE1\nMYGENE2\n")
    prepare(files[:1], tmp_path / "store", StoreOptions(read=OPTIONS.read, genes=str(tmp_path / "more.txt")))
    assert {"MYGENE1", "MYGENE2"} <= set(Store(tmp_path / "store").genes)


def test_frequent_genes_come_first(store: Path, files: list[Path]) -> None:
    counts = anndata.read_h5ad(files[0])
    number = pd.Series((counts.X > 0).sum(0).A1, index=counts.var_names)
    there = number[list(Store(store).genes[:60])]
    assert (np.diff(there) <= 0).all()
