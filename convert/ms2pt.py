"""Convert an official MindSpore checkpoint into a model folder: ``python convert/ms2pt.py CKPT``."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a script, perhaps uninstalled: make the checkout importable (PEP 366)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import cellfm_torch.convert  # noqa: F401  relative imports below need their package loaded

    __package__ = "cellfm_torch.convert"

from cellfm_torch.answers import answer
from cellfm_torch.command_line import complain, interrupted
from cellfm_torch.errors import UserError, naming

from .options import of_mindspore


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    program = "ms2pt.py" if __name__ == "__main__" else "cellfm convert"
    given = vars(of_mindspore(program).parse_args(arguments))
    # Imported here, or help would wait for torch.
    from .conversion import Options, convert_file
    from .folder import stoppable
    from .report import show
    from .write import DTYPE_OPTIONS

    checkpoint = given.pop("checkpoint")
    validate = not given.pop("skip_validation")
    dtype = DTYPE_OPTIONS[given.pop("dtype")] if given["dtype"] else given.pop("dtype")
    try:
        with stoppable(), naming(checkpoint):
            done = convert_file(checkpoint, Options(**given, dtype=dtype, validate=validate))
    except (UserError, OSError) as problem:
        return complain(problem)
    except KeyboardInterrupt:
        return interrupted("nothing was written")
    answer(output=done.folder)
    show(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
