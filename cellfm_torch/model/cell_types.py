"""Heads that tell cell types: learned cluster embeddings, one per class, that query the genes of a cell.

Shapes: B cells, N genes of all cells together, C classes, D width of a gene token, E width of the cell embedding,
H heads, K head dim.

Source: Zeng et al., CellFM, Nature Communications 16 (2025), doi 10.1038/s41467-025-59926-5.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.batch import CellBatch
from cellfm_torch.model.config import CellFMConfig
from cellfm_torch.model.layers import LEAKY_SLOPE, NORM_EPS, GatedLinearUnit, Retention, linear, project
from cellfm_torch.model.outputs import Encoding
from cellfm_torch.ops.layout import Layout


def layer_config(dim: int, num_heads: int, *, num_layers: int, lora_rank: int = 0) -> CellFMConfig:
    """Return the sizes of query layers; their gains at the start follow from how many there are."""
    return CellFMConfig(num_layers=num_layers, dim=dim, num_heads=num_heads, num_genes=1, lora_rank=lora_rank)


def repeated(num_cells: int, tokens: int, device: torch.device) -> Layout:
    """Return the layout of the same number of tokens in every cell."""
    bounds = range(0, num_cells * tokens + 1, tokens)
    return Layout(torch.arange(num_cells + 1, device=device) * tokens, tuple(bounds))


class CrossRetention(Retention):
    """Retention whose queries and gates are other tokens than its keys and values."""

    def forward(  # type: ignore[override]
        self, x: Tensor, genes: Tensor, *, layout: Layout, q_layout: Layout
    ) -> Tensor:
        """Let queries gather from the genes of their cell.

        Parameters
        ----------
        x : (M, D)
            Queries: those of each cell, or, fewer, the same ones for every cell.
        genes : (N, D)
        layout, q_layout
            Where the genes and the queries of each cell are.

        Returns
        -------
        (q_layout.num_tokens, D)
        """
        q, u = project(x, self.q_proj, self.u_proj)
        k, v = project(genes, self.k_proj, self.v_proj)
        q, k, v = (rearrange(y, "t (h k) -> t h k", h=self.num_heads) for y in (F.relu(q), F.relu(k), v))
        if len(x) < q_layout.num_tokens:
            times = q_layout.num_tokens // len(x)
            q, u = q.repeat(times, 1, 1), u.repeat(times, 1)
        return self.merge(self.mix(q, k, v, layout, q_layout), u)


class QueryLayer(nn.Module):
    """Clusters read the genes of a cell, then a GLU; residuals of weight 1, a norm after each."""

    def __init__(self, config: CellFMConfig) -> None:
        super().__init__()
        self.retention = CrossRetention(config)
        self.norm1 = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.glu = GatedLinearUnit(config)
        self.norm2 = nn.LayerNorm(config.dim, eps=NORM_EPS)

    def forward(self, clusters: Tensor, genes: Tensor, *, layout: Layout, q_layout: Layout) -> Tensor:
        """Map clusters (C, D) and genes (N, D) to clusters of each cell, (B C, D)."""
        read = self.retention(clusters, genes, layout=layout, q_layout=q_layout)
        x = self.norm1(clusters.repeat(layout.num_cells, 1) + read)
        out: Tensor = self.norm2(x + self.glu(x))
        return out


class CrossQueryLayer(nn.Module):
    """Queries of a cell see each other, then its genes, then a GLU; plain residuals, a norm after each."""

    def __init__(self, config: CellFMConfig) -> None:
        super().__init__()
        self.self_retention = Retention(config)
        self.norm1 = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.cross_retention = CrossRetention(config)
        self.norm2 = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.glu = GatedLinearUnit(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=NORM_EPS)

    def forward(self, x: Tensor, genes: Tensor, *, layout: Layout, q_layout: Layout) -> Tensor:
        """Map queries (M, D) of all cells to (M, D)."""
        x = self.norm1(x + self.self_retention(x, offsets=q_layout))
        x = self.norm2(x + self.cross_retention(x, genes, layout=layout, q_layout=q_layout))
        out: Tensor = self.norm3(x + self.glu(x))
        return out


class _ClusterHead(nn.Module):
    """What both heads have: an embedding per class, and a classifier of what it has read."""

    def __init__(self, num_classes: int, *, dim: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: a head tells at least two classes apart")
        self.cluster_emb = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_classes, dim), gain=0.5))
        self.classifier = linear(dim, 1)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.cluster_emb)

    @classmethod
    def for_network(cls, network: nn.Module, num_classes: int, **options: Any) -> Any:
        """Return a head for a backbone, whichever it is."""
        sizes = cast(Any, network)
        return cls(num_classes, dim=sizes.gene_dim, cell_dim=sizes.cell_dim, num_heads=sizes.num_heads, **options)  # type: ignore[call-arg]

    def by_gene(self, clusters: Tensor) -> Tensor:
        """Map clusters (B, C, D) to logits (B, C)."""
        return self.classifier(clusters)[..., 0]


class LabelHead(_ClusterHead):
    """The head that CellFM is pretrained with on annotated cells.

    Parameters
    ----------
    num_classes
        C.
    dim, cell_dim
        D and E.
    num_heads
        H.
    lora_rank
        Of adapters on the query layer, as official checkpoints with adapters have them; 0 for none.
    """

    def __init__(
        self, num_classes: int, *, dim: int, cell_dim: int | None = None, num_heads: int, lora_rank: int = 0
    ) -> None:
        super().__init__(num_classes, dim=dim)
        self.query = QueryLayer(layer_config(dim, num_heads, num_layers=1, lora_rank=lora_rank))
        act = nn.LeakyReLU(LEAKY_SLOPE)
        first, second, third = (linear(size, dim, bias=True) for size in (cell_dim or dim, dim, dim))
        self.proj = nn.Sequential(first, act, second, act, third)

    def forward(self, encoding: Encoding, batch: CellBatch) -> tuple[Tensor, Tensor]:
        """Return the logits of each class by gene and by cell, (B, C) each."""
        layout = Layout.of(batch.offsets)
        q_layout = repeated(layout.num_cells, self.num_classes, encoding.genes.device)
        clusters = self.query(self.cluster_emb, encoding.genes, layout=layout, q_layout=q_layout)
        by_gene = self.by_gene(clusters.unflatten(0, (layout.num_cells, self.num_classes)))
        return by_gene, F.linear(self.proj(encoding.cell), self.cluster_emb)


class AnnotationHead(_ClusterHead):
    """The head of annotation fine-tuning: the cell and all classes read the genes together, in two layers.

    Parameters
    ----------
    num_classes
        C.
    dim, cell_dim
        D and E; where they differ a dense layer maps the cell embedding to a token.
    num_heads
        H.
    num_layers
        Query layers; published: 2.
    """

    def __init__(
        self, num_classes: int, *, dim: int, cell_dim: int | None = None, num_heads: int, num_layers: int = 2
    ) -> None:
        super().__init__(num_classes, dim=dim)
        config = layer_config(dim, num_heads, num_layers=num_layers)
        self.query_layers = nn.ModuleList(CrossQueryLayer(config) for _ in range(num_layers))
        self.to_token = linear(cell_dim, dim) if cell_dim not in (None, dim) else nn.Identity()

    def forward(self, encoding: Encoding, batch: CellBatch) -> tuple[Tensor, Tensor]:
        """Return the logits of each class by gene and by cell, (B, C) each."""
        layout = Layout.of(batch.offsets)
        tokens = self.num_classes + 1
        q_layout = repeated(layout.num_cells, tokens, encoding.genes.device)
        cell = self.to_token(encoding.cell)
        clusters = self.cluster_emb.expand(layout.num_cells, -1, -1)
        x = torch.cat([cell[:, None], clusters.to(cell.dtype)], dim=1).flatten(0, 1)  # (B (C + 1), D)
        for layer in self.query_layers:
            x = layer(x, encoding.genes, layout=layout, q_layout=q_layout)
        x = x.unflatten(0, (layout.num_cells, tokens))
        return self.by_gene(x[:, 1:]), F.linear(x[:, 0], self.cluster_emb)


HEADS: dict[str, type[LabelHead] | type[AnnotationHead]] = {"label": LabelHead, "annotation": AnnotationHead}
"""By the name of the task in a file of heads."""
