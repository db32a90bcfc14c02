"""``cellfm convert``: the converter for the file that is given, told by its first bytes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import ms2pt, scf2pt
from .options import of_mindspore, of_scfoundation

ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def is_torch_file(path: Path) -> bool:
    """Tell a file of torch.save from a MindSpore checkpoint, by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(len(LEGACY)).startswith((ZIP, LEGACY))
    except OSError:
        return False


class Converter(NamedTuple):
    """One kind of checkpoint: how it is told, what converts it, and its options."""

    recognises: Callable[[Path], bool]
    main: Callable[[list[str]], int]
    parser: Callable[[str], argparse.ArgumentParser]


# The first that recognises the file takes it; MindSpore's own reader says what is wrong with one that nobody knows.
CONVERTERS = (
    Converter(is_torch_file, scf2pt.main, of_scfoundation),
    Converter(lambda _: True, ms2pt.main, of_mindspore),
)


def parsers() -> list[argparse.ArgumentParser]:
    """Return the options, of CellFM's checkpoints and of scFoundation's."""
    return [converter.parser("cellfm convert") for converter in reversed(CONVERTERS)]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if not typed or {"-h", "--help"} & set(typed):
        print("\n\n".join(parser.format_help().strip() for parser in parsers()))
        return 0
    files = [path for path in map(Path, typed) if path.is_file()]
    for converter in CONVERTERS:
        if any(converter.recognises(path) for path in files) or converter is CONVERTERS[-1]:
            return converter.main(typed)
    raise AssertionError("the last converter takes everything")
