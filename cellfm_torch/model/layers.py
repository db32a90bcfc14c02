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
from cellfm_torch.ops.backend import CompiledOrEager, runs_on
from cellfm_torch.ops.gate import norm_gate
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


def _residual_norm(x: Tensor, y: Tensor, norm: nn.LayerNorm, alpha: float) -> Tensor:
    out: Tensor = norm(alpha * x + y)
    return out


_compiled_residual_norm = CompiledOrEager(_residual_norm)


def residual_norm(x: Tensor, y: Tensor, norm: nn.LayerNorm, alpha: float) -> Tensor:
    """Return ``norm(alpha x + y)`` for tokens (T, D), in one pass where that is compiled."""
    chosen = _compiled_residual_norm if runs_on(x) == "compiled" else _residual_norm
    return chosen(x, y, norm, alpha)


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

    def mix(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, q_layout: Layout | None = None) -> Tensor:
        """Let q (M, H, K) gather from the tokens of its cell: (M, H, K).

        `q_layout` says where the queries of each cell are; None: they are the tokens themselves.
        """
        # The 1 / K of the published q and k and the 1 / sqrt(genes) of its v: the norm divides them out, they only
        # keep half precision in range. Where there is a state they go onto that, which is small.
        scale = layout.lengths.clamp_min(1).float().rsqrt() / self.head_dim
        if self.mode == "chunked":
            state = retention_state(k, v, offsets=layout).tensor
            read = RetentionState(state * scale.to(state.dtype)[:, None, None, None])
            return read.read(q, offsets=layout if q_layout is None else q_layout)
        per_token = torch.repeat_interleave(scale.to(v.dtype), layout.lengths, output_size=len(v))
        return retention(q, k, v * per_token[:, None, None], offsets=layout, q_offsets=q_layout, mode=self.mode)

    def merge(self, o: Tensor, u: Tensor) -> Tensor:
        """Norm and gate what the tokens read (T, H, K), and merge the heads: (T, D)."""
        out: Tensor = self.o_proj(norm_gate(o, u))
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
        mixed = self.dropout(self.retention(x, offsets=offsets, keep=keep))
        x = residual_norm(x, mixed, self.norm1, self.alpha)
        return residual_norm(x, self.dropout(self.glu(x)), self.norm2, self.alpha)
