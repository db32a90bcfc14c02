"""The data module over prepared stores: the same cells as from files, shares, held-out groups, ranks, threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pytest
import torch

from cellfm_torch.batch import InputSpec
from cellfm_torch.data import store_write
from cellfm_torch.data.files import Input
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.module import CellDataModule
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.store_write import StoreOptions
from cellfm_torch.errors import UserError

Make = Callable[..., CellDataModule]


@pytest.fixture
def files(synthetic_cells: Callable[..., anndata.AnnData], write: Callable[..., Path]) -> list[Path]:
    """Forty cells of two donors, and ten of them again under other names."""
    adata = synthetic_cells()
    adata.obs["donor"] = np.resize(["a", "a", "a", "b"], 40)
    adata.obs.loc[adata.obs_names[:4], "donor"] = "c"
    few = adata[10:20].copy()
    few.obs_names = [f"again_{name}" for name in few.obs_names]
    return [write(adata, "many.h5ad"), write(few, "few.h5ad")]


@pytest.fixture
def stores(files: list[Path], tmp_path: Path) -> list[Path]:
    """A store of each file."""
    options = StoreOptions(read=ReadOptions(min_genes=1), shard_cells=16, block_cells=4)
    for file in files:
        store_write.prepare([Input(file)], tmp_path / file.stem, options, lambda *_: None)
    return [tmp_path / file.stem for file in files]


@pytest.fixture
def make(stores: list[Path], vocab: GeneVocab) -> Make:
    def make(**options: object) -> CellDataModule:
        defaults = {"path": stores, "min_genes": 0, "token_budget": 200, "block_size": 4, "fetch_cells": 12}
        spec = InputSpec(genes=vocab.symbols, max_genes=30, read_depth=True)
        return CellDataModule(**(defaults | options), input_spec=spec)

    return make


def test_same_cells_as_from_files(make: Make, files: list[Path]) -> None:
    """The order of genes within a cell carries no meaning, so masks and samples may fall elsewhere."""
    spec = {"min_genes": 33, "label": "cell_type", "fetch_cells": 1000}
    from_files, from_stores = make(path=files, **spec), make(**spec)
    assert 10 < len(from_stores.table) == len(from_files.table) < 50
    for module in (from_files, from_stores):
        module.input_spec = InputSpec(genes=module.input_spec.genes)
    ours, theirs = (list(module.predict_dataloader()) for module in (from_stores, from_files))
    for a, b in zip(ours, theirs, strict=True):
        assert a.cell_index.tolist() == b.cell_index.tolist() and a.labels.tolist() == b.labels.tolist()
        assert torch.equal(a.offsets, b.offsets)
        for c in range(a.num_cells):
            own = slice(a.offsets[c], a.offsets[c + 1])
            sort_a, sort_b = torch.argsort(a.gene_ids[own]), torch.argsort(b.gene_ids[own])
            assert torch.equal(a.gene_ids[own][sort_a], b.gene_ids[own][sort_b])
            assert torch.equal(a.values[own][sort_a], b.values[own][sort_b])
    np.testing.assert_array_equal(from_files.train_cells, from_stores.train_cells)
    np.testing.assert_allclose(from_files.gene_means, from_stores.gene_means, rtol=1e-6)
    assert from_files.label_names == from_stores.label_names
    assert from_files.obs["cell_type"].tolist() == from_stores.obs["cell_type"].tolist()


def test_files_and_stores_together(make: Make, files: list[Path], stores: list[Path]) -> None:
    mixed = make(path=[stores[0], files[1]])
    assert len(mixed.table) == 50
    assert mixed.obs["donor"].tolist() == make(path=files).obs["donor"].tolist()
    assert set(mixed.obs["source_file"]) == {"many.h5ad", "few.h5ad"}
    seen = np.concatenate([batch.cell_index for batch in mixed.predict_dataloader()])
    assert seen.tolist() == list(range(50))
    with pytest.raises(UserError, match="not held in memory"):
        mixed.read()


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_cell_once_over_all_ranks(make: Make, world_size: int, num_workers: int) -> None:
    """The counts do not divide; each epoch is another order, and the same one for the same seed."""
    orders = []
    for epoch in (0, 1, 0):
        seen = []
        for rank in range(world_size):
            module = make(num_workers=num_workers, val_fraction=0.14)
            module.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, accumulate_grad_batches=1)
            loader = module.train_dataloader()
            loader.sampler.set_epoch(epoch)
            batches = list(loader)
            assert len(batches) == len(loader) and all(batch.num_genes <= 200 for batch in batches)
            seen += [batch.cell_index for batch in batches]
        cells = np.concatenate(seen)
        np.testing.assert_array_equal(np.sort(cells), module.train_cells)
        orders.append(cells.tolist())
    assert orders[0] == orders[2] != orders[1]


def test_threads_change_nothing(make: Make) -> None:
    def batches(workers: int) -> list[dict]:
        loader = make(num_workers=workers).train_dataloader()
        return [{name: x.tolist() for name, x in vars(b).items() if isinstance(x, torch.Tensor)} for b in loader]

    assert batches(0) == batches(1) == batches(3)


@pytest.mark.parametrize("used", range(8))
def test_resume_in_mid_epoch(make: Make, used: int) -> None:
    whole = make().train_dataloader()
    batches = [batch.cell_index.tolist() for batch in whole]
    stopped = make().train_dataloader()
    iterator = iter(stopped)
    seen = [next(iterator).cell_index.tolist() for _ in range(used)]
    resumed = make(num_workers=1).train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    assert seen + [batch.cell_index.tolist() for batch in resumed] == batches


def test_shares(make: Make) -> None:
    """Half of each epoch from the small store: its ten cells come round again and again, each time with new masks."""
    module = make(weights=[1, 1], val_fraction=0.1, seed=3)
    loader = module.train_dataloader()
    sizes = np.array([np.sum(module.train_cells < 40), np.sum(module.train_cells >= 40)])
    total: Counter[int] = Counter()
    looks: dict[int, set] = {}
    for epoch in range(8):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader)
        for batch in batches:
            for b, cell in enumerate(batch.cell_index.tolist()):
                total[cell] += 1
                hidden = batch.hidden[batch.offsets[b] : batch.offsets[b + 1]]
                looks.setdefault(cell, set()).add(tuple(hidden.tolist()))
    share = sum(number for cell, number in total.items() if cell >= 40) / sum(total.values())
    # Whole blocks of up to four cells are drawn, so the share is near a half, not exactly.
    assert 0.4 < share < 0.6
    assert sum(total.values()) == pytest.approx(8 * sizes.sum(), rel=0.15)
    assert set(total) == set(module.train_cells.tolist())
    for low, high in ((0, 40), (40, 50)):
        numbers = [total[cell] for cell in module.train_cells if low <= cell < high]
        assert max(numbers) - min(numbers) <= 1
    assert all(len(looks[cell]) >= 0.8 * total[cell] for cell in total)


@pytest.mark.parametrize("weights", [[1.0], [1, 2, 3], [1, -1], [1, 0]])
def test_shares_are_checked(make: Make, weights: list[float]) -> None:
    with pytest.raises(UserError, match=r"data\.weights=.*one number above 0 for each of the 2 in data\.path"):
        make(weights=weights)


def test_held_out_groups(make: Make) -> None:
    by_file = make(split_by="dataset")
    assert by_file.val_cells.tolist() == list(range(40, 50)), "the file nearest to a fifth of the cells"
    named = make(split_by="dataset", val_groups=["many.h5ad"])
    assert named.val_cells.tolist() == list(range(40))
    by_donor = make(split_by="donor", val_fraction=0.25)
    donors = by_donor.obs["donor"].to_numpy()
    held, kept = set(donors[by_donor.val_cells]), set(donors[by_donor.train_cells])
    assert held and kept and not held & kept
    assert make(split_by="donor", val_groups=["a"]).val_cells.tolist() == np.flatnonzero(donors == "a").tolist()


def test_held_out_groups_are_checked(make: Make) -> None:
    for options, message in (
        ({"split_by": "doner"}, r"data\.split_by=doner: no such column in obs .*did you mean 'donor'"),
        ({"split_by": "donor", "val_groups": ["d"]}, r"data\.val_groups: there is no donor 'd'"),
        ({"split_by": "donor", "val_groups": ["a", "b", "c"]}, "no way to hold out about 20% of 50 cells in 3 groups"),
        ({"split_by": "dataset", "path": None}, "no way to hold out"),
    ):
        if "path" in options:
            module = make(split_by="dataset")
            options = {"split_by": "dataset", "path": module.collection.parts[0].store.path}
        with pytest.raises(UserError, match=message):
            make(**options).train_cells  # noqa: B018


def test_group_nearest_to_the_share(make: Make) -> None:
    """Two groups, the smaller one much larger than asked for: still that one, not none."""
    module = make(split_by="source_file", val_fraction=0.01)
    assert module.val_cells.tolist() == list(range(40, 50))


def test_damaged_shard_at_loading(make: Make, stores: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    shard = stores[0] / "shards" / "00000-001.cells"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"00000-001\.cells: is damaged \(a checksum does not match\)"):
        list(make().predict_dataloader())
    assert len(make(skip_damaged=True).table) == 34
    assert "left out, as asked" in capsys.readouterr().out
