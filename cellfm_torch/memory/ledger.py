"""How much memory a computation needs, counted tensor by tensor on any device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Ledger(TorchDispatchMode):
    """A context that counts the bytes of the tensors made inside it, while they live.

    What an operation allocates and frees within itself is not seen. Compiled functions run uncompiled inside.

    Attributes
    ----------
    peak, backward_peak : int
        Most bytes alive at once, after any operation so far: outside and within :meth:`backward`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.backward_peak = 0
        self._sizes: dict[StorageWeakRef, int] = {}
        self._outside: set[StorageWeakRef] = set()  # was there before
        self._aside: set[torch.Size] | None = None  # shapes that do not count, within backward
        self._bound = 0  # bytes alive, and some that died since that was last looked at

    @property
    def live(self) -> int:
        """Bytes alive now."""
        for gone in [storage for storage in self._sizes if storage.expired()]:
            del self._sizes[gone]
        return sum(self._sizes.values())

    def backward(self, loss: Tensor, parameters: Iterable[Tensor]) -> None:
        """Run the backward pass without counting the gradients of `parameters`.

        They are told by their shapes; an intermediate result of such a shape is missed.
        """
        self._aside = {p.shape for p in parameters}
        try:
            loss.backward()
        finally:
            self._aside = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and account for what it made."""
        made = func(*args, **(kwargs or {}))
        # What came from outside is not ours, also where it comes back as a view or changed in place.
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor):
                self._note(x, ours=False)
        for x in tree_leaves(made):
            if isinstance(x, Tensor):
                self._note(x, ours=x.shape not in (self._aside or ()))
        peak = self.peak if self._aside is None else self.backward_peak
        if self._bound > peak:  # looking at every tensor is slow
            self._bound = self.live
            if self._aside is None:
                self.peak = max(peak, self._bound)
            else:
                self.backward_peak = max(peak, self._bound)
        return made

    def _note(self, x: Tensor, *, ours: bool) -> None:
        """Take a tensor into account that was not seen before."""
        storage = StorageWeakRef(x.untyped_storage())
        if storage in self._outside or storage in self._sizes:
            return
        if ours:
            self._sizes[storage] = x.untyped_storage().nbytes()
            self._bound += self._sizes[storage]
        else:
            self._outside.add(storage)
