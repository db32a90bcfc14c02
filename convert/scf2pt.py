"""Convert scFoundation's weights into a model folder: ``python convert/scf2pt.py models.ckpt``."""

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

from .folder import stoppable
from .scf_ckpt import PARTS
from .scf_conversion import Done, Options, convert_part
from .write import DTYPE_OPTIONS


def parser(program: str) -> argparse.ArgumentParser:
    """Return the command's options."""
    made = OneLineParser(
        prog=program,
        description="scFoundation's models.ckpt -> model folder for load_model.",
        epilog=f"example: {program} models.ckpt --part gene",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("checkpoint", type=Path, help="models.ckpt as published: parts cell, gene and rde")
    parts = "; ".join(f"{name}: {use}" for name, use in PARTS.items())
    add("--part", choices=tuple(PARTS), default="cell", help=f"which weights (default: cell). {parts}")
    add("--output", type=Path, metavar="FOLDER", help="folder to write (default: beside the checkpoint)")
    add("--dtype", choices=DTYPE_OPTIONS, help="of the written weights (default: as in the checkpoint)")
    add("--genes", type=Path, metavar="FILE", help="one gene symbol a line, for a vocabulary of your own")
    add("--skip-validation", action="store_true", help="do not read the result back and compare")
    return made


def show(done: Done) -> None:
    """Print a table of what was done, then what to do next."""
    from rich.console import Console
    from rich.table import Table

    config, record = done.config, done.record
    table = Table(title=f"{record['source']} -> {done.folder}", title_justify="left", show_header=False)
    table.add_row("part", f"{record['part']}: {PARTS[record['part']]}")
    encoder = f"encoder {config.encoder_layers} layers, width {config.encoder_dim}, {config.encoder_heads} heads"
    decoder = f"decoder {config.decoder_layers} layers, width {config.decoder_dim}, {config.decoder_heads} heads"
    table.add_row("network", f"{encoder}; {decoder}; {config.num_genes:,} genes")
    table.add_row("tensors", f"{len(record['names']):,}, projections of the decoder among them")
    table.add_row("numbers", f"{done.parameters:,}")
    table.add_row("bytes", f"{done.num_bytes:,}")
    weights = record.get("validation", {}).get("weights")
    checked = "skipped" if weights is None else "identical" if not weights else f"off by {weights:.1e} of the largest"
    table.add_row("weights read back", checked)
    if "licence" in record:
        table.add_row("licence", "non-commercial research only: do not redistribute")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f"{done.folder}: load it with load_model({str(done.folder)!r})", markup=False)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    from rich.console import Console

    given = vars(parser("scf2pt.py" if __name__ == "__main__" else "cellfm convert").parse_args(arguments))
    checkpoint, validate = given.pop("checkpoint"), not given.pop("skip_validation")
    dtype = DTYPE_OPTIONS[name] if (name := given.pop("dtype")) else None
    try:
        with stoppable(), naming(checkpoint), Console(stderr=True).status(f"converting {checkpoint}"):
            done = convert_part(checkpoint, Options(**given, dtype=dtype, validate=validate))
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
