"""Sizes of scFoundation, as one frozen dataclass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cellfm_torch.batch import Masking
from cellfm_torch.errors import UserError, nearest, shortened

PRESETS: dict[str, dict[str, Any]] = {
    "scfoundation": {},
    "scfoundation-tiny": {
        "encoder_layers": 2,
        "encoder_dim": 64,
        "encoder_heads": 4,
        "decoder_layers": 2,
        "decoder_dim": 32,
        "decoder_heads": 2,
        "decoder_head_dim": 16,
        "num_bins": 32,
    },
}
POOLS = ("all", "max")
MOST, MOST_LAYERS = 1 << 24, 10_000
"""No network that anybody could build is larger; a configuration from elsewhere may say anything."""


PRETRAINING = Masking(
    fraction=0.3, hidden_share=0.8, random_share=0.1, zero_fraction=0.03, least_total=1000, keep_expressed=False
)
"""Masks and downsampling as far as they are published. That visible targets enter the encoder as any gene, where false
values come from, and the least total (of a re-implementation by others) are assumptions."""


@dataclass(frozen=True)
class ScFoundationConfig:
    """Architecture of an scFoundation network; the defaults are those of the published one, 119M parameters.

    Parameters
    ----------
    num_genes
        G, genes of the vocabulary. The embedding has G + 3 rows: the genes, T, S, and one for padding, unused here.
    encoder_layers, encoder_dim, encoder_heads
        Layers, width D and heads of the encoder over expressed genes; its feed-forward layers are 4 D wide.
    decoder_layers, decoder_dim, decoder_heads, decoder_head_dim
        Layers, width E, heads and head dim of the decoder over all positions; its feed-forward layers are 4 E wide.
    num_bins
        W, vectors that a value is a soft choice among.
    bin_alpha
        Weight of the residual in that choice.
    dropout
        Rate in the encoder; the decoder has none.
    redraw_every
        Training steps (forward passes) between new random projections of the decoder; 0: they stay as they are.
    pool
        What ``Encoding.cell`` is: ``"all"``, the encodings of S and T and the maximum and mean over expressed genes
        (4 D numbers), or ``"max"``, the maximum over expressed genes, S and T (D numbers).

    Raises
    ------
    UserError
        For a number out of its range, or a width that the heads do not divide.
    """

    num_genes: int = 19_264
    encoder_layers: int = 12
    encoder_dim: int = 768
    encoder_heads: int = 12
    decoder_layers: int = 6
    decoder_dim: int = 512
    decoder_heads: int = 8
    decoder_head_dim: int = 64
    num_bins: int = 100
    bin_alpha: float = 1.0
    dropout: float = 0.1
    redraw_every: int = 1000
    pool: str = "all"

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        least = {"redraw_every": 0, "decoder_head_dim": 2}  # one dimension would have no random feature
        sizes = ("num_genes", "num_bins", "redraw_every")
        parts = [f"{part}_{name}" for part in ("encoder", "decoder") for name in ("layers", "dim", "heads")]
        for name in (*sizes, *parts, "decoder_head_dim"):
            value, bound = getattr(self, name), least.get(name, 1)
            most = MOST_LAYERS if name.endswith("_layers") else MOST
            if type(value) is not int or not bound <= value <= most:
                raise UserError(f"model.config.{name}={shortened(value)}: must be a whole number, {bound} to {most:,}")
        if self.encoder_dim % self.encoder_heads:
            raise UserError(
                f"model.config.encoder_dim={self.encoder_dim} is not a multiple of encoder_heads={self.encoder_heads}"
            )
        if not isinstance(self.bin_alpha, (int, float)) or not math.isfinite(self.bin_alpha):
            raise UserError(f"model.config.bin_alpha={self.bin_alpha}: must be a number")
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise UserError(f"model.config.dropout={self.dropout}: must be a number in [0, 1)")
        if self.pool not in POOLS:
            raise UserError(
                f"model.config.pool={self.pool}: choose {' or '.join(POOLS)}{nearest(str(self.pool), POOLS)}"
            )

    @property
    def num_positions(self) -> int:
        """P, positions of the decoder: the genes, then T, then S."""
        return self.num_genes + 2

    @property
    def num_features(self) -> int:
        """M, random features of the decoder's attention: K ln K, rounded down (266 for K = 64)."""
        return int(self.decoder_head_dim * math.log(self.decoder_head_dim))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ScFoundationConfig:
        """Return a named size, with single fields changed.

        Parameters
        ----------
        name
            ``"scfoundation"`` (the published one) or ``"scfoundation-tiny"`` (2 + 2 layers, D 64, E 32).
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
