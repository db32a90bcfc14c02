"""scFoundation on ragged batches: the encoder sees what is expressed, the decoder every gene.

Shapes: B cells, N genes of all cells together, V <= N visible ones, T = V + 2 B tokens of the encoder, G genes of the
vocabulary, D width of the encoder, E of the decoder.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cellfm_torch.batch import CellBatch, InputSpec
from cellfm_torch.data.vocab import bundled_symbols
from cellfm_torch.errors import UserError
from cellfm_torch.model.checkpoint import load_folder, save_folder
from cellfm_torch.model.outputs import Encoding, Prediction
from cellfm_torch.model.scfoundation.config import PRETRAINING, ScFoundationConfig
from cellfm_torch.model.scfoundation.decoder import Decoder
from cellfm_torch.model.scfoundation.decoding import decoded
from cellfm_torch.model.scfoundation.embedder import CellEmbedder, outputs
from cellfm_torch.model.scfoundation.encoder import Encoder
from cellfm_torch.model.scfoundation.tokens import Tokens, pool, warn_of_empty
from cellfm_torch.model.scfoundation.values import ValueEncoder
from cellfm_torch.ops.linear import Dense


class ScFoundation(nn.Module):
    """scFoundation (Hao et al., Nat. Methods 2024, doi:10.1038/s41592-024-02305-7), with or without Lightning.

    A cell's numbers do not depend on the other cells of the batch.

    Parameters
    ----------
    config
        Sizes; see :class:`ScFoundationConfig`.
    genes
        Gene symbols in the order of the embedding rows (row i belongs to ``genes[i]``). Default: the bundled list of
        the same length, where there is one.

    Raises
    ------
    ValueError
        If the list's length is not ``config.num_genes``.
    """

    def __init__(self, config: ScFoundationConfig, *, genes: Sequence[str] | None = None) -> None:
        super().__init__()
        if genes is not None and len(genes) != config.num_genes:
            raise ValueError(f"{len(genes)} gene symbols were given for a model of {config.num_genes} genes")
        self.config = config
        self.genes = tuple(genes) if genes is not None else bundled_symbols(config.num_genes)
        dim = config.encoder_dim
        self.gene_emb = nn.Embedding(config.num_genes + 3, dim)  # of the last three, T, S, and padding: never read
        self.value_enc = ValueEncoder(num_bins=config.num_bins, dim=dim, alpha=config.bin_alpha)
        self.encoder = Encoder(config)
        self.to_decoder = Dense(dim, config.decoder_dim)
        self.decoder = Decoder(config)
        self.norm = nn.LayerNorm(config.decoder_dim)
        self.head = Dense(config.decoder_dim, 1)

    @property
    def cell_dim(self) -> int:
        """C, width of ``Encoding.cell``."""
        return self.config.encoder_dim * (4 if self.config.pool == "all" else 1)

    @property
    def gene_dim(self) -> int:
        """D, width of ``Encoding.genes``."""
        return self.config.encoder_dim

    @property
    def static_genes(self) -> Tensor:
        """The embedding of each gene of the vocabulary before any cell, (G, D)."""
        return self.gene_emb.weight[: self.config.num_genes]

    @property
    def num_heads(self) -> int:
        """Heads of a layer that reads ``Encoding.genes`` as the encoder's own do."""
        return self.config.encoder_heads

    @property
    def input_spec(self) -> InputSpec:
        """What a data module must prepare for this network."""
        return InputSpec(
            genes=self.genes,
            first_id=0,
            max_genes=None,
            read_depth=True,
            most_counts=math.inf,
            target_depth="t4",
            masking=PRETRAINING,
        )

    def encode(self, batch: CellBatch) -> Encoding:
        """Encode cells.

        Parameters
        ----------
        batch
            `gene_ids` in 0 .. G - 1; `values` are not read where `hidden`. `read_depth`: raw totals, S of the input
            and T of the target; the network takes their decimal logarithms (a total below 1 counts as 1).

        Returns
        -------
        Encoding
            ``cell``: see ``config.pool``. ``prefix``: S, then T. ``genes``: of genes that are hidden or not expressed,
            which the encoder does not see, the embedding of that fact, as the decoder gets it. The cell embedding of a
            cell without expressed genes, of which a warning tells, has zeros for their maximum and mean.

        Raises
        ------
        UserError
            If the batch has no read depths.
        ValueError
            If a gene id is none of the model's.
        """
        tokens = self.tokens(batch)
        x = self.encoder(tokens.x, lengths=tokens.lengths)
        encoded = x.index_select(0, tokens.gene_rows)
        prefix = x.index_select(0, tokens.prefix_rows).unflatten(0, (batch.num_cells, 2))
        genes = encoded
        if len(tokens.shown) < batch.num_genes:
            zero, mask = self.value_enc(encoded.new_zeros(1)), self.value_enc.mask_emb
            unseen = torch.where(batch.hidden[:, None], mask.to(encoded.dtype), zero.to(encoded.dtype))
            genes = unseen.index_copy(0, tokens.shown, encoded)
        return Encoding(pool(x, tokens.lengths, self.config.pool), genes, prefix, tokens.gene_embedding)

    def tokens(self, batch: CellBatch) -> Tokens:
        """Return what the encoder reads; arguments and errors as of :meth:`encode`."""
        gene_embedding = self._gene_rows(batch.gene_ids)
        # A hidden value may be anything, NaN included: it is replaced before any arithmetic touches it.
        values = batch.values.to(self.gene_emb.weight.dtype).masked_fill(batch.hidden, 0)
        shown = (values > 0).nonzero()[:, 0]
        prefix = self._embed_prefix(batch)  # (B, 2, D)
        cell_of_gene = batch.cell_of_gene[shown]
        number = torch.bincount(cell_of_gene, minlength=batch.num_cells) + 2
        lengths = number.tolist()
        warn_of_empty(lengths)
        # S and T stand before the genes of their cell.
        starts = number.cumsum(0) - number
        gene_rows = torch.arange(len(shown), device=shown.device) + 2 * (cell_of_gene + 1)
        prefix_rows = (starts[:, None] + torch.arange(2, device=shown.device)).flatten()
        embedded = gene_embedding[shown] + self.value_enc(values[shown])
        x = embedded.new_empty(len(shown) + len(prefix_rows), embedded.shape[1])
        x.index_copy_(0, gene_rows, embedded).index_copy_(0, prefix_rows, prefix.flatten(0, 1).to(x.dtype))
        return Tokens(x, lengths, gene_rows, prefix_rows, shown, gene_embedding)

    def forward(self, batch: CellBatch, *, targets_only: bool = False) -> Prediction:
        """Encode cells and decode the value of every gene of the vocabulary, log1p(CP10K).

        Parameters
        ----------
        batch
            As for :meth:`encode`. Genes it does not list are not expressed.
        targets_only
            Give ``by_gene`` for the genes of ``batch.target`` and no others.
        """
        encoding = self.encode(batch)
        expression = decoded(self, batch, encoding, lambda x: self.head(x)[..., 0])  # (B, G)
        rows = batch.target.nonzero()[:, 0] if targets_only and batch.target is not None else None
        cells, ids = batch.cell_of_gene, batch.gene_ids
        by_gene = expression[cells, ids] if rows is None else expression[cells[rows], ids[rows]]
        return Prediction(by_gene, None, None, None, expression, encoding, rows)

    def gene_embeddings(self, batch: CellBatch) -> Tensor:
        """Return what the head reads, (B, G, E): an embedding of every gene in the context of each cell.

        At the published size these are 39.5 MB per cell.
        """
        return decoded(self, batch, self.encode(batch), lambda x: x)

    def embedder(self, *, int8: bool = False) -> CellEmbedder:
        """Return a function from batches to cell embeddings (B, C): those of :meth:`encode`, faster on a CPU.

        Equal to ``encode(batch).cell`` in evaluation mode up to rounding; no gradients.

        Raises
        ------
        UserError
            For int8, which only CellFM has.
        """
        if int8:
            raise UserError("scFoundation has no 8-bit embedding: leave int8 out")
        return CellEmbedder(self)

    def outputs(self) -> dict[str, Callable[[CellBatch], Tensor]]:
        """Return functions from batches to what the network gives for each cell, without gradients.

        ``"cell"`` (B, C), ``"max"`` (B, D): the maximum over all tokens, ``"gene"`` (B, G, E), ``"expression"`` (B, G).
        """
        return outputs(self)

    def _gene_rows(self, ids: Tensor) -> Tensor:
        """Return the rows of the gene embedding (N, D)."""
        last = self.config.num_genes - 1
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) <= last:  # T's and S's rows would answer too
            raise ValueError(f"gene ids are {int(ids.min())} to {int(ids.max())}, this network has rows 0 to {last}")
        embedded: Tensor = self.gene_emb(ids)
        return embedded

    def _embed_prefix(self, batch: CellBatch) -> Tensor:
        """Embed S and T, (B, 2, D)."""
        if batch.read_depth is None:
            raise UserError(
                "scFoundation reads the total counts of each cell: give the batch read_depth, (cells, 2), the "
                "totals of the input and of the target"
            )
        weight = self.gene_emb.weight
        # In float32 at least: a read depth above 65,504 is infinite in float16.
        depth = batch.read_depth.to(torch.promote_types(weight.dtype, torch.float32)).clamp_min(1).log10()
        first = self.config.num_genes
        return torch.stack([weight[first + 1], weight[first]]) + self.value_enc(depth.to(weight.dtype))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and genes.txt, each beside and renamed.

        Beside them, where there is none, a model card to be completed: README.md.

        Raises
        ------
        ValueError
            If the network does not know its genes.
        """
        save_folder(self, folder)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, pool: str | None = None
    ) -> ScFoundation:
        """Load a folder that :meth:`save_pretrained` or the converter wrote.

        Parameters
        ----------
        folder
            Holds config.json, model.safetensors and genes.txt.
        dtype
            Of the loaded weights, whatever they are stored in.
        pool
            Another cell embedding than config.json names: ``"all"`` or ``"max"``.

        Raises
        ------
        UserError
            If a file is missing or damaged, or a tensor is missing, unknown or of another shape.
        """
        network = load_folder(cls, ScFoundationConfig, folder, dtype=dtype)
        if pool is not None:
            network.config = dataclasses.replace(network.config, pool=pool)
        return network
