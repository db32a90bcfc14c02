"""What turns scalars into token embeddings, and encodings back into expression.

Shapes: N genes of all cells together, D width, B cells, W = 256 bins of the soft value table.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.model.layers import LEAKY_SLOPE, linear

NUM_BINS = 256


class ScalarEncoder(nn.Module):
    """A scalar as a soft choice among 256 learned vectors: ``table softmax(w3 h + a h)``, h = leaky_relu(w1 x).

    Without biases h is linear in x on either side of zero, so the 256 x 256 product is taken once per side instead of
    once per gene: z = max(x, 0) z(1) + max(-x, 0) z(-1).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w1 = linear(1, NUM_BINS)
        self.w3 = linear(NUM_BINS, NUM_BINS)
        self.a = nn.Parameter(torch.zeros(1, 1))
        self.table = linear(NUM_BINS, dim)

    def choice(self, x: Tensor) -> Tensor:
        """Return the weights of the learned vectors, for scalars of any shape (...): (..., W), summing to 1."""
        sides = torch.stack([self.w1.weight[:, 0], -self.w1.weight[:, 0]])  # x = 1 and x = -1, (2, W)
        h = F.leaky_relu(sides, LEAKY_SLOPE)
        z = self.w3(h) + self.a * h
        # Elementwise, not as a product of matrices: autocast would round x to half precision there.
        logits = x.clamp_min(0)[..., None] * z[0] + (-x).clamp_min(0)[..., None] * z[1]
        return logits.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Embed scalars of any shape (...) as (..., D)."""
        return self.table(self.choice(x))


def probability(logit: Tensor) -> Tensor:
    """Return sigmoid, in float32 at least: above 0.998 bfloat16 only knows 1, which has no gradient."""
    return logit.to(torch.promote_types(logit.dtype, torch.float32)).sigmoid()


class GeneDecoder(nn.Module):
    """Expression by gene: from the encoding of each gene token. With `zeros`, also the probability of expression."""

    def __init__(self, dim: int, *, zeros: bool) -> None:
        super().__init__()
        self.w1 = linear(dim, dim)
        self.w2 = linear(dim, 1)
        self.expressed: nn.Sequential | None = None
        if zeros:
            act = nn.LeakyReLU(LEAKY_SLOPE)
            dense = [linear(dim, size, bias=True) for size in (dim, dim, 1)]
            self.expressed = nn.Sequential(dense[0], act, dense[1], act, dense[2])

    def forward(self, genes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map gene encodings (N, D) to values (N,) and, with `zeros`, probabilities of being expressed (N,)."""
        value = self.w2(F.leaky_relu(self.w1(genes), LEAKY_SLOPE))[:, 0]
        return value, None if self.expressed is None else probability(self.expressed(genes)[:, 0])


class CellDecoder(nn.Module):
    """Expression by cell: ``sigmoid(map(gene embedding)) . cls``, from the cell's encoding and nothing else of it."""

    def __init__(self, dim: int, *, zeros: bool) -> None:
        super().__init__()
        self.map = linear(dim, dim)
        self.expressed = linear(dim, dim, bias=True) if zeros else None

    def forward(self, gene_embedding: Tensor, cell: Tensor) -> tuple[Tensor, Tensor | None]:
        """Predict genes of cells.

        Parameters
        ----------
        gene_embedding : (N, D)
            Rows of the gene embedding itself, not encodings.
        cell : (N, D)
            Encoding of the cell that each gene belongs to.

        Returns
        -------
        Values (N,) and, with `zeros`, probabilities of being expressed (N,).
        """
        value = (self.map(gene_embedding).sigmoid() * cell).sum(-1)
        if self.expressed is None:
            return value, None
        return value, probability((self.expressed(gene_embedding) * cell).sum(-1))
