"""Our scFoundation, converted from the recorded checkpoint, against numbers of the official one.

Shapes: B = 3 cells, G = 200 genes, P = G + 2 positions (the genes, T, S).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cases import FOLDER, relative_error
from torch import Tensor

from cellfm_torch import CellBatch, ScFoundation, load_model
from cellfm_torch.convert.scf_ckpt import read_part
from cellfm_torch.convert.scf_conversion import Options, convert_part
from cellfm_torch.convert.scf_names import source_name
from cellfm_torch.ops import favor

CHECKPOINT = FOLDER / "scfoundation.ckpt"
GENES = 200
# Rounding of float32 sums taken in another order; 1.2e-6 seen. A wrong maximum in the decoder's features gives 1e-3.
BAR = 1e-5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("scfoundation")
    genes = root / "genes.txt"
    genes.write_text("".join(f"G{i}\n" for i in range(GENES)))
    return {
        part: convert_part(CHECKPOINT, Options(part=part, genes=genes, output=root / part)).folder
        for part in ("cell", "gene", "rde")
    }


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "scfoundation.npz") as file:
        return dict(file)


def network_of(folder: Path) -> ScFoundation:
    network = load_model(folder).eval()
    assert isinstance(network, ScFoundation)
    return network


def batch_of(recorded: dict[str, np.ndarray], cells: list[int], *, masked: bool = False) -> CellBatch:
    x = torch.from_numpy(recorded["x"])[cells].double()
    values, hidden = x[:, :GENES], torch.zeros(len(cells), GENES, dtype=torch.bool)
    if masked:
        hidden = torch.from_numpy(recorded["masked"])[cells][:, :GENES]
    return CellBatch.from_padded(
        torch.arange(GENES).repeat(len(cells), 1),
        values.masked_fill(hidden, float("nan")),  # a hidden value is never read
        valid=(values > 0) | hidden,
        hidden=hidden,
        read_depth=torch.stack([10 ** x[:, GENES + 1], 10 ** x[:, GENES]], dim=1),
    )


@pytest.mark.parametrize("cells", [[0], [1], [2], [0, 1, 2], [2, 0, 0, 1]], ids=str)
@torch.no_grad()
def test_outputs(folders: dict[str, Path], recorded: dict[str, np.ndarray], cells: list[int]) -> None:
    """One cell at a time or many, in any order."""
    cell, gene = network_of(folders["cell"]), network_of(folders["gene"])
    batch = batch_of(recorded, cells)
    prediction = gene(batch)
    pairs: dict[str, tuple[Tensor, np.ndarray]] = {
        "cell_all": (cell.encode(batch).cell, recorded["cell_all"]),
        "cell_max": (
            ScFoundation.from_pretrained(folders["cell"], pool="max").eval().encode(batch).cell,
            recorded["cell_max"],
        ),
        "expression": (prediction.expression, recorded["expression"][:, :GENES]),
        "gene": (gene.gene_embeddings(batch), recorded["gene"][:, :GENES]),
        "masked": (gene(batch_of(recorded, cells, masked=True)).expression, recorded["masked_expression"][:, :GENES]),
    }
    errors = {name: relative_error(ours, theirs[cells]) for name, (ours, theirs) in pairs.items()}
    assert max(errors.values()) < BAR, errors
    chosen = prediction.expression[batch.cell_of_gene, batch.gene_ids]
    assert torch.equal(prediction.by_gene, chosen)


@torch.no_grad()
def test_official_batches_are_explained(
    folders: dict[str, Path], recorded: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the official code gives for a batch is what one maximum for all its cells gives: we know the difference."""
    gene, batch = network_of(folders["gene"]), batch_of(recorded, [0, 1, 2])
    theirs = recorded["gene_batched"][:, :GENES]
    assert relative_error(gene.gene_embeddings(batch), theirs) > 10 * BAR
    own = favor._features
    monkeypatch.setattr(
        favor, "_features", lambda x, w, *, over: own(x, w, over=(0, 1, 2, 3) if len(over) == 3 else over)
    )
    assert relative_error(gene.gene_embeddings(batch), theirs) < BAR


def test_parts_are_three_networks(folders: dict[str, Path]) -> None:
    """Every number of every part arrives, under the name it came from."""
    for part, folder in folders.items():
        state, tensors = network_of(folder).state_dict(), read_part(CHECKPOINT, part).tensors
        assert {source_name(name) for name in state} == set(tensors)
        assert all(torch.equal(x, tensors[str(source_name(name))]) for name, x in state.items())
    weights = [network_of(folder).gene_emb.weight for folder in folders.values()]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
