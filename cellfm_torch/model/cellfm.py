"""CellFM: ERetNet over the expressed genes of a cell, on ragged batches.

Shapes: B cells, N genes of all cells together, P prefix tokens per cell, T = N + B P tokens, D width, G vocabulary.

Source: Zeng et al., CellFM, Nature Communications 16 (2025), doi 10.1038/s41467-025-59926-5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from cellfm_torch.batch import CellBatch, InputSpec
from cellfm_torch.data.vocab import bundled_symbols
from cellfm_torch.model.checkpoint import load_folder, save_folder
from cellfm_torch.model.config import CellFMConfig
from cellfm_torch.model.embedder import CellEmbedder
from cellfm_torch.model.expected import expected_expression
from cellfm_torch.model.heads import CellDecoder, GeneDecoder, ScalarEncoder
from cellfm_torch.model.layers import RetentionLayer
from cellfm_torch.model.outputs import Encoding, Prediction
from cellfm_torch.model.pooled import Pooled
from cellfm_torch.ops.layout import Layout
from cellfm_torch.ops.retention import MODES


class CellFM(nn.Module):
    """CellFM (Zeng et al., Nat. Commun. 2025, doi:10.1038/s41467-025-59926-5), useful with or without Lightning.

    Parameters
    ----------
    config
        Sizes and variant; see :class:`CellFMConfig`.
    genes
        Gene symbols in the order of the embedding rows (row i + 1 belongs to ``genes[i]``). Default: the bundled list
        of the same length, where there is one.
    mode
        How retention is computed, see :func:`cellfm_torch.retention`: the numbers are the same.

    Raises
    ------
    ValueError
        If the list's length is not ``config.num_genes``, or there is no such mode.
    """

    def __init__(self, config: CellFMConfig, *, genes: Sequence[str] | None = None, mode: str = "chunked") -> None:
        super().__init__()
        if genes is not None and len(genes) != config.num_genes:
            raise ValueError(f"{len(genes)} gene symbols were given for a model of {config.num_genes} genes")
        self.config = config
        self.genes = tuple(genes) if genes is not None else bundled_symbols(config.num_genes)
        dim = config.dim
        self.gene_emb = nn.utils.skip_init(nn.Embedding, config.num_rows, dim, device=torch.get_default_device())
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.mask_emb = nn.Parameter(torch.empty(1, 1, dim))
        zero_emb = torch.empty(1, 1, dim)
        # Published checkpoints with decoders hold zero_emb whether or not it is used; where it is not, it must not be
        # a parameter without a gradient, which distributed training refuses.
        if config.zeros:
            self.zero_emb = nn.Parameter(zero_emb)
        elif config.decoders:
            self.register_buffer("zero_emb", zero_emb)
        self.value_enc = ScalarEncoder(dim)
        if config.read_depth:
            self.depth_emb = nn.Parameter(torch.empty(1, 2, dim))
            self.depth_enc = ScalarEncoder(dim)
            nn.init.xavier_normal_(self.depth_emb[0], gain=0.5)
        self.encoder = nn.ModuleList(RetentionLayer(config, index=i) for i in range(config.num_layers))
        if config.decoders:
            self.gene_decoder = GeneDecoder(dim, zeros=config.zeros)
            self.cell_decoder = CellDecoder(dim, zeros=config.zeros)
        with torch.no_grad():
            # zero_emb also where it is not used, or the same seed would give other weights to the rest.
            for emb in (self.gene_emb.weight, self.cls_token[0], self.mask_emb[0], zero_emb[0]):
                nn.init.xavier_normal_(emb, gain=0.5)
            self.gene_emb.weight[0] = 0
        self.mode = mode

    @property
    def mode(self) -> str:
        """How retention is computed: ``"chunked"``, ``"parallel"`` or ``"recurrent"``; may be set."""
        return cast(RetentionLayer, self.encoder[0]).retention.mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}")
        for layer in self.encoder:
            cast(RetentionLayer, layer).retention.mode = mode

    @property
    def cell_dim(self) -> int:
        """C, width of ``Encoding.cell``."""
        return self.config.dim

    @property
    def gene_dim(self) -> int:
        """D, width of ``Encoding.genes``."""
        return self.config.dim

    @property
    def static_genes(self) -> Tensor:
        """The embedding of each gene of the vocabulary before any cell, (G, D)."""
        return self.gene_emb.weight[1 : 1 + self.config.num_genes]

    @property
    def num_heads(self) -> int:
        """H, heads of a layer that reads ``Encoding.genes`` as the encoder's own do."""
        return self.config.num_heads

    @property
    def input_spec(self) -> InputSpec:
        """What a data module must prepare for this network."""
        config = self.config
        return InputSpec(
            genes=self.genes,
            first_id=1,
            expressed_only=not config.zeros,
            max_genes=config.max_genes,
            read_depth=config.read_depth,
        )

    def encode(self, batch: CellBatch) -> Encoding:
        """Encode cells.

        Parameters
        ----------
        batch
            `gene_ids` in 1 .. G; `values` are not read where `hidden`. A cell may have no gene at all.

        Returns
        -------
        Encoding
            ``cell`` is the cls token. A cell's numbers do not depend on the other cells of the batch.
        """
        gene_embedding = self.gene_emb(batch.gene_ids)  # (N, D)
        genes = gene_embedding + self._embed_values(batch)
        prefix = self._embed_prefix(batch)  # (B, P, D)
        device, num_cells, num_prefix = genes.device, batch.num_cells, prefix.shape[1]
        offsets = batch.offsets + num_prefix * torch.arange(num_cells + 1, device=device)
        gene_rows = torch.arange(batch.num_genes, device=device) + num_prefix * (batch.cell_of_gene + 1)
        prefix_rows = (offsets[:-1, None] + torch.arange(num_prefix, device=device)).flatten()
        x = genes.new_zeros(batch.num_genes + prefix_rows.numel(), genes.shape[1])
        x = x.index_copy(0, gene_rows, genes).index_copy(0, prefix_rows, prefix.flatten(0, 1))  # (T, D)
        # Masked genes enter no state in the first half of the layers, so that nothing is learned from their presence.
        visible = x.new_ones(len(x), 1).index_copy(0, gene_rows, (~batch.hidden).to(x.dtype)[:, None])
        layout = Layout.of(offsets)  # once: it waits for the device
        for i, layer in enumerate(self.encoder):
            x = layer(x, offsets=layout, keep=visible if i < self.config.num_layers // 2 else None)
        prefix = x.index_select(0, prefix_rows).unflatten(0, (num_cells, num_prefix))
        return Encoding(
            cell=prefix[:, 0],
            genes=x.index_select(0, gene_rows),
            prefix=prefix,
            gene_embedding=gene_embedding,
        )

    def forward(self, batch: CellBatch, *, targets_only: bool = False) -> Prediction:
        """Encode cells and decode the value of genes, by gene and by cell.

        Without decoders (see :class:`CellFMConfig`) there is the encoding only.

        Parameters
        ----------
        batch
            As for :meth:`encode`.
        targets_only
            Decode the genes of ``batch.target`` and no others, for a loss that asks for no more. With `zeros` it asks
            for all of them.
        """
        encoding = self.encode(batch)
        if not self.config.decoders:
            return Prediction(None, None, None, None, None, encoding)
        genes, gene_embedding, cell_of_gene, rows = encoding.genes, encoding.gene_embedding, batch.cell_of_gene, None
        if targets_only and batch.target is not None and not self.config.zeros:
            rows = batch.target.nonzero()[:, 0]
            genes, gene_embedding, cell_of_gene = genes[rows], gene_embedding[rows], cell_of_gene[rows]
        by_gene, expressed_by_gene = self.gene_decoder(genes)
        cell = encoding.cell.index_select(0, cell_of_gene)
        by_cell, expressed_by_cell = self.cell_decoder(gene_embedding, cell)
        return Prediction(by_gene, by_cell, expressed_by_gene, expressed_by_cell, None, encoding, rows)

    def _embed_values(self, batch: CellBatch) -> Tensor:
        """Embed each gene's value, or the fact that it is hidden or zero: (N, D)."""
        # A hidden value may be anything, NaN included: it is replaced before any arithmetic touches it.
        embedded = self.embed_visible(batch.values.masked_fill(batch.hidden, 0))
        return torch.where(batch.hidden[:, None], self.mask_emb[0].to(embedded.dtype), embedded)

    def embed_visible(self, values: Tensor) -> Tensor:
        """Embed values (N,) that are not hidden: (N, D)."""
        values = values.to(self.cls_token.dtype)
        embedded: Tensor = self.value_enc(values)
        if self.config.zeros:
            embedded = torch.where((values == 0)[:, None], self.zero_emb[0].to(embedded.dtype), embedded)
        return embedded

    def _embed_prefix(self, batch: CellBatch) -> Tensor:
        """Prefix tokens (B, P, D): cls, then S and T where the batch has read depths and the model reads them."""
        prefix = self.cls_token.expand(batch.num_cells, 1, -1)
        if not self.config.read_depth or batch.read_depth is None:
            return prefix
        # In float32 at least: a read depth above 65,504 is infinite in float16.
        depth = batch.read_depth.to(torch.promote_types(prefix.dtype, torch.float32))
        depth = torch.log1p(depth / 1000).to(prefix.dtype)  # (B, 2)
        return torch.cat([prefix, self.depth_emb + self.depth_enc(depth)], dim=1)

    def embedder(self, *, int8: bool = False) -> CellEmbedder:
        """Return a function from batches to cell embeddings (B, D): those of :meth:`encode`, faster.

        It keeps what the first layer makes of each gene that occurs (4 D numbers per gene) and leaves out what cls
        does not read. Equal to ``encode(batch).cell`` in evaluation mode up to rounding; no gradients.

        Parameters
        ----------
        int8
            Multiply in 8-bit integers where tokens are many: about twice as fast, and no longer exact.

        Raises
        ------
        UserError
            For int8 on a processor without VNNI, or on a GPU.
        """
        return CellEmbedder(self, int8=int8)

    def outputs(self) -> dict[str, Callable[[CellBatch], Tensor]]:
        """Return functions from batches to what the network gives for each cell, (B, D) each. No gradients.

        ``"cell"`` is the cls token; for the others see :meth:`~cellfm_torch.model.pooled.Pooled.outputs`. Networks with
        ``zeros`` also have ``"expression"`` (B, G), see :func:`~cellfm_torch.model.expected.expected_expression`.
        """
        found: dict[str, Callable[[CellBatch], Tensor]] = {"cell": self.embedder(), **Pooled(self).outputs()}
        if self.config.decoders and self.config.zeros:
            found["expression"] = lambda batch: expected_expression(self, batch)
        return found

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
    def from_pretrained(cls, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> CellFM:
        """Load a folder that :meth:`save_pretrained` or the converter wrote.

        Parameters
        ----------
        folder
            Holds config.json, model.safetensors and genes.txt.
        dtype
            Of the loaded weights, whatever they are stored in.

        Raises
        ------
        UserError
            If a file is missing or damaged, or a tensor is missing, unknown or of another shape.
        """
        return load_folder(cls, CellFMConfig, folder, dtype=dtype)
