"""Convert scFoundation's weights into a model folder: ``python convert/scf2pt.py models.ckpt``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a script, perhaps uninstalled: make the checkout importable (PEP 366)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import cellfm_torch.convert  # noqa: F401  relative imports below need their package loaded

    __package__ = "cellfm_torch.convert"

from cellfm_torch.answers import answer
from cellfm_torch.command_line import complain, interrupted
from cellfm_torch.errors import UserError, naming

from .options import PARTS, of_scfoundation

if TYPE_CHECKING:
    from .scf_conversion import Done


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
    given = vars(of_scfoundation("scf2pt.py" if __name__ == "__main__" else "cellfm convert").parse_args(arguments))
    # Imported here, or help would wait for torch.
    from rich.console import Console

    from .folder import stoppable
    from .scf_conversion import Options, convert_part
    from .write import DTYPE_OPTIONS

    checkpoint, validate = given.pop("checkpoint"), not given.pop("skip_validation")
    dtype = DTYPE_OPTIONS[name] if (name := given.pop("dtype")) else None
    try:
        with stoppable(), naming(checkpoint), Console(stderr=True).status(f"converting {checkpoint}"):
            done = convert_part(checkpoint, Options(**given, dtype=dtype, validate=validate))
    except (UserError, OSError) as problem:
        return complain(problem)
    except KeyboardInterrupt:
        return interrupted("nothing was written")
    answer(output=done.folder, parameters=done.parameters)
    show(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
