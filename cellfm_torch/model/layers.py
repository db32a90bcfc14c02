"""ERetNet's layer: retention and a gated linear unit, each with a DeepNorm residual.

Shapes: T tokens of all cells together (prefix tokens included), D width, H heads, K head dim, B cells.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.model.config import CellFMConfig
from cellfm_torch.model.lora import LoRALinear
from cellfm_torch.ops.layout import Layout
from cellfm_torch.ops.linear import Dense, projections
from cellfm_torch.ops.retention import RetentionState, retention, retention_state

# MindSpore's defaults, which the published weights were trained with; PyTorch's are 0.01 and 1e-5.
LEAKY_SLOPE = 0.2
NORM_EPS = 1e-7


def linear(inputs: int, outputs: int, *, gain: float = 1.0, bias: bool = False) -> Dense:
    """Return a dense layer, Xavier-normal at the start (weight (outputs, inputs))."""
    # skip_init knows nothing of `with torch.device(...)`: without the argument it would allocate on the CPU.
    layer: Dense = nn.utils.skip_init(Dense, inputs, outputs, bias=bias, device=torch.get_default_device())
    nn.init.xavier_normal_(layer.weight, gain=gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def projection(config: CellFMConfig, *, gain: float = 1.0) -> Dense:
    """Return a D x D layer of the encoder, with an adapter where the configuration asks for one."""
    if not config.lora_rank:
        return linear(config.dim, config.dim, gain=gain)
    layer = LoRALinear(config.dim, config.dim, rank=config.lora_rank, device=torch.get_default_device())
    nn.init.xavier_normal_(layer.weight, gain=gain)
    return layer


def project(x: Tensor, *layers: Dense) -> tuple[Tensor, ...]:
    """Apply several dense layers to the same tokens (T, D), in one product where that pays."""
    if any(isinstance(layer, LoRALinear) for layer in layers):
        return tuple(layer(x) for layer in layers)
    return projections(x, [layer.weight for layer in layers])


def srms_norm(x: Tensor, *, eps: float = 1e-12) -> Tensor:
    """Divide each row of the last axis, of width K, by ``max(||x / sqrt(K)||, eps)``.

    The scale of `x` leaves the result unchanged, so factors before it only serve the range of the number format.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
    return x / norm.clamp_min(eps)


class Retention(nn.Module):
    """Bidirectional gated retention: ``out = Wo (srms_norm(q (k^T v)) * silu(x Wu))``.

    With q = relu(x Wq) and k = relu(x Wk); dropped tokens contribute nothing to the cell's state but read it. In three
    steps, as tokens meet in the second alone.

    Attributes
    ----------
    mode
        Of :func:`cellfm_torch.retention`; all give the same numbers.
    """

    def __init__(self, config: CellFMConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.head_dim = config.head_dim
        self.mode = "chunked"
        self.q_proj = projection(config)
        self.k_proj = projection(config)
        self.v_proj = projection(config, gain=config.beta)
        self.u_proj = projection(config, gain=config.beta)
        self.o_proj = projection(config, gain=config.beta)

    def forward(self, x: Tensor, *, offsets: Tensor | Layout, keep: Tensor | None = None) -> Tensor:
        """Mix the tokens of each cell.

        Parameters
        ----------
        x : (T, D)
        offsets : (B + 1,) int64 or Layout
            Cell boundaries of the tokens.
        keep : (T, 1), optional
            1 for tokens that enter the state, 0 for those that are dropped; None keeps all.

        Returns
        -------
        (T, D)
        """
        q, k, v, u = self.project(x, keep)
        return self.merge(self.mix(q, k, v, Layout.of(offsets)), u)

    def project(self, x: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map tokens (T, D) to q, k, v (T, H, K) and u (T, D)."""
        q, k, v, u = project(x, self.q_proj, self.k_proj, self.v_proj, self.u_proj)
        q, k = F.relu(q), F.relu(k)
        if keep is not None:
            k = k * keep
        q, k, v = (rearrange(y, "t (h k) -> t h k", h=self.num_heads) for y in (q, k, v))
        return q, k, v, u

    def mix(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """Let the tokens of each cell see each other: (T, H, K)."""
        # The 1 / K of the published q and k and the 1 / sqrt(genes) of its v: the norm divides them out, they only
        # keep half precision in range. Where there is a state they go onto that, which is small.
        scale = layout.lengths.clamp_min(1).float().rsqrt() / self.head_dim
        if self.mode == "chunked":
            state = retention_state(k, v, offsets=layout).tensor
            return RetentionState(state * scale.to(state.dtype)[:, None, None, None]).read(q, offsets=layout)
        per_token = torch.repeat_interleave(scale.to(v.dtype), layout.lengths, output_size=len(v))
        return retention(q, k, v * per_token[:, None, None], offsets=layout, mode=self.mode)

    def merge(self, o: Tensor, u: Tensor) -> Tensor:
        """Norm and gate what the tokens read (T, H, K), and merge the heads: (T, D)."""
        o = rearrange(srms_norm(o).to(u.dtype), "t h k -> t (h k)")
        out: Tensor = self.o_proj(o * F.silu(u))
        return out


class GatedLinearUnit(nn.Module):
    """``out = Wo ((x Wu) * (x Wv))``: no activation, no bias, all D x D."""

    def __init__(self, config: CellFMConfig) -> None:
        super().__init__()
        self.u_proj, self.v_proj, self.o_proj = (projection(config, gain=config.beta) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (T, D) to (T, D), each on its own."""
        u, v = project(x, self.u_proj, self.v_proj)
        return self.o_proj(u * v)


class RetentionLayer(nn.Module):
    """One layer of ERetNet, post-norm: ``x <- LayerNorm(alpha x + dropout(f(x)))`` for f = retention, then the GLU."""

    def __init__(self, config: CellFMConfig, *, index: int) -> None:
        super().__init__()
        self.alpha = config.alpha
        self.retention = Retention(config)
        self.norm1 = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.glu = GatedLinearUnit(config)
        self.norm2 = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout * index / config.num_layers)

    def forward(self, x: Tensor, *, offsets: Tensor | Layout, keep: Tensor | None = None) -> Tensor:
        """Map tokens (T, D) to (T, D); see :meth:`Retention.forward` for `offsets` and `keep`."""
        x = self.norm1(self.alpha * x + self.dropout(self.retention(x, offsets=offsets, keep=keep)))
        return self.norm2(self.alpha * x + self.dropout(self.glu(x)))
