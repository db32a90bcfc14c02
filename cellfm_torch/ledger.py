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

    Parameters
    ----------
    aside
        Shapes that do not count: those of the weights, to leave out their gradients.

    Attributes
    ----------
    peak : int
        Most bytes alive at once, after any operation so far.
    """

    def __init__(self, aside: Iterable[torch.Size] = ()) -> None:
        super().__init__()
        self.aside = set(aside)
        self.peak = 0
        self._sizes: dict[StorageWeakRef, int] = {}

    @property
    def live(self) -> int:
        """Bytes alive now."""
        for gone in [storage for storage in self._sizes if storage.expired()]:
            del self._sizes[gone]
        return sum(self._sizes.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and account for what it made."""
        made = func(*args, **(kwargs or {}))
        # What came from outside is not ours, also where it comes back as a view or changed in place.
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor):
                self._sizes.setdefault(StorageWeakRef(x.untyped_storage()), 0)
        for x in tree_leaves(made):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                self._sizes.setdefault(StorageWeakRef(storage), 0 if x.shape in self.aside else storage.nbytes())
        self.peak = max(self.peak, self.live)
        return made
