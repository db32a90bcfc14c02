"""The cells and the network a benchmark works on.

Shapes: B cells, N genes of all cells together, L gene tokens of a padded cell.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence

import torch

from benchmarks.settings import Settings
from cellfm_torch import CellBatch, CellDataModule, CellFM, CellFMConfig, ScFoundation
from cellfm_torch.model.embedder import CellEmbedder
from cellfm_torch.paths import PBMC3K


def network_of(settings: Settings) -> CellFM:
    """Build the network with random weights from the seed."""
    torch.manual_seed(settings.seed)
    network = CellFM(CellFMConfig.preset(settings.model))
    # mask_emb and the like start small; a slope of nought would hide the read-depth encoder's skip path.
    with torch.no_grad():
        for encoder in (network.value_enc, getattr(network, "depth_enc", None)):
            if encoder is not None:
                encoder.a.fill_(0.3)
    return network.to(settings.device)


def batches_of(network: CellFM | ScFoundation, settings: Settings, *, training: bool) -> list[CellBatch]:
    """Read PBMC3k as the model's vocabulary maps it: all cells in order, or shuffled ones with targets."""
    with contextlib.redirect_stdout(io.StringIO()):  # the report of the cells kept is no part of the result
        module = CellDataModule(
            PBMC3K, input_spec=network.input_spec, token_budget=settings.token_budget, seed=settings.seed
        )
        loader = module.train_dataloader() if training else module.predict_dataloader()
        batches, left = [], settings.cells
        for batch in loader:
            batch = batch if left is None else first_cells(batch, left)
            batches.append(batch.to(settings.device))
            if left is not None:
                left -= batch.num_cells
                if left <= 0:
                    break
    return batches


def pick(batch: CellBatch, first: int, end: int) -> CellBatch:
    """Return the cells first:end of a batch."""
    genes = slice(int(batch.offsets[first]), int(batch.offsets[end]))

    def some(x: torch.Tensor | None, where: slice) -> torch.Tensor | None:
        return None if x is None else x[where]

    cells = slice(first, end)
    return CellBatch(
        gene_ids=batch.gene_ids[genes],
        values=batch.values[genes],
        hidden=batch.hidden[genes],
        offsets=batch.offsets[first : end + 1] - batch.offsets[first],
        cell_index=batch.cell_index[cells],
        target=some(batch.target, genes),
        target_values=some(batch.target_values, genes),
        read_depth=some(batch.read_depth, cells),
    )


def first_cells(batch: CellBatch, number: int) -> CellBatch:
    return pick(batch, 0, min(number, batch.num_cells))


def padded_cells(batch: CellBatch, length: int) -> CellBatch:
    """Fill each cell up with hidden tokens of gene row 0: the arithmetic of a padded batch, not its numbers."""
    parts = []
    for i in range(batch.num_cells):
        one = pick(batch, i, i + 1)
        more = max(0, length - one.num_genes)
        parts.append(
            dataclasses.replace(
                one,
                offsets=one.offsets.new_tensor([0, one.num_genes + more]),
                gene_ids=torch.cat([one.gene_ids, one.gene_ids.new_zeros(more)]),
                values=torch.cat([one.values, one.values.new_zeros(more)]),
                hidden=torch.cat([one.hidden, one.hidden.new_ones(more)]),
                target=None if one.target is None else torch.cat([one.target, one.target.new_zeros(more)]),
                target_values=None
                if one.target_values is None
                else torch.cat([one.target_values, one.target_values.new_zeros(more)]),
            )
        )
    return join(parts)


def join(parts: Sequence[CellBatch]) -> CellBatch:
    """Lay the cells of several batches end to end."""

    def cat(name: str) -> torch.Tensor | None:
        tensors = [getattr(part, name) for part in parts]
        return None if tensors[0] is None else torch.cat(tensors)

    lengths = torch.cat([part.lengths for part in parts])
    fields = ("gene_ids", "values", "hidden", "cell_index", "target", "target_values", "read_depth")
    found = {name: cat(name) for name in fields}
    return CellBatch(offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), **found)  # type: ignore[arg-type]


def synthetic(lengths: Sequence[int], *, num_genes: int, seed: int = 0, device: str = "cpu") -> CellBatch:
    """Make cells of given lengths; gene ids are drawn with replacement, so that a cell may be longer than the list."""
    rng = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    # Values as of counts: few distinct ones per cell.
    depth = torch.randint(2000, 6000, (len(lengths),), generator=rng)
    counts = torch.empty(total).exponential_(0.7, generator=rng).floor() + 1
    values = torch.log1p(counts / depth.repeat_interleave(torch.tensor(lengths)) * 1e4)
    target = torch.rand(total, generator=rng) < 0.2
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return CellBatch(
        gene_ids=torch.randint(1, num_genes + 1, (total,), generator=rng),
        values=values,
        hidden=target & (torch.rand(total, generator=rng) < 0.8),
        offsets=offsets,
        cell_index=torch.arange(len(lengths)),
        target=target,
        target_values=values.clone(),
        read_depth=depth[:, None].expand(-1, 2).float(),
    ).to(device)


def visible(batch: CellBatch) -> CellBatch:
    """Return the batch as inference sees it: nothing hidden, no targets."""
    return dataclasses.replace(batch, hidden=torch.zeros_like(batch.hidden), target=None, target_values=None)


def fill_tables(embedder: CellEmbedder, gene_ids: torch.Tensor, batch: CellBatch) -> None:
    """Make the tables of these genes, which an embedder does as it first sees them, a few at a time.

    Parameters
    ----------
    batch
        Any, of which one cell is embedded.
    """
    embedder(first_cells(batch, 1))
    with torch.inference_mode():
        for some in gene_ids.unique().split(1024):
            embedder.table.fill(some)


def num_tokens(network: CellFM, batch: CellBatch) -> int:
    """Count real tokens: genes and prefix."""
    return batch.num_genes + batch.num_cells * (3 if network.config.read_depth else 1)


def operations_per_token(config: CellFMConfig) -> float:
    """Arithmetic of a token's way through all layers, forward: 16 D^2 + 4 D K each."""
    return config.num_layers * (16 * config.dim**2 + 4 * config.dim * config.head_dim)
