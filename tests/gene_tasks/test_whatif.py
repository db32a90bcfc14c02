"""Edits of genes: the edited cell is the cell it should be, and the test finds what was planted and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from one_cell import single_cells

from cellfm_torch import CellBatch, CellFM, UserError
from cellfm_torch.cli import main
from cellfm_torch.gene_tasks.whatif import what_if
from cellfm_torch.gene_tasks.whatif.edits import cosine_shift, edited
from cellfm_torch.gene_tasks.whatif.null import permutation_test

GENES = ["MALAT1", "B2M", "CD3D", "LYZ"]


def cell_of(ids: list[int], values: list[float]) -> CellBatch:
    return CellBatch(
        gene_ids=torch.tensor(ids),
        values=torch.tensor(values),
        hidden=torch.zeros(len(ids), dtype=torch.bool),
        offsets=torch.tensor([0, len(ids)]),
        cell_index=torch.tensor([7]),
        read_depth=torch.tensor([[900.0, 1000.0]]),
    )


def listed(batch: CellBatch) -> list[dict[int, float]]:
    bounds = batch.offsets.tolist()
    pairs = list(zip(batch.gene_ids.tolist(), batch.values.tolist(), strict=True))
    return [dict(pairs[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]


def test_edited_cells() -> None:
    cell = cell_of([5, 2, 9], [1.0, 2.0, 3.0])
    removed = edited(cell, torch.tensor([2, 9]), 0.0)
    assert listed(removed) == [{5: 1.0, 9: 3.0}, {5: 1.0, 2: 2.0}]
    assert removed.cell_index.tolist() == [7, 7] and removed.read_depth is not None
    assert removed.read_depth.tolist() == [[900.0, 1000.0]] * 2 and not removed.hidden.any()
    put = edited(cell, torch.tensor([2, 4]), 1.5)
    assert listed(put) == [{5: 1.0, 2: 1.5, 9: 3.0}, {5: 1.0, 2: 2.0, 9: 3.0, 4: 1.5}]


def test_shift_of_what_hardly_differs() -> None:
    """In float32 the cosine itself would be 1 for angles below 3e-4."""
    before = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    aside = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)
    for angle in (1e-7, 1e-3, 0.7):
        after = (before * np.cos(angle) / 3 + aside * np.sin(angle) / 5**0.5) * 11
        (found,) = cosine_shift(before, after[None])
        assert found == pytest.approx(2 * np.sin(angle / 2) ** 2, rel=1e-6)


def test_shifts_equal_those_of_files_edited_by_hand(network: CellFM, adata: anndata.AnnData) -> None:
    found = what_if(network, adata, gene_list=GENES, most_cells=8, least_cells=1, pool=5, verbose=False)
    asked = found.edits[found.edits["asked"]]
    assert len(asked) > 10
    double = {int(batch.cell_index[0]): batch for batch in single_cells(adata, network)}
    for row in asked.itertuples():
        batch = double[adata.obs_names.get_loc(row.cell)]
        batch.values = batch.values.float()
        at = batch.gene_ids == network.genes.index(row.gene) + 1
        assert float(batch.values[at]) == pytest.approx(row.value)
        keep = ~at
        without = CellBatch(
            gene_ids=batch.gene_ids[keep],
            values=batch.values[keep],
            hidden=batch.hidden[keep],
            offsets=torch.tensor([0, int(keep.sum())]),
            cell_index=batch.cell_index,
        )
        with torch.no_grad():
            before, after = network.encode(batch).cell[0], network.encode(without).cell[0]
        expected = float(1 - torch.cosine_similarity(before.double(), after.double(), dim=0))
        # The plain path and the fast one differ by float32's rounding, 1e-6 of an embedding: of shifts of some 1e-5,
        # which are squares of it, this is 2e-9 at most.
        assert row.shift == pytest.approx(expected, rel=1e-2, abs=5e-9)


def test_numbers_do_not_depend_on_the_batch(network: CellFM, adata: anndata.AnnData) -> None:
    options: dict[str, Any] = {"gene_list": GENES, "most_cells": 5, "least_cells": 1, "pool": 4, "verbose": False}
    whole = what_if(network, adata, **options).edits
    pieces = what_if(network, adata, token_budget=2000, **options).edits
    assert whole[["cell", "gene"]].equals(pieces[["cell", "gene"]])
    assert np.allclose(whole["shift"], pieces["shift"], rtol=1e-2, atol=5e-9)  # as above


def test_set_to_puts_genes_into_all_cells(network: CellFM, adata: anndata.AnnData) -> None:
    found = what_if(network, adata, gene_list=["CD3D"], set_to=3.0, most_cells=10, least_cells=1, pool=3, verbose=False)
    asked = found.edits[found.edits["asked"]]
    assert len(asked) == 10 and (asked["value"] == 0).any() and (asked["shift"] > 0).all()
    assert found.edit == "set to 3" and found.table["cells"].iloc[0] == 10


def simulated(effect: float, *, seed: int = 0) -> pd.DataFrame:
    """60 genes in 20 cells; shifts grow with the value, and those of gene 0 by a further factor."""
    rng = np.random.default_rng(seed)
    value = rng.uniform(1, 4, 60)
    cells = [
        pd.DataFrame(
            {
                "cell": cell,
                "gene": np.arange(60),
                "value": value + rng.normal(0, 0.05, 60),
                "shift": np.exp(value) * rng.lognormal(0, 0.3, 60) * np.where(np.arange(60) == 0, effect, 1),
            }
        )
        for cell in range(20)
    ]
    return pd.concat(cells, ignore_index=True)


def test_permutations_find_a_planted_gene_and_no_other() -> None:
    table = permutation_test(simulated(2.0), np.arange(60), permutations=2000).set_index("gene")
    assert table.index[0] == 0 and table.loc[0, "fdr"] < 0.05 and table.loc[0, "shift"] > 1.5 * table.loc[0, "null"]
    assert (table["cells"] == 20).all() and table["p"].min() >= 1 / 2001


def test_no_effect_is_not_found_because_of_expression() -> None:
    """Shifts grow with expression alone, and the highest genes have none but lower ones to be compared with."""
    tables = [permutation_test(simulated(1.0, seed=seed), np.arange(60)).set_index("gene") for seed in range(5)]
    values = [simulated(1.0, seed=seed).groupby("gene")["value"].mean() for seed in range(5)]
    along = [table["z"].corr(value, method="spearman") for table, value in zip(tables, values, strict=True)]
    # Without the trend of the cell they are 0.4 to 0.6; the standard error of the mean of five is 0.06.
    assert abs(np.mean(along)) < 0.2
    # 1 in 20 of 300 by chance is 15, with a standard deviation of 4.
    assert sum((table["p"] < 0.05).sum() for table in tables) < 30


def test_too_few_cells_are_not_tested() -> None:
    edits = simulated(1.0)
    table = permutation_test(edits[edits["cell"] < 2], np.arange(3))
    assert table["p"].isna().all() and (table["cells"] == 2).all() and table["shift"].notna().all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gene_list": ["MALATI"]}, "gene_list: the model has no gene 'MALATI'; did you mean 'MALAT1'?"),
        ({"set_to": -1.0}, "set_to=-1.0: give log1p\\(CP10K\\) above 0"),
        ({"pool": 0}, "pool=0: must be at least 1"),
        ({"gene_list": ["TNMD"]}, "no cell expresses any of the genes asked for"),
    ],
)
def test_says_what_is_wrong(options: dict[str, Any], says: str, network: CellFM, adata: anndata.AnnData) -> None:
    with pytest.raises(UserError, match=says):
        what_if(network, adata, verbose=False, **options)


def test_command(folder: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    arguments = ["genes", "whatif", str(cells), "--model", str(folder), "--by", "kind", "--results", str(results)]
    assert main([*arguments, "--genes", "MALAT1,B2M", "most_cells=4", "pool=4", "permutations=50"]) == 0
    assert "Genes that move the embedding of cells: remove" in capsys.readouterr().out
    assert {"genes.csv", "edits.csv", "genes.png", "genes.pdf", "settings.json"} == {
        path.name for path in results.iterdir()
    }
    table = pd.read_csv(results / "genes.csv")
    assert len(table) == 4 and set(table["group"]) == {"a", "b"} and set(table["gene"]) == {"MALAT1", "B2M"}


def test_one_name_is_one_gene_and_arguments_are_told_apart(network: CellFM, adata: anndata.AnnData) -> None:
    found = what_if(network, adata, gene_list="LYZ", most_cells=4, least_cells=1, pool=2, verbose=False)
    assert set(found.table["gene"]) == {"LYZ"} and len(repr(found)) < 200
    with pytest.raises(UserError, match="give a model folder or a network, not a AnnData; the cells come second"):
        what_if(adata, network)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there is no option 'bye'; did you mean 'by'?"):
        what_if(network, adata, bye="kind")
    with pytest.raises(UserError, match="set_to=abc: give log1p"):
        what_if(network, adata, set_to="abc")  # type: ignore[arg-type]


def test_says_how_many_cells_are_drawn(
    network: CellFM, adata: anndata.AnnData, capsys: pytest.CaptureFixture[str]
) -> None:
    what_if(network, adata, gene_list="LYZ", most_cells=4, least_cells=1, pool=2)
    assert "drawn: 4 of 42 cells, at most 4 of a group (most_cells)" in capsys.readouterr().out
