"""scFoundation's encoder: post-norm transformer layers over the tokens of each cell, on ragged batches.

Shapes: T tokens of all cells together (S and T included), D width, H heads, K head dim, B cells.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from cellfm_torch.model.embedder import blocks
from cellfm_torch.model.scfoundation.config import ScFoundationConfig
from cellfm_torch.ops.attention import ragged_attention
from cellfm_torch.ops.fused import affine
from cellfm_torch.ops.linear import Dense

WIDER = 4
"""Width of a feed-forward layer, in widths of the network."""
BLOCK = 2048
"""Tokens worked on at once without gradients, in whole cells: their buffers fit into a processor's cache."""
GPU_BLOCK = 1 << 17


class EncoderLayer(nn.Module):
    """Self-attention and a ReLU network, each ``x <- LayerNorm(x + dropout(f(x)))``."""

    def __init__(self, config: ScFoundationConfig) -> None:
        super().__init__()
        dim = config.encoder_dim
        self.num_heads = config.encoder_heads
        self.qkv = Dense(dim, 3 * dim)
        self.out = Dense(dim, dim)
        nn.init.xavier_uniform_(self.qkv.weight)
        for layer in (self.qkv, self.out):
            nn.init.zeros_(layer.bias)
        self.ff1 = Dense(dim, WIDER * dim)
        self.ff2 = Dense(WIDER * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, *, lengths: list[int]) -> Tensor:
        """Map tokens (T, D), cells of these lengths end to end, to (T, D)."""
        rate = self.dropout.p if self.training else 0.0
        q, k, v = rearrange(affine(self.qkv, x), "t (three h k) -> three t h k", three=3, h=self.num_heads)
        a = rearrange(ragged_attention(q, k, v, lengths=lengths, dropout=rate), "t h k -> t (h k)")
        x = self.norm1(self._add(x, self.out, a))
        return self.norm2(self._add(x, self.ff2, self.dropout(affine(self.ff1, x, relu=True))))

    def _add(self, x: Tensor, layer: Dense, y: Tensor) -> Tensor:
        """Return ``x + dropout(layer(y))``."""
        if self.training and self.dropout.p:
            return x + cast(Tensor, self.dropout(layer(y)))
        return affine(layer, y, add=x)


class Encoder(nn.Module):
    """The layers, and a LayerNorm behind the last."""

    def __init__(self, config: ScFoundationConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.encoder_dim)

    def forward(self, x: Tensor, *, lengths: list[int]) -> Tensor:
        """Map tokens (T, D), cells of these lengths end to end, to (T, D)."""
        if torch.is_grad_enabled() or not lengths:
            return self._run(x, lengths)
        ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
        runs = blocks(ends, GPU_BLOCK if x.is_cuda else BLOCK)
        return torch.cat([self._run(x[ends[a] : ends[b]], lengths[a:b]) for a, b in runs])

    def _run(self, x: Tensor, lengths: list[int]) -> Tensor:
        for layer in self.layers:
            x = layer(x, lengths=lengths)
        return cast(Tensor, self.norm(x))
