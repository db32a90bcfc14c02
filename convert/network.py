"""From the tensors of an official checkpoint to a CellFM network: names by table, sizes from shapes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cellfm_torch.errors import UserError, nearest
from cellfm_torch.model import CellFM, CellFMConfig

from .names import drop_reason, target_name

HEAD_DIM = 32  # of every published model
BUNDLED_ROWS = {24_080: 24_078, 27_856: 27_855}  # rows of gene_emb -> genes of the published lists


@dataclass(frozen=True)
class Converted:
    """A network with the official weights, and what became of each tensor.

    Attributes
    ----------
    network
        Ready to use.
    names
        Official name -> our name, of every tensor taken over.
    dropped
        Official name -> why it was left out.
    """

    network: CellFM
    names: dict[str, str]
    dropped: dict[str, str]


def convert_tensors(
    tensors: dict[str, Tensor], *, num_heads: int | None = None, genes: Sequence[str] | None = None
) -> Converted:
    """Build the network that an official checkpoint describes.

    Parameters
    ----------
    tensors
        By official name, as :func:`read_checkpoint` returns them. Dense weights are (out, in) in both frameworks.
    num_heads
        H; the checkpoint does not say it. Default D / 32.
    genes
        The vocabulary, where it is not one of the two published lists.

    Raises
    ------
    UserError
        For a name the table does not know, a missing or misshapen tensor, or a vocabulary that does not fit.
    """
    names, dropped = {}, {}
    for source in tensors:
        target, reason = target_name(source), drop_reason(source)
        if target is not None:
            names[source] = target
        elif reason is not None:
            dropped[source] = reason
        else:
            raise UserError(f"the checkpoint holds {source}, which the name table does not know; nothing was written")
    state = {target: tensors[source] for source, target in names.items()}
    config, genes = _config(state, num_heads=num_heads, genes=genes)
    with torch.device("meta"):
        network = CellFM(config, genes=genes)
    for name, expected in network.state_dict().items():
        if name not in state:
            raise UserError(f"the checkpoint lacks {name}{nearest(name, state)}; nothing was written")
        if state[name].shape != expected.shape:
            found, wanted = tuple(state[name].shape), tuple(expected.shape)
            raise UserError(f"{name} has shape {found} in the checkpoint, the network needs {wanted}")
    unknown = sorted(set(state) - set(network.state_dict()))
    if unknown:
        raise UserError(
            f"the checkpoint holds {unknown[0]}, but not the rest of what it belongs to; nothing was written"
        )
    network.load_state_dict({name: x.float() for name, x in state.items()}, strict=True, assign=True)
    return Converted(network, names, dropped)


def _config(
    state: dict[str, Tensor], *, num_heads: int | None, genes: Sequence[str] | None
) -> tuple[CellFMConfig, Sequence[str] | None]:
    """Read the sizes off the shapes, and choose the vocabulary by the number of rows."""
    if "gene_emb.weight" not in state or state["gene_emb.weight"].ndim != 2:
        raise UserError("the checkpoint has no gene_emb of two dimensions: it is not a CellFM checkpoint")
    rows, dim = state["gene_emb.weight"].shape
    layers = {int(match[1]) for name in state if (match := re.match(r"encoder\.(\d+)\.", name))}
    if layers != set(range(len(layers))) or not layers:
        raise UserError(f"the checkpoint has layers {sorted(layers)}: some are missing")
    if num_heads is None and dim % HEAD_DIM:
        raise UserError(f"the width {dim} is not a multiple of {HEAD_DIM}; say --num-heads")
    if genes is None and rows not in BUNDLED_ROWS:
        raise UserError(
            f"gene_emb has {rows:,} rows, none of the published vocabularies; give its list with --genes FILE"
        )
    num_genes = len(genes) if genes is not None else BUNDLED_ROWS[rows]
    config = CellFMConfig(
        num_layers=len(layers),
        dim=dim,
        num_heads=dim // HEAD_DIM if num_heads is None else num_heads,
        num_genes=num_genes,
        read_depth="depth_emb" in state,
        zeros="cell_decoder.expressed.weight" in state,
    )
    if config.num_rows != rows:
        raise UserError(
            f"a list of {num_genes:,} genes needs {config.num_rows:,} rows, gene_emb has {rows:,}: another list"
        )
    return config, genes
