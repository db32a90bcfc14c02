"""The way back, for people who must run on Ascend: ``python convert/pt2ms.py FOLDER`` writes a MindSpore checkpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

if not __package__:  # run as a script, perhaps uninstalled: make the checkout importable (PEP 366)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import cellfm_torch.convert  # noqa: F401  relative imports below need their package loaded

    __package__ = "cellfm_torch.convert"

from cellfm_torch.command_line import OneLineParser, complain
from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside
from cellfm_torch.model.checkpoint import CONFIG, WEIGHTS

from .folder import RECORD
from .heads import HEADS
from .mindspore_ckpt import Source
from .names import source_name
from .network import recognise
from .tensors import Entry
from .wire import SLICE, value_header


def write_checkpoint(folder: Path, output: Path) -> int:
    """Write the tensors of a model folder under their official names, bit by bit as they are.

    Parameters
    ----------
    folder
        With config.json, model.safetensors and, where there are heads, heads.safetensors.
    output
        The ``.ckpt``, written beside and renamed.

    Returns
    -------
    Number of tensors.

    Raises
    ------
    UserError
        If the folder holds no CellFM, or a tensor that the official model has no name for.
    """
    from cellfm_torch.model import CellFM

    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} is not a model folder: it has no {CONFIG} or no {WEIGHTS}")
    if output.exists():
        raise UserError(f"{output} exists; say --output ANOTHER")
    network = CellFM.from_pretrained(folder)  # refuses what is damaged, incomplete or another model
    extractor = not network.config.decoders
    with ExitStack() as stack:
        files = [stack.enter_context(Source(folder / name)) for name in (WEIGHTS, HEADS) if (folder / name).is_file()]
        found: dict[str, tuple[Source, str]] = {}
        for file in files:
            for target in file.entries:
                name = source_name(target, extractor=extractor)
                if name is None:
                    raise UserError(f"{file.path} holds {target}, for which the official model has no name")
                found[name] = (file, target)
        found = dict(sorted(found.items(), key=_recorded_order(folder)))
        entries = {name: file.entries[target] for name, (file, target) in found.items()}
        # The same check as on the way here, so that what is written can come back.
        recognise(entries, num_heads=network.config.num_heads, genes=network.genes)
        try:
            with written_beside(output) as part, part.open("wb") as out:
                for name, (file, target) in found.items():
                    for piece in _messages(name, file.entries[target], file.pieces(target)):
                        out.write(piece)
        except OSError as problem:
            raise UserError(f"{output} cannot be written ({problem.strerror or problem})") from problem
    return len(found)


def _recorded_order(folder: Path) -> Callable[[tuple[str, object]], int]:
    """Return a sorting key: the order of the checkpoint the folder was made from, where that is recorded."""
    try:
        names = list(json.loads((folder / RECORD).read_text(encoding="utf-8"))["names"])
    except (OSError, ValueError, KeyError, TypeError):
        names = []
    place = {name: i for i, name in enumerate(names)}
    return lambda item: place.get(item[0], len(place))


def _messages(name: str, entry: Entry, content: Iterator[bytes]) -> Iterator[bytes]:
    """Yield one tensor as MindSpore writes it: a message, or several where it is larger than a slice."""
    left, room = entry.num_bytes, 0
    if not left:
        yield value_header(name, entry.kind, entry.dims, 0)
    for piece in content:
        at = 0
        while at < len(piece):
            if not room:
                room = min(SLICE, left)
                left -= room
                yield value_header(name, entry.kind, entry.dims, room)
            taken = piece[at : at + room]
            at += len(taken)
            room -= len(taken)
            yield taken


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = OneLineParser(prog="pt2ms.py", description="Model folder -> MindSpore checkpoint.", allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="what ms2pt.py or save_pretrained wrote")
    parser.add_argument("--output", type=Path, metavar="CKPT", help="file to write (default: beside the folder)")
    given = parser.parse_args(arguments)
    output = given.output or given.folder.absolute().with_name(given.folder.absolute().name + ".ckpt")
    try:
        count = write_checkpoint(given.folder, output)
    except (UserError, OSError) as problem:
        return complain(problem)
    print(f"{output}: {count} tensors; the licence of the weights holds for it too")
    return 0


if __name__ == "__main__":
    sys.exit(main())
