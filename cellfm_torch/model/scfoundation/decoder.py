"""scFoundation's decoder: FAVOR+ attention over every gene of the vocabulary, T and S.

Shapes: B cells, P positions (the genes, T, S), E width, H heads, K head dim, M random features.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.model.scfoundation.config import ScFoundationConfig
from cellfm_torch.model.scfoundation.encoder import WIDER
from cellfm_torch.ops.favor import draw_projection, favor_attention
from cellfm_torch.ops.fused import affine
from cellfm_torch.ops.linear import Dense


class FavorAttention(nn.Module):
    """Attention among all positions of a cell, with a random projection that is kept with the weights."""

    def __init__(self, config: ScFoundationConfig) -> None:
        super().__init__()
        self.num_heads = config.decoder_heads
        inner = config.decoder_heads * config.decoder_head_dim
        self.q, self.k, self.v = (Dense(config.decoder_dim, inner) for _ in range(3))
        self.out = Dense(inner, config.decoder_dim)
        self.register_buffer("projection", draw_projection(config.num_features, config.decoder_head_dim))

    def forward(self, x: Tensor, projection: Tensor) -> Tensor:
        """Map positions (B, P, E) to (B, P, E), with this projection (M, K)."""
        q, k, v = (
            rearrange(affine(layer, x.flatten(0, 1)), "(b p) (h k) -> b h p k", b=len(x), h=self.num_heads)
            for layer in (self.q, self.k, self.v)
        )
        o = rearrange(favor_attention(q, k, v, projection), "b h p k -> (b p) (h k)")
        return affine(self.out, o).unflatten(0, x.shape[:2])


class DecoderLayer(nn.Module):
    """Attention and a GELU network, each ``x <- x + f(LayerNorm(x))``."""

    def __init__(self, config: ScFoundationConfig) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = FavorAttention(config)
        self.ff1 = Dense(dim, WIDER * dim)
        self.ff2 = Dense(WIDER * dim, dim)

    def forward(self, x: Tensor, projection: Tensor) -> Tensor:
        """Map positions (B, P, E) to (B, P, E)."""
        x = x + self.attention(self.norm1(x), projection)
        wide = F.gelu(affine(self.ff1, self.norm2(x).flatten(0, 1)))
        return affine(self.ff2, wide, add=x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Decoder(nn.Module):
    """The layers, a LayerNorm behind the last, and when their projections are drawn anew."""

    calls_since_redraw: Tensor

    def __init__(self, config: ScFoundationConfig) -> None:
        super().__init__()
        self.redraw_every = config.redraw_every
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.decoder_dim)
        self.register_buffer("calls_since_redraw", torch.tensor(0))

    def projections(self) -> list[Tensor]:
        """Return the projection (M, K) of each layer for one forward pass, in training drawn anew when it is time.

        Copies: whatever happens to the buffers before the backward pass (a redraw, a broadcast between processes,
        loaded weights), it finds what the forward pass used.
        """
        if self.training and self.redraw_every:
            if int(self.calls_since_redraw) >= self.redraw_every:
                self.redraw()
            self.calls_since_redraw += 1
        return [cast(DecoderLayer, layer).attention.projection.clone() for layer in self.layers]  # type: ignore[operator]

    @torch.no_grad()
    def redraw(self) -> None:
        """Draw new projections for all layers."""
        for layer in self.layers:
            buffer = cast(Tensor, cast(DecoderLayer, layer).attention.projection)
            buffer.copy_(draw_projection(*buffer.shape, device=buffer.device))
        self.calls_since_redraw.zero_()

    def forward(self, x: Tensor, projections: list[Tensor]) -> Tensor:
        """Map positions (B, P, E) to (B, P, E), with projections (M, K) from :meth:`projections`."""
        for layer, projection in zip(self.layers, projections, strict=True):
            x = layer(x, projection)
        return cast(Tensor, self.norm(x))
