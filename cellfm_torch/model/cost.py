"""What a CellFM network costs, by arithmetic alone: parameters, bytes that do not depend on the batch, operations.

Units: N layers, D width, K head dim, r rank of adapters, W = 256 bins of the value table.
"""

from __future__ import annotations

from dataclasses import dataclass

from cellfm_torch.model.config import CellFMConfig
from cellfm_torch.model.heads import NUM_BINS

TRAINING_FACTOR = 3
"""Arithmetic of forward and backward over that of forward: two products for the gradients of each."""

FLOAT32 = 4
"""Bytes. Weights, gradients and moments stay in float32 also where products are taken in half precision."""


def parameter_counts(config: CellFMConfig) -> dict[str, int]:
    """Return the number of trainable parameters by part of the network."""
    dim = config.dim
    scalar_encoder = NUM_BINS + NUM_BINS**2 + 1 + NUM_BINS * dim  # w1, w3, a, table
    counts = {
        "gene embedding": config.num_rows * dim,
        "value encoder": scalar_encoder + (2 + config.zeros) * dim,  # cls, mask, zero
        "read-depth encoder": config.read_depth * (scalar_encoder + 2 * dim),
        "layers": config.num_layers * (8 * dim**2 + 4 * dim),  # eight projections; gain and offset of two norms
        "adapters": config.num_layers * 8 * 2 * dim * config.lora_rank,
        "decoders": config.decoders * (2 * dim**2 + dim),
        "decoders of zeros": config.zeros * (3 * dim**2 + 4 * dim + 1),
    }
    return {part: count for part, count in counts.items() if count}


def tokens_per_cell(config: CellFMConfig, genes: float) -> float:
    """Return a cell's tokens: its genes, cls and, where the network reads depths, S and T."""
    return genes + (3 if config.read_depth else 1)


def operations_per_token(config: CellFMConfig) -> int:
    """Floating-point operations per token, forward: ``N (16 D^2 + 4 D K)``.

    Eight D x D projections; state and read-out of retention. Encoders of values and decoders are not counted: this is
    the arithmetic that useful utilisation is defined by (benchmarks/README.md).
    """
    return config.num_layers * (16 * config.dim**2 + 4 * config.dim * config.head_dim)


def training_operations_per_token(config: CellFMConfig, *, checkpointed: int = 0) -> int:
    """Return the operations of a training step per token; each of the layers checkpointed runs forward once more."""
    forward = operations_per_token(config)
    return TRAINING_FACTOR * forward + forward * min(checkpointed, config.num_layers) // config.num_layers


def embedding_share(config: CellFMConfig) -> float:
    """Return what the exact embedding does of the forward arithmetic: half the first layer and an eighth of the last.

    See :mod:`cellfm_torch.model.embedder`.
    """
    last, first = 1 / 8, 1 / 2
    between = config.num_layers - 2
    return (between + first + last) / config.num_layers if between >= 0 else last


@dataclass(frozen=True)
class TrainingState:
    """Bytes that training holds whatever the batch.

    Attributes
    ----------
    weights, gradients, optimizer : int
        The last for Adam: mean and mean square of each gradient.
    """

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.gradients + self.optimizer


def training_state(config: CellFMConfig) -> TrainingState:
    """Return the bytes of weights, gradients and Adam's moments, all in float32."""
    weights = FLOAT32 * sum(parameter_counts(config).values())
    return TrainingState(weights, weights, 2 * weights)
