"""scFoundation as its description has it: one cell, dense arrays, float64 numpy, slow and obvious.

Shapes: P = G + 2 positions (the genes, T, S), n visible ones, D and E widths, H heads, K head dim, M random features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf

from cellfm_torch import ScFoundation

Array = NDArray[np.float64]


class Oracle:
    """A cell's outputs from a network's weights.

    Attributes of a result: ``all`` (S, T, maximum and mean over expressed genes) and ``max`` (over all visible
    positions) cell embeddings, ``gene`` (G, E) embeddings, ``expression`` (G,).
    """

    def __init__(self, network: ScFoundation) -> None:
        self.config = network.config
        self.w = {name: x.detach().double().numpy() for name, x in network.state_dict().items()}

    def cell(self, values: Array, hidden: NDArray[np.bool_], total_s: float, total_t: float) -> dict[str, Any]:
        """Work one cell out.

        Parameters
        ----------
        values : (G,)
            log1p(CP10K), 0 where not expressed; anything where hidden.
        hidden : (G,)
        total_s, total_t
            Counts.
        """
        genes = self.config.num_genes
        x = np.concatenate([np.where(hidden, 0.0, values), [np.log10(total_t), np.log10(total_s)]])
        places = self.w["gene_emb.weight"][: genes + 2]
        visible = np.concatenate([(values > 0) & ~hidden, [True, True]])
        tokens = self.embed_values(x)
        encoded = self.encode(tokens[visible] + places[visible])
        body, t, s = encoded[:-2], encoded[-2], encoded[-1]
        tokens[:genes][hidden] = self.w["value_enc.mask_emb"][0]
        tokens[visible] = encoded
        decoded = self.decode(self.dense("to_decoder", tokens + places))[:genes]
        return {
            "all": np.concatenate([s, t, body.max(0), body.mean(0)]) if len(body) else None,
            "max": encoded.max(0),
            "gene": decoded,
            "expression": self.dense("head", decoded)[:, 0],
        }

    def dense(self, name: str, x: Array) -> Array:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5)
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def embed_values(self, x: Array) -> Array:
        """Values (P,) as a soft choice among bins, (P, D)."""
        h = self.dense("value_enc.w1", x[:, None])
        h = np.where(h > 0, h, 0.1 * h)
        return softmax(self.config.bin_alpha * h + self.dense("value_enc.w2", h)) @ self.w["value_enc.table"]

    def encode(self, x: Array) -> Array:
        """Post-norm transformer over visible positions (n, D)."""
        for layer in range(self.config.encoder_layers):
            name = f"encoder.layers.{layer}"
            q, k, v = np.split(self.dense(f"{name}.qkv", x), 3, axis=1)
            heads = []
            for a, b, c in zip(*(np.split(y, self.config.encoder_heads, axis=1) for y in (q, k, v)), strict=True):
                heads.append(softmax(a @ b.T / np.sqrt(a.shape[1])) @ c)
            x = self.norm(f"{name}.norm1", x + self.dense(f"{name}.out", np.concatenate(heads, axis=1)))
            x = self.norm(f"{name}.norm2", x + self.dense(f"{name}.ff2", np.maximum(self.dense(f"{name}.ff1", x), 0)))
        return self.norm("encoder.norm", x)

    def decode(self, x: Array) -> Array:
        """Pre-norm Performer over all positions (P, E), with both norms behind it."""
        for layer in range(self.config.decoder_layers):
            name = f"decoder.layers.{layer}"
            y = self.norm(f"{name}.norm1", x)
            q, k, v = (
                np.stack(np.split(self.dense(f"{name}.attention.{part}", y), self.config.decoder_heads, axis=1))
                for part in "qkv"
            )  # (H, P, K)
            out = self.favor(q, k, v, self.w[f"{name}.attention.projection"])
            x = x + self.dense(f"{name}.attention.out", np.concatenate(list(out), axis=1))
            wide = self.dense(f"{name}.ff1", self.norm(f"{name}.norm2", x))
            x = x + self.dense(f"{name}.ff2", wide * (1 + erf(wide / np.sqrt(2))) / 2)
        return self.norm("norm", self.norm("decoder.norm", x))

    @staticmethod
    def favor(q: Array, k: Array, v: Array, projection: Array) -> Array:
        """Attention by random features (M, K), written as the quadratic sum it stands for: (H, P, K)."""
        width = q.shape[-1]

        def features(y: Array, *, over: tuple[int, ...]) -> Array:
            scores = y @ projection.T / width**0.25
            half_square = np.square(y).sum(-1, keepdims=True) / (2 * np.sqrt(width))
            return (np.exp(scores - half_square - scores.max(over, keepdims=True)) + 1e-4) / np.sqrt(len(projection))

        weights = features(q, over=(2,)) @ features(k, over=(0, 1, 2)).transpose(0, 2, 1)  # (H, P, P)
        return weights / weights.sum(-1, keepdims=True) @ v


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def stacked(results: list[dict[str, Any]], name: str) -> torch.Tensor:
    """Return one output of several cells, (B, ...)."""
    return torch.from_numpy(np.stack([result[name] for result in results]))
