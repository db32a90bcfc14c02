"""CellBatch: ragged and padded forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cellfm_torch import CellBatch

# Padding in the middle, at the front, everywhere and nowhere.
VALID = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
IDS = torch.arange(16).view(4, 4) + 100


def padded(**others: Tensor) -> CellBatch:
    return CellBatch.from_padded(IDS, IDS.float() / 7, valid=VALID, **others)


def test_from_padded_drops_padding_and_keeps_the_order() -> None:
    hidden, target = IDS % 2 == 0, IDS % 3 == 0
    depth, labels = torch.rand(4, 2), torch.tensor([3, 1, 0, 2])
    batch = padded(hidden=hidden, target=target, target_values=IDS.float() * 2, read_depth=depth, labels=labels)
    kept = [100, 102, 103, 105, 112, 113, 114, 115]
    assert batch.gene_ids.tolist() == kept and batch.gene_ids.dtype == torch.int64
    assert torch.equal(batch.values, torch.tensor(kept).float() / 7)
    assert batch.hidden.tolist() == [i % 2 == 0 for i in kept]
    assert batch.target is not None and batch.target.tolist() == [i % 3 == 0 for i in kept]
    assert batch.target_values is not None and batch.target_values.tolist() == [2.0 * i for i in kept]
    assert batch.offsets.tolist() == [0, 3, 4, 4, 8] and batch.offsets.dtype == torch.int64
    assert batch.lengths.tolist() == [3, 1, 0, 4]
    assert batch.cell_of_gene.tolist() == [0, 0, 0, 1, 3, 3, 3, 3]
    assert (batch.num_cells, len(batch), batch.num_genes) == (4, 4, 8)
    assert batch.cell_index.tolist() == [0, 1, 2, 3]
    assert batch.read_depth is depth and batch.labels is labels


def test_defaults() -> None:
    batch = padded()
    assert batch.hidden.dtype == torch.bool and not batch.hidden.any()
    assert batch.target is None and batch.target_values is None and batch.read_depth is None and batch.labels is None


def test_ints_and_floats_stand_for_flags() -> None:
    batch = CellBatch.from_padded(IDS.int(), IDS.double(), valid=VALID.float(), hidden=VALID.int(), target=VALID.int())
    assert batch.gene_ids.dtype == torch.int64 and batch.values.dtype == torch.float64
    assert batch.hidden.dtype == torch.bool and batch.hidden.all()
    assert batch.target is not None and batch.target.dtype == torch.bool
    assert batch.padded_mask is not None and batch.padded_mask.dtype == torch.bool


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_to_padded_returns_genes_to_their_places(dtype: torch.dtype) -> None:
    batch = padded()

    def of(ids: Tensor) -> Tensor:  # needs all 53 bits where the dtype has them
        return ((ids % 2 + 1) * (2**52 + 1)).to(dtype)

    x = of(batch.gene_ids)
    back = batch.to_padded(x)
    assert back.dtype == dtype and torch.equal(back, of(IDS).masked_fill(~VALID, 0))
    wide = batch.to_padded(torch.stack([x, x], 1))
    assert wide.shape == (4, 4, 2) and torch.equal(wide[..., 1], back)


def test_to_padded_without_a_mask_aligns_left() -> None:
    batch = CellBatch(
        torch.arange(5) + 1, torch.zeros(5), torch.zeros(5).bool(), torch.tensor([0, 2, 2, 5]), torch.arange(3)
    )
    assert batch.to_padded(batch.gene_ids).tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]


def test_to_padded_passes_gradients() -> None:
    x = torch.randn(8, requires_grad=True)
    padded().to_padded(x).square().sum().backward()
    assert x.grad is not None and torch.equal(x.grad, 2 * x.detach())


@pytest.mark.parametrize("rows", [1, 7, 9])  # one row would be spread over all genes
def test_to_padded_wants_one_row_per_gene(rows: int) -> None:
    with pytest.raises(ValueError, match=f"x has {rows} rows, the batch 8 genes"):
        padded().to_padded(torch.zeros(rows))


def test_no_cells() -> None:
    batch = CellBatch.from_padded(IDS[:0], IDS[:0].float(), valid=VALID[:0])
    assert (batch.num_cells, batch.num_genes, batch.offsets.tolist()) == (0, 0, [0])
    assert batch.cell_of_gene.numel() == 0 and batch.to_padded(torch.zeros(0)).shape == (0, 4)
    batch.padded_mask = None
    assert batch.to_padded(torch.zeros(0)).shape == (0, 0)


@pytest.mark.parametrize("name", ["values", "valid", "hidden", "target", "target_values"])
def test_shapes_that_do_not_fit(name: str) -> None:
    arguments = {"values": IDS.float(), "valid": VALID} | {name: torch.zeros(4, 5)}
    with pytest.raises(ValueError, match=rf"{name} has shape \(4, 5\), gene_ids \(4, 4\)"):
        CellBatch.from_padded(IDS, arguments.pop("values"), **arguments)


def test_rows_that_are_not_one_per_cell() -> None:
    with pytest.raises(ValueError, match=r"read_depth has shape \(4,\), it must be \(4, 2\)"):
        padded(read_depth=torch.zeros(4))
    with pytest.raises(ValueError, match=r"labels has shape \(3,\), it must be \(4,\)"):
        padded(labels=torch.zeros(3))
    with pytest.raises(ValueError, match="must be"):
        CellBatch.from_padded(IDS[0], IDS[0].float(), valid=VALID[0])


def test_to_moves_every_tensor_and_keeps_dtypes() -> None:
    batch = padded(target=VALID, target_values=IDS.double(), read_depth=torch.zeros(4, 2), labels=torch.zeros(4))
    batch.extras["dose"] = torch.ones(4, dtype=torch.float16)
    moved = batch.to("meta", non_blocking=True)
    tensors = {name: x for name, x in vars(moved).items() if isinstance(x, Tensor)} | moved.extras
    assert len(tensors) == 11 and all(x.is_meta for x in tensors.values())
    assert tensors["dose"].dtype == torch.float16 and tensors["target_values"].dtype == torch.float64
    assert not any(x.is_meta for x in (batch.values, batch.extras["dose"]))  # the batch itself stays
    stays = padded().to("cpu")
    assert stays.target is None and torch.equal(stays.values, padded().values)


def test_some_cells_as_a_batch() -> None:
    """In the order asked for, one of them twice, an empty one among them."""
    hidden, depth, labels = IDS % 2 == 0, torch.rand(4, 2), torch.tensor([3, 1, 0, 2])
    batch = padded(hidden=hidden, target=~hidden, target_values=IDS.float(), read_depth=depth, labels=labels)
    batch.extras = {"per_cell": torch.arange(4) * 10, "per_gene": torch.arange(8).view(8, 1)}
    cells = torch.tensor([3, 2, 0, 3])
    rows = [4, 5, 6, 7, 0, 1, 2, 4, 5, 6, 7]
    assert batch.token_rows(cells).tolist() == rows
    part = batch.take(cells)
    assert part.offsets.tolist() == [0, 4, 4, 7, 11] and part.cell_index.tolist() == [3, 2, 0, 3]
    for name in ("gene_ids", "values", "hidden", "target", "target_values"):
        assert torch.equal(getattr(part, name), getattr(batch, name)[rows]), name
    assert part.read_depth is not None and torch.equal(part.read_depth, depth[cells])
    assert part.labels is not None and part.labels.tolist() == [2, 0, 3, 2]
    assert part.extras["per_cell"].tolist() == [30, 20, 0, 30] and part.extras["per_gene"].flatten().tolist() == rows
    # Genes return to the places that they had in padded tensors.
    assert part.padded_mask is not None and torch.equal(part.padded_mask, VALID[cells])
    assert torch.equal(part.to_padded(part.gene_ids), (IDS * VALID)[cells])


@pytest.mark.parametrize("cells", [[], [2], [2, 2]])
def test_no_cells_and_cells_without_genes(cells: list[int]) -> None:
    batch, chosen = padded(), torch.tensor(cells, dtype=torch.int64)
    assert batch.token_rows(chosen).shape == (0,) and batch.token_rows(chosen).dtype == torch.int64
    part = batch.take(chosen)
    assert (part.num_cells, part.num_genes) == (len(cells), 0) and part.offsets.tolist() == [0] * (len(cells) + 1)


def test_all_cells_are_the_batch() -> None:
    batch = padded(labels=torch.arange(4))
    part = batch.take(torch.arange(4))
    for name in ("gene_ids", "values", "hidden", "offsets", "cell_index", "labels", "padded_mask"):
        assert torch.equal(getattr(part, name), getattr(batch, name)), name
    assert part.target is None and part.read_depth is None
