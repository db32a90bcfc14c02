"""Tensors of a checkpoint on their way to safetensors, one at a time: checked, cast, adapters merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from cellfm_torch.errors import UserError
from cellfm_torch.model.lora import merged_weight

from . import safetensors_file
from .mindspore_ckpt import Source, first_nonfinite
from .names import HEAD
from .safetensors_file import Item
from .tensors import DTYPES, KIND_OF, TYPES

LORA = (".lora_a", ".lora_b")


def raw(x: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, without copying them."""
    return x.flatten().view(torch.uint8).numpy().data


class Writer:
    """Writes tensors of one source.

    Parameters
    ----------
    source
        An open checkpoint.
    names
        Official name -> name in the file, of everything taken over.
    dtype
        Of the file; None: of each tensor in the checkpoint.
    merge_lora
        Add the products of adapters to their weights and leave them out.
    """

    def __init__(
        self, source: Source, names: Mapping[str, str], *, dtype: torch.dtype | None = None, merge_lora: bool = False
    ) -> None:
        self.source = source
        self.dtype = dtype
        self.source_of = {target: name for name, target in names.items()}
        self.merged = {x.removesuffix(".lora_a") + ".weight" for x in self.source_of if x.endswith(".lora_a")}
        if not merge_lora:
            self.merged = set()

    def targets(self, *, heads: bool) -> list[str]:
        """List what is written to one of the two files, larger elements first as the format wants it."""
        kept = [
            name
            for name in self.source_of
            if name.startswith(HEAD) == heads and not (self.merged and name.endswith(LORA))
        ]
        return sorted(kept, key=lambda name: -DTYPES[self.kind(name)].itemsize)

    def kind(self, target: str) -> str:
        """Return MindSpore's name of the type a tensor is written in."""
        return KIND_OF[self.dtype] if self.dtype else self.source.entries[self.source_of[target]].kind

    def chunks(self, target: str) -> Iterator[Tensor]:
        """Yield a tensor as it is to be written, flat, in pieces.

        Raises
        ------
        UserError
            For NaN or infinity, or a value too large for the type.
        """
        name = self.source_of[target]
        dtype = DTYPES[self.kind(target)]
        at = 0
        for chunk in [self._merge(target)] if target in self.merged else self.source.chunks(name):
            bad = first_nonfinite(chunk)
            if bad is not None:
                value = float(chunk[bad])
                raise UserError(f"{name} holds {value} at position {at + bad:,}: damaged weights; nothing was written")
            cast = chunk.to(dtype)
            if cast.dtype.itemsize < chunk.dtype.itemsize and (bad := first_nonfinite(cast)) is not None:
                raise UserError(f"{name} holds {float(chunk[bad]):g}, too large for {dtype}; choose another --dtype")
            at += len(chunk)
            yield cast

    def _merge(self, target: str) -> Tensor:
        layer = target.removesuffix(".weight")
        parts = (self.source.tensor(self.source_of[layer + end]) for end in (".weight", *LORA))
        return merged_weight(*parts).flatten()

    def num_bytes(self, *, heads: bool) -> int:
        """Bytes that :meth:`write` will write, headers aside."""
        return sum(self._item(target).num_bytes for target in self.targets(heads=heads))

    def _item(self, target: str) -> Item:
        dims = self.source.entries[self.source_of[target]].dims
        return Item(target, self.kind(target), dims, lambda: map(raw, self.chunks(target)))

    def write(
        self, path: Path, *, heads: bool, metadata: dict[str, str], progress: Callable[[int], object] | None = None
    ) -> None:
        """Write one of the two files; see :func:`safetensors_file.write`."""
        items = [self._item(target) for target in self.targets(heads=heads)]
        safetensors_file.write(path, items, metadata=metadata, progress=progress)

    def validate(self, path: Path, *, heads: bool) -> float:
        """Read a written file back with safetensors and compare every tensor with the checkpoint.

        Returns
        -------
        Largest error over largest magnitude of a tensor: 0 without a change of type.

        Raises
        ------
        UserError
            If a tensor is not there, or not what was to be written, to the last bit.
        """
        from safetensors import safe_open

        worst = 0.0
        targets = self.targets(heads=heads)
        with safe_open(path, framework="pt") as file:
            if sorted(file.keys()) != sorted(targets):
                raise UserError(f"{path.name} came back with other names: the disk is at fault, convert again")
            for target in targets:
                back = file.get_tensor(target)
                name = self.source_of[target]
                if back.dtype != DTYPES[self.kind(target)] or tuple(back.shape) != self.source.entries[name].dims:
                    raise UserError(f"{target} came back with another shape or type; convert again")
                worst = max(worst, self._compare(target, back.flatten()))
        return worst

    def _compare(self, target: str, back: Tensor) -> float:
        at, error, largest = 0, 0.0, 0.0
        original = None if target in self.merged else self.source.chunks(self.source_of[target])
        for cast in self.chunks(target):
            piece = back[at : at + len(cast)]
            at += len(cast)
            if not torch.equal(piece.view(torch.uint8), cast.view(torch.uint8)):
                raise UserError(f"{target} came back with other numbers: the disk is at fault, convert again")
            exact = None if original is None else next(original)
            if exact is not None and exact.dtype != cast.dtype:
                error = max(error, float((exact.double() - cast.double()).abs().max()))
                largest = max(largest, float(exact.abs().max()))
        return error / largest if largest else 0.0


TAGS = {name: dtype for name, (dtype, _) in TYPES.items() if dtype.is_floating_point and dtype != torch.float64}
DTYPE_OPTIONS = {str(dtype).removeprefix("torch."): dtype for dtype in TAGS.values()}
"""What --dtype takes."""
