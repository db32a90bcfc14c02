"""What network an official checkpoint describes: names by table, sizes from shapes. No weight is read for that."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cellfm_torch.errors import UserError, nearest
from cellfm_torch.model import CellFM, CellFMConfig

from .heads import head_shapes, head_task
from .names import EXTRACTOR, HEAD, drop_reason, target_name
from .tensors import DTYPES, KIND_OF, TEXT, Entry

HEAD_DIM = 32  # of every published model
BUNDLED_ROWS = {24_080: 24_078, 27_856: 27_855}  # rows of gene_emb -> genes of the published lists
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """A network as a checkpoint describes it.

    Attributes
    ----------
    config, genes
        Of the backbone; None for the bundled list of that size.
    names
        Official name -> our name, of every tensor taken over. Names of ours with ``head.`` belong to a task.
    dropped
        Official name -> why it is left out.
    task
        What the heads are for: "label", "annotation", or None without heads.
    """

    config: CellFMConfig
    genes: Sequence[str] | None
    names: dict[str, str]
    dropped: dict[str, str]
    task: str | None

    @property
    def published(self) -> bool:
        """Whether the gene embedding has the size of a published model: these weights are someone's property."""
        return self.config.num_rows in BUNDLED_ROWS

    def part(self, *, heads: bool) -> dict[str, str]:
        """Official name -> our name, of the heads or of the backbone."""
        return {source: target for source, target in self.names.items() if target.startswith(HEAD) == heads}


@dataclass(frozen=True)
class Converted(Layout):
    """A network with the official weights, what became of each tensor, and the heads that a task will take.

    Attributes
    ----------
    network
        Ready to use.
    heads
        By our names, in float32.
    """

    network: CellFM
    heads: dict[str, Tensor] = field(default_factory=dict)


def recognise(
    entries: Mapping[str, Entry], *, num_heads: int | None = None, genes: Sequence[str] | None = None
) -> Layout:
    """Tell the layout of a checkpoint from names and shapes.

    Parameters
    ----------
    entries
        By official name. Dense weights are (out, in) in both frameworks.
    num_heads
        H; the checkpoint does not say it. Default D / 32.
    genes
        The vocabulary, where it is not one of the two published lists.

    Raises
    ------
    UserError
        For a name the table does not know, a missing or misshapen tensor, or a vocabulary that does not fit.
    """
    names, dropped = _sort_names(entries)
    shapes = {target: entries[source].dims for source, target in names.items()}
    wrapped = any(source.startswith(EXTRACTOR) for source in names)
    for source, target in names.items():
        if wrapped and not source.startswith(EXTRACTOR) and not target.startswith(HEAD):
            raise UserError(f"the checkpoint mixes the names of two layouts: {source} has no {EXTRACTOR}, others have")
    config, genes = _config(shapes, num_heads=num_heads, genes=genes, decoders=not wrapped)
    with torch.device("meta"):
        network = CellFM(config, genes=genes)
    expected = {name: tuple(x.shape) for name, x in network.state_dict().items()}
    _compare({name: x for name, x in shapes.items() if not name.startswith(HEAD)}, expected)
    heads = {name: x for name, x in shapes.items() if name.startswith(HEAD)}
    task = head_task(heads)
    _compare(heads, head_shapes(heads, config=config))
    if wrapped != (task == "annotation"):
        raise UserError(
            f"the checkpoint {'has' if wrapped else 'lacks'} the prefix {EXTRACTOR} of annotation fine-tuning, "
            f"but {'lacks' if wrapped else 'has'} its query layers; nothing was written"
        )
    return Layout(config, genes, names, dropped, task)


def _sort_names(entries: Mapping[str, Entry]) -> tuple[dict[str, str], dict[str, str]]:
    """Return (source -> target, source -> reason), every name in one of them."""
    names: dict[str, str] = {}
    dropped: dict[str, str] = {}
    taken: dict[str, str] = {}
    for source, entry in entries.items():
        target, reason = target_name(source), drop_reason(source)
        if entry.kind == TEXT:
            dropped[source] = "text, not a tensor"
        elif target is not None:
            if target in taken:
                raise UserError(f"the checkpoint holds both {taken[target]} and {source}; nothing was written")
            if not DTYPES[entry.kind].is_floating_point:
                raise UserError(f"{source} holds {entry.kind} numbers; weights are floating point")
            names[source] = target
            taken[target] = source
        elif reason is not None:
            dropped[source] = reason
        else:
            raise UserError(f"the checkpoint holds {source}, which the name table does not know; nothing was written")
    return names, dropped


def _compare(found: Shapes, expected: Shapes) -> None:
    """Refuse a tensor that is missing, misshapen or left over."""
    for name, wanted in expected.items():
        if name not in found:
            raise UserError(f"the checkpoint lacks {name}{nearest(name, found)}; nothing was written")
        if found[name] != wanted:
            raise UserError(f"{name} has shape {found[name]} in the checkpoint, the network needs {wanted}")
    unknown = sorted(set(found) - set(expected))
    if unknown:
        raise UserError(
            f"the checkpoint holds {unknown[0]}, but not the rest of what it belongs to; nothing was written"
        )


def _config(
    shapes: Shapes, *, num_heads: int | None, genes: Sequence[str] | None, decoders: bool
) -> tuple[CellFMConfig, Sequence[str] | None]:
    """Read the sizes off the shapes, and choose the vocabulary by the number of rows."""
    if len(shapes.get("gene_emb.weight", ())) != 2:
        raise UserError("the checkpoint has no gene_emb of two dimensions: it is not a CellFM checkpoint")
    rows, dim = shapes["gene_emb.weight"]
    layers = {int(match[1]) for name in shapes if (match := re.match(r"encoder\.(\d+)\.", name))}
    if layers != set(range(len(layers))) or not layers:
        raise UserError(f"the checkpoint has layers {sorted(layers)}: some are missing")
    if num_heads is None and dim % HEAD_DIM:
        raise UserError(f"the width {dim} is not a multiple of {HEAD_DIM}; say --num-heads")
    if genes is None and rows not in BUNDLED_ROWS:
        raise UserError(
            f"gene_emb has {rows:,} rows, none of the published vocabularies; give its list with --genes FILE "
            f"({max(rows - 8, 1):,} to {rows - 1:,} symbols, one a line, in the order of the rows)"
        )
    num_genes = len(genes) if genes is not None else BUNDLED_ROWS[rows]
    ranks = {shape[0] for name, shape in shapes.items() if name.endswith(".lora_a") and shape}
    config = CellFMConfig(
        num_layers=len(layers),
        dim=dim,
        num_heads=dim // HEAD_DIM if num_heads is None else num_heads,
        num_genes=num_genes,
        read_depth="depth_emb" in shapes,
        zeros="cell_decoder.expressed.weight" in shapes,
        decoders=decoders,
        lora_rank=min(ranks, default=0),
    )
    if config.num_rows != rows:
        raise UserError(
            f"a list of {num_genes:,} genes needs {config.num_rows:,} rows, gene_emb has {rows:,}: another list"
        )
    return config, genes


def convert_tensors(
    tensors: Mapping[str, Tensor], *, num_heads: int | None = None, genes: Sequence[str] | None = None
) -> Converted:
    """Build the network that an official checkpoint describes, in memory and in float32.

    Parameters
    ----------
    tensors
        By official name, as :func:`read_checkpoint` returns them.
    num_heads, genes
        As :func:`recognise` takes them.

    Raises
    ------
    UserError
        As :func:`recognise`.
    """
    entries = {name: Entry(tuple(x.shape), KIND_OF[x.dtype]) for name, x in tensors.items()}
    layout = recognise(entries, num_heads=num_heads, genes=genes)
    with torch.device("meta"):
        network = CellFM(layout.config, genes=layout.genes)
    state = {target: tensors[source].float() for source, target in layout.part(heads=False).items()}
    network.load_state_dict(state, strict=True, assign=True)
    heads = {target: tensors[source].float() for source, target in layout.part(heads=True).items()}
    return Converted(layout.config, layout.genes, layout.names, layout.dropped, layout.task, network, heads)
