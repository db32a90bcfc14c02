"""Convert an official MindSpore checkpoint into a model folder: ``python convert/ms2pt.py CKPT``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script, perhaps uninstalled: make the checkout importable (PEP 366)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import cellfm_torch.convert  # noqa: F401  relative imports below need their package loaded

    __package__ = "cellfm_torch.convert"

from cellfm_torch.command_line import OneLineParser
from cellfm_torch.errors import UserError, naming

from .conversion import Options, convert_file
from .folder import stoppable
from .mindspore_backend import MODES, PYTHON
from .report import show
from .write import DTYPE_OPTIONS


def parser(program: str) -> argparse.ArgumentParser:
    """Return the command's options."""
    made = OneLineParser(
        prog=program,
        description="Official MindSpore CellFM checkpoint -> model folder for CellFM.from_pretrained.",
        epilog=f"example: {program} CellFM_80M_weight.ckpt",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("checkpoint", type=Path, help="a .ckpt file, MindSpore's .safetensors, or a folder of rank_N copies")
    add("--output", type=Path, metavar="FOLDER", help="folder to write (default: beside the checkpoint)")
    add("--num-heads", type=int, metavar="H", help="retention heads (default: width / 32)")
    add("--dtype", choices=DTYPE_OPTIONS, help="of the written weights (default: as in the checkpoint)")
    add("--genes", type=Path, metavar="FILE", help="one gene symbol a line, for a vocabulary of your own")
    add("--merge-lora", action="store_true", help="add low-rank adapters to the weights (default: kept apart)")
    add("--training-state", action="store_true", help="also write training.ckpt: Adam's moments, step, learning rate")
    add("--skip-validation", action="store_true", help="do not read the result back and compare")
    add("--backend", choices=("own", "mindspore"), default="own", help="who reads the file; mindspore opens encrypted")
    add("--key", type=Path, metavar="FILE", help=f"file with the key, for --backend mindspore; {PYTHON} names a python")
    add("--key-mode", choices=MODES, default=MODES[0], help="cipher of an encrypted file (default: AES-GCM)")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    program = "ms2pt.py" if __name__ == "__main__" else "cellfm convert"
    given = vars(parser(program).parse_args(arguments))
    checkpoint = given.pop("checkpoint")
    validate = not given.pop("skip_validation")
    dtype = DTYPE_OPTIONS[given.pop("dtype")] if given["dtype"] else given.pop("dtype")
    try:
        with stoppable(), naming(checkpoint):
            done = convert_file(checkpoint, Options(**given, dtype=dtype, validate=validate))
    except (UserError, OSError) as problem:
        print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    show(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
