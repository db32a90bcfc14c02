"""What perturbed genes do to the expression of a cell: a head on the gene tokens of control cells.

Shapes: B control cells, N gene tokens of all of them, R genes that are read out, U genes that are perturbed in a call,
M conditions (sets of perturbed genes), P genes with a learned token of their own, V genes of the vocabulary, D width of
a gene token, C width of a cell embedding, W width of the state, K graphs of E neighbours.

Source: the task is that of CellFM with GEARS (Nat. Commun. 16, 2025; Roohani et al., Nat. Biotechnol. 2023): tokens of
a control cell, marked perturbed genes, a decoder per gene. The form is ours: effects of genes add up, and what does not
add up is learned apart, since additive models are hard to beat (Ahlmann-Eltze et al., Nat. Methods 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from cellfm_torch.batch import CellBatch
from cellfm_torch.model.cell_types import CrossRetention, layer_config, repeated
from cellfm_torch.model.gene_graph import GeneMessages
from cellfm_torch.model.layers import GatedLinearUnit
from cellfm_torch.model.outputs import Encoding
from cellfm_torch.ops.layout import Layout
from cellfm_torch.ops.linear import Dense

START_STD = 0.02


@dataclass(frozen=True)
class GeneTables:
    """Which genes a head knows, and what is known of them.

    Attributes
    ----------
    readout : (R,) int64
        Genes whose expression is predicted, as positions in the vocabulary.
    learned : (P,) int64
        Genes that were perturbed in training.
    common : (R,)
        Mean effect of a gene that was perturbed in training: what is said of one of which nothing is known.
    measured : (P, R)
        Effects measured of single perturbations in training; zero where there is none.
    trust : (P, R)
        Weight of the measured effect of each gene against the network's, 0 where there is none.
    readout_neighbours, perturbed_neighbours : (K, R, E) and (K, V, E) int64
        Rows of `readout` and of `learned` that each gene hears from; -1 for none.
    readout_weights, perturbed_weights : (K, R, E) and (K, V, E)
    """

    readout: Tensor
    learned: Tensor
    common: Tensor
    measured: Tensor
    trust: Tensor
    readout_neighbours: Tensor
    readout_weights: Tensor
    perturbed_neighbours: Tensor
    perturbed_weights: Tensor


class StateReader(nn.Module):
    """Perturbed genes read the tokens of the cell by retention, then a gated unit; a norm after each."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        config = layer_config(width, num_heads, num_layers=1)
        self.retention = CrossRetention(config)
        self.norm1 = nn.LayerNorm(width)
        self.glu = GatedLinearUnit(config)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, genes: Tensor, layout: Layout) -> Tensor:
        """Map perturbed genes of each cell (B, U, W) and the cells' tokens (N, W) to states (B, U, W)."""
        q_layout = repeated(len(x), x.shape[1], x.device)
        flat = x.flatten(0, 1)
        flat = self.norm1(flat + self.retention(flat, genes, layout=layout, q_layout=q_layout))
        out: Tensor = self.norm2(flat + self.glu(flat))
        return out.view(x.shape)


class PerturbationHead(nn.Module):
    """Change of the expression of control cells when genes are perturbed, (B, M, R) in log1p(CP10K).

    The effect of a set of genes is the sum of theirs, plus an interaction that two or more have. That of a gene is

    * its measured effect, where it was measured alone, weighted by the cells that were measured;
    * for the rest the common effect of all, and a product of two learned vectors: of each read-out gene in the cell
      (its static embedding, its token in the cell where it is expressed, the cell's embedding), and of the cross-gene
      state, which the perturbed gene's marked token reads by retention from all tokens of the cell;
    * for its own expression a line in what it was.

    Before training the head says the common effect for each gene. No gene perturbed: no change, always.

    Parameters
    ----------
    tables
        Genes.
    num_genes
        V.
    gene_dim, cell_dim, static_dim
        D, C, and the width of the static embedding.
    width, num_heads
        W and the heads of retention.
    id_dropout
        Share of steps in which a trained gene is taken for one never seen.
    """

    def __init__(
        self,
        tables: GeneTables,
        *,
        num_genes: int,
        gene_dim: int,
        cell_dim: int,
        static_dim: int,
        width: int = 64,
        num_heads: int = 4,
        id_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        for name, value in vars(tables).items():
            self.register_buffer(name, value.clone())
        row = torch.full((num_genes,), -1, dtype=torch.int64)
        row[tables.learned] = torch.arange(len(tables.learned))
        self.register_buffer("row_of", row, persistent=False)
        self.width, self.id_dropout = width, id_dropout
        self.num_heads = num_heads
        self.static_norm = nn.LayerNorm(static_dim, elementwise_affine=False)
        self.gene_norm = nn.LayerNorm(gene_dim, elementwise_affine=False)
        self.cell_norm = nn.LayerNorm(cell_dim, elementwise_affine=False)
        self.of_token = Dense(gene_dim, width, bias=False)
        self.of_cell = Dense(cell_dim, width, bias=False)
        self.of_static = Dense(static_dim, width, bias=True)
        self.of_perturbed = Dense(static_dim, width, bias=True)
        self.readout_emb = nn.Parameter(torch.randn(len(tables.readout), width) * START_STD)
        self.perturbed_emb = nn.Parameter(torch.randn(len(tables.learned), width) * START_STD)
        self.mark = nn.Parameter(torch.randn(width) * START_STD)
        graphs = len(tables.readout_neighbours)
        self.readout_messages = nn.ModuleList(GeneMessages(width) for _ in range(graphs))
        self.perturbed_messages = nn.ModuleList(GeneMessages(width) for _ in range(graphs))
        self.reader = StateReader(width, num_heads)
        self.readout_norm = nn.LayerNorm(width)
        self.direction = Dense(width, width, bias=False)
        self.strength = Dense(width, 1, bias=False)
        self.pair = nn.Sequential(Dense(2 * width, 2 * width, bias=True), nn.GELU(), Dense(2 * width, width, bias=True))
        self.own = nn.Parameter(torch.zeros(2))
        for layer in (self.direction, self.strength, self.pair[2]):
            for p in layer.parameters():
                nn.init.zeros_(p)

    @property
    def num_readout(self) -> int:
        """R."""
        return len(cast(Tensor, self.readout))

    def forward(
        self,
        encoding: Encoding,
        batch: CellBatch,
        static: Tensor,
        *,
        first_id: int,
        genes: Tensor,
        members: Tensor,
        forget: Tensor | None = None,
    ) -> Tensor:
        """Return the change of each read-out gene in each cell under each condition, (B, M, R).

        Parameters
        ----------
        encoding, batch
            Of control cells.
        static : (V, static width)
            The backbone's static embedding of genes.
        first_id
            Id of the vocabulary's first gene.
        genes : (U,) int64
            Perturbed genes, as positions in the vocabulary.
        members : (M, U) bool
            Which of them each condition perturbs.
        forget : (M, U) bool, optional
            Where not to use a measured effect.
        """
        if not len(genes):
            return encoding.cell.new_zeros(batch.num_cells, len(members), self.num_readout)
        table = cast(Any, self)
        among = members.to(encoding.genes.dtype)
        tokens = self.of_token(self.gene_norm(encoding.genes))  # (N, W)
        padded = torch.cat([tokens, tokens.new_zeros(1, self.width)])
        at = _token_rows(batch, first_id, len(static))  # (B, V), the last row where there is no token
        learned: Tensor = self.perturbed_emb
        if self.training and self.id_dropout:
            learned = learned * (torch.rand(len(learned), 1, device=learned.device) >= self.id_dropout)
        marked = self._perturbed(static, genes, learned)
        states = self.reader(marked + padded[at[:, genes]], tokens, Layout.of(batch.offsets))  # (B, U, W)

        readout = self._readout(static, padded, at, self.of_cell(self.cell_norm(encoding.cell)))  # (B, R, W)
        scaled = readout * self.width**-0.5
        alone = torch.einsum("brw,buw->bur", scaled, self.direction(states))
        alone = alone + (1 + self.strength(states)) * table.common + self._own_change(batch, at, genes)

        measured, trust = self._measured(genes)  # (U, R)
        used = among if forget is None else among * ~forget
        change = torch.einsum("mu,bur->bmr", among, alone)
        # Where an effect was measured, it takes the network's place by as much as it is trusted.
        change = change + torch.einsum("mu,bur->bmr", used, trust * (measured - alone))
        several = members.sum(1)[:, None] > 1
        together = torch.where(several, self._interaction(states, among), 0)  # (B, M, W)
        return change + torch.einsum("brw,bmw->bmr", scaled, together)

    def _perturbed(self, static: Tensor, genes: Tensor, learned: Tensor) -> Tensor:
        """Return the marked tokens of perturbed genes before any cell, (U, W)."""
        table = cast(Any, self)
        rows = table.row_of[genes]
        own = torch.where((rows >= 0)[:, None], learned[rows.clamp_min(0)], 0)
        x = self.of_perturbed(self.static_norm(static[genes])) + self.mark + own
        if len(self.perturbed_messages) and len(learned):
            senders = self.of_perturbed(self.static_norm(static[table.learned])) + self.perturbed_emb
            for i, messages in enumerate(self.perturbed_messages):
                neighbours, weights = table.perturbed_neighbours[i][genes], table.perturbed_weights[i][genes]
                x = messages(x, senders, neighbours, weights)
        return x

    def _readout(self, static: Tensor, padded: Tensor, at: Tensor, cell: Tensor) -> Tensor:
        """Return the vectors of the read-out genes in each cell, (B, R, W)."""
        table = cast(Any, self)
        x = self.of_static(self.static_norm(static[table.readout])) + self.readout_emb
        for i, messages in enumerate(self.readout_messages):
            x = messages(x, x, table.readout_neighbours[i], table.readout_weights[i])
        out: Tensor = self.readout_norm(x + padded[at[:, table.readout]] + cell[:, None])
        return out

    def _interaction(self, states: Tensor, among: Tensor) -> Tensor:
        """Return what the genes of each condition do beyond their sum, (B, M, W); symmetric in the genes."""
        total = torch.einsum("mu,buw->bmw", among, states)
        squares = torch.einsum("mu,buw->bmw", among, states.square())
        out: Tensor = self.pair(torch.cat([total, (total.square() - squares) / 2], dim=-1))
        return out

    def _measured(self, genes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the measured effects of genes and how far they are trusted, (U, R) each."""
        table = cast(Any, self)
        rows = table.row_of[genes]
        there = (rows >= 0)[:, None]
        return table.measured[rows.clamp_min(0)], torch.where(there, table.trust[rows.clamp_min(0)], 0)

    def _own_change(self, batch: CellBatch, at: Tensor, genes: Tensor) -> Tensor:
        """Return what perturbing a gene does to its own expression, (B, U, R): a line in what it was."""
        table = cast(Any, self)
        values = torch.cat([batch.values, batch.values.new_zeros(1)])[at[:, genes]].to(self.own.dtype)  # (B, U)
        line = self.own[0] + self.own[1] * values
        same = table.readout[None, :] == genes[:, None]  # (U, R)
        return line[..., None] * same


def _token_rows(batch: CellBatch, first_id: int, num_genes: int) -> Tensor:
    """Return the token of each gene of the vocabulary in each cell, (B, V); N where the cell has none."""
    at = torch.full((batch.num_cells, num_genes), batch.num_genes, device=batch.gene_ids.device)
    at[batch.cell_of_gene, batch.gene_ids - first_id] = torch.arange(batch.num_genes, device=at.device)
    return at
