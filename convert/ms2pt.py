"""Convert an official MindSpore checkpoint into a model folder: ``python convert/ms2pt.py CKPT``."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

if not __package__:  # run as a script, perhaps uninstalled: make the checkout importable (PEP 366)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import cellfm_torch.convert  # noqa: F401  relative imports below need their package loaded

    __package__ = "cellfm_torch.convert"

from cellfm_torch import __version__
from cellfm_torch.errors import UserError
from cellfm_torch.model.checkpoint import write_beside

from .mindspore_ckpt import read_checkpoint
from .network import convert_tensors


def convert_file(
    checkpoint: Path, *, output: Path | None = None, num_heads: int | None = None, genes: Path | None = None
) -> Path:
    """Convert one file and return the model folder.

    Parameters
    ----------
    checkpoint
        An official ``.ckpt``.
    output
        Folder to write; default: beside the checkpoint, named after it.
    num_heads
        H, where it is not D / 32.
    genes
        File with one gene symbol a line, where the vocabulary is not a published one.

    Raises
    ------
    UserError
        See :func:`read_checkpoint` and :func:`convert_tensors`; nothing is written then.
    """
    symbols = None
    if genes is not None:
        if not genes.is_file():
            raise UserError(f"--genes {genes}: no such file")
        try:
            symbols = genes.read_text(encoding="utf-8").split()
        except UnicodeDecodeError as problem:
            raise UserError(f"--genes {genes}: not UTF-8 text, one symbol a line") from problem
    folder = output or checkpoint.parent / checkpoint.stem
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, the model needs a folder; say --output FOLDER")
    converted = convert_tensors(read_checkpoint(checkpoint), num_heads=num_heads, genes=symbols)
    try:
        converted.network.save_pretrained(folder)
    except OSError as problem:
        raise UserError(f"{folder} cannot be written ({problem.strerror})") from problem
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = {
        "source": checkpoint.name,
        "sha256": digest,
        "bytes": checkpoint.stat().st_size,
        "names": converted.names,
        "dropped": converted.dropped,
        "tool": f"cellfm_torch {__version__}",
    }
    write_beside(folder / "conversion.json", lambda part: part.write_text(json.dumps(record, indent=2) + "\n"))
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="ms2pt.py", description="Official MindSpore CellFM checkpoint -> model folder."
    )
    parser.add_argument("checkpoint", type=Path, help="the .ckpt file")
    parser.add_argument("--output", type=Path, help="folder to write (default: beside the checkpoint)")
    parser.add_argument("--num-heads", type=int, help="retention heads (default: width / 32)")
    parser.add_argument("--genes", type=Path, help="one gene symbol a line, for a vocabulary of your own")
    options = parser.parse_args(arguments)
    try:
        folder = convert_file(
            options.checkpoint, output=options.output, num_heads=options.num_heads, genes=options.genes
        )
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print(f"{folder}: load it with CellFM.from_pretrained({str(folder)!r})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
