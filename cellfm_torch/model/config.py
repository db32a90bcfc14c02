"""Sizes and variants of CellFM, as one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cellfm_torch.errors import UserError, nearest, shortened

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"num_layers": 4, "dim": 128, "num_heads": 4, "num_genes": 24_078},
    "80m": {"num_layers": 2, "dim": 1536, "num_heads": 48, "num_genes": 27_855, "read_depth": True},
    "800m": {"num_layers": 40, "dim": 1536, "num_heads": 48, "num_genes": 24_078},
}

MOST = {"num_layers": 10_000, "dim": 1 << 20, "num_heads": 1 << 16, "num_genes": 1 << 24, "max_genes": 1 << 24}
"""No network that anybody could build is larger; a configuration from elsewhere may say anything."""


@dataclass(frozen=True)
class CellFMConfig:
    """Architecture of a CellFM network.

    Parameters
    ----------
    num_layers
        N, retention layers.
    dim
        D, width of a token.
    num_heads
        H, retention heads; the head dim K is D / H (32 in all published models).
    num_genes
        G, genes of the vocabulary. The embedding has G + 1 rows rounded up to a multiple of 8; row 0 is padding.
    max_genes
        L, most gene tokens a cell is given in training; longer cells are sampled by the data module.
    dropout
        Rate of the residual branches of layer i is ``dropout * i / num_layers`` (i from 0).
    read_depth
        Two more prefix tokens S and T: read depth of the input and of the target (the 80M layout).
    zeros
        Unexpressed genes are tokens too, with two heads for the probability of being expressed.
    decoders
        The network predicts expression; False leaves only the encoder, as in checkpoints of annotation fine-tuning.
    lora_rank
        Rank of the low-rank adapters on every dense layer of the encoder; 0 for none.

    Raises
    ------
    UserError
        For a number out of its range, or a width that the heads do not divide.
    """

    num_layers: int
    dim: int
    num_heads: int
    num_genes: int
    max_genes: int = 2048
    dropout: float = 0.1
    read_depth: bool = False
    zeros: bool = False
    decoders: bool = True
    lora_rank: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        for name in ("num_layers", "dim", "num_heads", "num_genes", "max_genes"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MOST[name]:
                raise UserError(f"model.config.{name}={shortened(value)}: must be a whole number, 1 to {MOST[name]:,}")
        for name in ("read_depth", "zeros"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"task.{name}={getattr(self, name)}: must be true or false")
        if not isinstance(self.decoders, bool) or (self.zeros and not self.decoders):
            raise UserError(f"model.config.decoders={self.decoders}: must be true or false, and true with zeros")
        if type(self.lora_rank) is not int or not 0 <= self.lora_rank <= MOST["dim"]:
            raise UserError(f"model.config.lora_rank={self.lora_rank}: must be a whole number, 0 for no adapters")
        if self.dim % self.num_heads:
            raise UserError(f"model.config.dim={self.dim} is not a multiple of num_heads={self.num_heads}")
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise UserError(f"model.config.dropout={self.dropout}: must be a number in [0, 1)")

    @property
    def head_dim(self) -> int:
        """K, width of one head."""
        return self.dim // self.num_heads

    @property
    def num_rows(self) -> int:
        """Rows of the gene embedding: G + 1 rounded up to a multiple of 8."""
        return -(-(self.num_genes + 1) // 8) * 8

    @property
    def alpha(self) -> float:
        """DeepNorm's weight of the residual, (2 N)^(1/4) (arXiv 2203.00555)."""
        return float((2 * self.num_layers) ** 0.25)

    @property
    def beta(self) -> float:
        """DeepNorm's gain of the value path at the start, (8 N)^(-1/4) (arXiv 2203.00555)."""
        return float((8 * self.num_layers) ** -0.25)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> CellFMConfig:
        """Return a named size, with single fields changed.

        Parameters
        ----------
        name
            ``"tiny"`` (4 layers, D 128), ``"80m"`` (2 layers, D 1536, S and T tokens) or ``"800m"`` (40 layers).
        **changes
            Fields that differ from the preset; None leaves one as the preset says.

        Raises
        ------
        UserError
            If there is no such preset, or a field has no sense.
        """
        if name not in PRESETS:
            raise UserError(f"there is no preset '{name}'{nearest(name, PRESETS)}; there are {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **{field: value for field, value in changes.items() if value is not None}})
