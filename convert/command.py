"""``cellfm convert``: the converter for the file that is given, told by its first bytes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import ms2pt, scf2pt
from .scf_ckpt import is_torch_file


class Converter(NamedTuple):
    """One kind of checkpoint: how it is told, what converts it, and the help on its options."""

    recognises: Callable[[Path], bool]
    main: Callable[[list[str]], int]
    help: Callable[[], str]


# The first that recognises the file takes it; MindSpore's own reader says what is wrong with one that nobody knows.
CONVERTERS = (
    Converter(is_torch_file, scf2pt.main, lambda: scf2pt.parser("cellfm convert").format_help()),
    Converter(lambda _: True, ms2pt.main, lambda: ms2pt.parser("cellfm convert").format_help()),
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if not typed or {"-h", "--help"} & set(typed):
        print("\n\n".join(converter.help().strip() for converter in reversed(CONVERTERS)))
        return 0
    files = [path for path in map(Path, typed) if path.is_file()]
    for converter in CONVERTERS:
        if any(converter.recognises(path) for path in files) or converter is CONVERTERS[-1]:
            return converter.main(typed)
    raise AssertionError("the last converter takes everything")
