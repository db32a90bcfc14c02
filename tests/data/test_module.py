"""The data module: options, split, loaders, baseline, and the YAML that makes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import hydra
import numpy as np
import pytest
from omegaconf import OmegaConf

from cellfm_torch.batch import InputSpec
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.module import CellDataModule
from cellfm_torch.data.options import GeneOptions, ReadOptions
from cellfm_torch.errors import UserError
from cellfm_torch.paths import CONF

Make = Callable[..., CellDataModule]


@pytest.fixture
def make(cells_file: Path, vocab: GeneVocab) -> Make:
    """Make a module of the synthetic cells; `spec` goes into the InputSpec."""

    def make(*, spec: dict | None = None, **options: object) -> CellDataModule:
        defaults = {"path": cells_file, "min_genes": 0, "token_budget": 200}
        return CellDataModule(**(defaults | options), input_spec=InputSpec(**({"genes": vocab.symbols} | (spec or {}))))

    return make


def test_split(make: Make) -> None:
    module = make(val_fraction=0.25)
    module.setup("fit")
    assert len(module.val_cells) == 10
    np.testing.assert_array_equal(np.sort(np.concatenate([module.train_cells, module.val_cells])), np.arange(40))
    assert module.val_cells.tolist() == make(val_fraction=0.25).val_cells.tolist()
    assert module.val_cells.tolist() != make(val_fraction=0.25, seed=1).val_cells.tolist()


def test_loaders_give_their_cells(make: Make, capsys: pytest.CaptureFixture) -> None:
    module = make(label="cell_type")
    module.setup("fit")
    module.setup("validate")
    assert capsys.readouterr().out.count("Cells read") == 1
    for loader, cells in (
        (module.train_dataloader(), module.train_cells),
        (module.val_dataloader(), module.val_cells),
        (module.test_dataloader(), module.val_cells),
        (module.predict_dataloader(), np.arange(40)),
    ):
        batches = list(loader)
        seen = np.concatenate([batch.cell_index for batch in batches])
        np.testing.assert_array_equal(np.sort(seen), cells)
        labels = np.concatenate([batch.labels for batch in batches])
        assert [module.label_names[i] for i in labels] == module.obs["cell_type"].iloc[seen].tolist()
        assert all(batch.num_genes <= 200 for batch in batches)
    assert seen.tolist() == list(range(40)), "prediction keeps the order of the file"
    assert all(batch.target is None and not batch.hidden.any() for batch in batches)


def test_validation_masks_stay_and_training_masks_change(make: Make) -> None:
    module = make()
    loaders = {name: getattr(module, f"{name}_dataloader") for name in ("train", "val")}
    hidden = {}
    for name, loader in loaders.items():
        for epoch in (0, 1):
            made = loader()
            made.sampler.set_epoch(epoch)
            hidden[name, epoch] = np.concatenate([batch.hidden for batch in made])
    np.testing.assert_array_equal(hidden["val", 0], hidden["val", 1])
    assert not np.array_equal(hidden["train", 0], hidden["train", 1])


def test_downsampling_follows_read_depth(make: Make) -> None:
    def depths(loader: str, **options: object) -> np.ndarray:
        return np.concatenate([b.read_depth for b in getattr(make(spec={"read_depth": True}, **options), loader)()])

    lowered, kept = depths("train_dataloader"), depths("train_dataloader", downsample=False)
    assert (lowered[:, 0] < lowered[:, 1]).any() and (kept[:, 0] == kept[:, 1]).all()
    predicted = depths("predict_dataloader")
    assert (predicted[:, 0] == predicted[:, 1]).all()
    assert next(iter(make().train_dataloader())).read_depth is None


@pytest.mark.parametrize("expressed_only", [True, False])
def test_gene_means(make: Make, synthetic_counts: np.ndarray, vocab: GeneVocab, expressed_only: bool) -> None:
    genes = (*vocab.symbols, "NEVER")
    module = make(spec={"genes": genes, "expressed_only": expressed_only, "max_genes": 61})
    counts = synthetic_counts[module.train_cells]
    values = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    number = (counts > 0).sum(0) if expressed_only else np.full(60, len(counts))
    assert module.gene_means.shape == (62,) and module.gene_means.dtype == np.float32
    np.testing.assert_allclose(module.gene_means[1:61], values.sum(0) / number, rtol=1e-6)
    overall = values[counts > 0].mean() if expressed_only else 0.0
    np.testing.assert_allclose(module.gene_means[61], overall, rtol=1e-6)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("mask_fraction", 0, "data.mask_fraction=0: must be above 0 and at most 1"),
        ("mask_fraction", 1.2, "data.mask_fraction=1.2"),
        ("hidden_share", -1, "data.hidden_share=-1"),
        ("val_fraction", 1.0, "data.val_fraction=1.0: must be between 0 and 1"),
        ("min_genes", -1, "data.min_genes=-1: must be at least 0"),
        ("max_genes", 100, "data.max_genes=100: must be at least data.min_genes=200, or null"),
        ("token_budget", 0, "data.token_budget=0: must be at least 1"),
        ("num_workers", -1, "data.num_workers=-1"),
        ("seed", -3, "data.seed=-3"),
        ("counts", "recovered", "data.counts=recovered: choose raw or recover or normalised; did"),
        ("genes", {"duplicates": "add"}, "genes.duplicates=add: choose sum or unique"),
        ("genes", {"match": "exakt"}, "genes.match=exakt: choose all or exact; did you mean 'exact'?"),
        ("min_counts", -1, "data.min_counts=-1: must be at least 0, or null"),
        ("max_counts", 0, "data.max_counts=0: must be at least 1, or null"),
        ("most_counts", 0, "data.most_counts=0: must be at least 1, or null"),
        ("random_share", -0.1, "data.random_share=-0.1: must be at least 0 and at most 1"),
        ("random_share", 0.3, "data.hidden_share=0.8 and data.random_share=0.3: shares of the same targets"),
        ("target_depth", "t4", "data.target_depth=t4: this model reads no depths"),
        ("max_mito", 101, "data.max_mito=101: must be a percentage between 0 and 100, or null"),
    ],
)
def test_option_out_of_range(make: Make, option: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match="^" + message.replace("?", r"\?")):
        make(**({"min_genes": 200} | {option: value}))


def test_wrong_options_are_found_in_setup(make: Make) -> None:
    """That is before training, so before anything is written."""
    for options, message in (
        ({"token_budget": 50}, "data.token_budget=50 is less than twice"),
        ({"label": "cell_typ"}, "no such column in obs .*did you mean 'cell_type'"),
        ({"val_fraction": 0.01}, "data.val_fraction=0.01 of 40 cells leaves 40 to train on and 0 to validate on"),
    ):
        with pytest.raises(UserError, match=message):
            make(**options).setup("fit")
    make(val_fraction=0.01).setup("predict")
    with pytest.raises(UserError, match=r"genes.txt"):
        make(spec={"genes": None})


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "data").glob("*.yaml")))
def test_yaml(name: str, cells_file: Path, vocab: GeneVocab) -> None:
    """Each file makes a module, and names every option of the class with its default."""
    OmegaConf.register_new_resolver("cellfm.bundled", lambda name: f"{name}.h5ad", replace=True)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(overrides=[f"+data={name}", "+genes=default", "+seed=3", f"data.path=[{cells_file}]"])
    module = hydra.utils.instantiate(config.data)(input_spec=InputSpec(genes=vocab.symbols))
    assert isinstance(module, CellDataModule) and module.seed == 3
    assert len(module.read()) == 40
    given = {key for key in config.data if not key.startswith("_")}
    reading = {field.name for field in dataclasses.fields(ReadOptions)}
    assert given == set(CellDataModule.__init__.__kwdefaults__) | {"path"} | reading
    assert set(config.genes) == {field.name for field in dataclasses.fields(GeneOptions)}
    assert GeneOptions(**config.genes) == GeneOptions()
