"""Which code runs an operator: plain PyTorch, PyTorch through torch.compile, or Triton kernels.

``eager`` is the readable path and the one the others are tested against. ``auto`` takes Triton on a GPU where it can be
imported and eager elsewhere. The choice is made once, by :func:`set_backend`, for a while by :func:`use_backend`, or
before the program starts by the variable CELLFM_BACKEND.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from cellfm_torch.errors import UserError, nearest

BACKENDS = ("auto", "eager", "compiled", "triton")
VARIABLE = "CELLFM_BACKEND"
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the Triton kernels take; everything else goes the eager way."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# None until the variable was read. One setting for all threads: backward passes on a GPU run in threads of their own.
_chosen: str | None = None
_warned = False


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise UserError(f"{source} is {name!r}, it must be one of {', '.join(BACKENDS)}{nearest(name, BACKENDS)}")
    return name


def backend() -> str:
    """Return what was chosen: "auto", "eager", "compiled" or "triton".

    Raises
    ------
    UserError
        If CELLFM_BACKEND names none of them.
    """
    global _chosen
    if _chosen is None:
        _chosen = _checked(os.environ.get(VARIABLE) or "auto", VARIABLE)
    return _chosen


def set_backend(name: str) -> None:
    """Choose the backend of all operators from here on.

    Raises
    ------
    UserError
        For an unknown name, and for Triton where it is not installed.
    """
    global _chosen
    if _checked(name, "backend") == "triton" and kernels_interpreted() is None:
        raise UserError("backend is 'triton', which is not installed: pip install triton, or take another backend")
    _chosen = name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend inside a ``with`` block."""
    global _chosen
    before = backend()
    set_backend(name)
    try:
        yield
    finally:
        _chosen = before


@cache
def kernels_interpreted() -> bool | None:
    """Whether the Triton kernels run in Triton's interpreter (TRITON_INTERPRET=1); None where there is no Triton."""
    try:
        from cellfm_torch.ops.triton_kernels import INTERPRETED
    except ImportError:
        return None
    return INTERPRETED


def runs_on(x: Tensor) -> str:
    """Return the backend for operators on tensors like `x`: "eager", "compiled" or "triton".

    Raises
    ------
    UserError
        If Triton was asked for and the tensors are where it cannot run.
    """
    name = backend()
    if name == "auto":
        return "triton" if x.is_cuda and x.dtype in KERNEL_DTYPES and kernels_interpreted() is False else "eager"
    if name != "triton":
        return name
    if x.dtype not in KERNEL_DTYPES:
        return "eager"
    interpreted = kernels_interpreted()
    if interpreted is None or not (x.is_cuda or interpreted):
        raise UserError(
            f"backend is 'triton', the tensors are on {x.device}: Triton must be installed and needs a GPU, or "
            "TRITON_INTERPRET=1 to run slowly without one"
        )
    return "triton"


class CompiledOrEager(Generic[Arguments, Result]):
    """A function through torch.compile, or as it is where the compiler is missing or fails.

    The first failure warns, once per process; from then on nothing is compiled any more. Sizes are taken as variable,
    so that another number of tokens does not compile again.
    """

    def __init__(self, function: Callable[Arguments, Result], **options: Any) -> None:
        update_wrapper(self, function)
        self.function = function
        self.options = {"dynamic": True, **options}
        self.compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Call the function."""
        global _warned
        if _warned or torch.compiler.is_compiling():
            return self.function(*args, **kwargs)
        try:
            if self.compiled is None:
                self.compiled = torch.compile(self.function, **self.options)
            compiled: Result = self.compiled(*args, **kwargs)
            return compiled
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # A mistake of the caller's raises here as well, and is the caller's.
            result = self.function(*args, **kwargs)
            reason = " ".join(str(error).split())[:200]
            warnings.warn(
                f"torch.compile failed, the eager path is used instead: {type(error).__name__}: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
            _warned = True
            return result
