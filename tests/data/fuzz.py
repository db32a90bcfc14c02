"""Read damaged files by the thousand: each must end in cells or in one clear line.

    python tests/data/fuzz.py [--cases 1000] [--first 0]

A process of its own reads the files, with a limit on memory and time, so that a crash or a hang is seen and counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import re
import resource
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import numpy as np  # noqa: E402
import scipy.sparse as sp  # noqa: E402
from mutations import damaged_file  # noqa: E402

from cellfm_torch.data.file_parts import open_files  # noqa: E402
from cellfm_torch.data.genes import GeneVocab  # noqa: E402
from cellfm_torch.data.reader import read_cells  # noqa: E402
from cellfm_torch.errors import UserError  # noqa: E402

SECONDS = 60
"""A file of a few kilobytes that takes longer hangs."""

MEMORY = 6 << 30
"""Bytes of address space of the process that reads."""

LONGEST = 700
"""Characters of a line that somebody may be expected to read."""


class Outcome(NamedTuple):
    """What became of a case: ``"cells"``, ``"one line"``, or a fault."""

    number: int
    what: str
    verdict: str
    message: str


def read_case(number: int, folder: Path) -> tuple[str, str, str]:
    """Write and read one case; returns what was done, the verdict and the message."""
    genes = list(GeneVocab.bundled(24078).symbols[500:560])
    path, what = damaged_file(number, folder, genes)
    try:
        found = read_cells(path, GeneVocab(genes), min_genes=1)
    except UserError as error:
        message = str(error)
        named = folder.name in message or path.name in message
        sound = "\n" not in message and len(message) < LONGEST and named
        return what, "one line" if sound else "fault: no clear line", message
    except BaseException as error:
        return what, f"fault: {type(error).__name__}", str(error)
    counts = found.counts
    if not streams_alike(path, GeneVocab(genes), counts):
        return what, "fault: streamed otherwise", ""
    sound = counts.dtype == np.int32 and counts.nnz and counts.data.min() > 0 and counts.shape == (len(found), 60)
    return what, "cells" if sound else "fault: no counts", ""


def streams_alike(path: Path, vocab: GeneVocab, counts: sp.csr_matrix) -> bool:
    """Whether a file that stays on disk gives the counts that were read into memory, if it can be streamed."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the report of the cells
            part = open_files(path, vocab, stream=True, min_genes=1)
    except UserError as refusal:
        return "cannot be streamed" in str(refusal)
    rows = part.table.read(np.arange(len(part.table)))
    arrays = zip(rows, (counts.indptr, counts.indices, counts.data), strict=True)
    return all(np.array_equal(ours, theirs) for ours, theirs in arrays)


def _reader(pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    while True:
        number = pipe.recv()
        folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        try:
            pipe.send(read_case(number, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def run(numbers: Sequence[int]) -> Iterator[Outcome]:
    """Yield the outcome of each case."""
    context = multiprocessing.get_context("spawn")
    process = None
    for number in numbers:
        if process is None:
            ours, theirs = context.Pipe()
            process = context.Process(target=_reader, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            patience = SECONDS + 60  # the first one waits for the imports
        ours.send(number)
        try:
            if ours.poll(patience):
                yield Outcome(number, *ours.recv())
                patience = SECONDS
                continue
            outcome = Outcome(number, "?", "fault: hang", "")
        except EOFError:
            process.join()
            outcome = Outcome(number, "?", f"fault: crash, exit code {process.exitcode}", "")
        process.kill()
        process = None
        yield outcome
    if process is not None:
        process.kill()


def kind_of(message: str) -> str:
    """A message without what differs from file to file."""
    text = re.sub(r"(/\S+|\b\S*fuzz\S*)(?=[:,])", "FILE", message)
    text = re.sub(r"'[^']*'|\(.*?\)+", "...", text)
    text = re.sub(r"\S+ for gene .*? in cell .*? is", "N for gene G in cell C is", text)
    return re.sub(r"\b-?\d[\d,.]*(e[+-]?\d+)?", "N", text)[:100]


def main() -> int:
    """Run all cases and print the table; returns 1 if there was a fault."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    outcomes = list(run(range(options.first, options.first + options.cases)))
    verdicts = Counter((outcome.what.split(":")[0].split(" ")[0], outcome.verdict) for outcome in outcomes)
    for (format_name, verdict), number in sorted(verdicts.items()):
        print(f"{number:6,}  {format_name:12}  {verdict}")
    print()
    for message, number in Counter(kind_of(o.message) for o in outcomes if o.verdict == "one line").most_common():
        print(f"{number:6,}  {message}")
    faults = [outcome for outcome in outcomes if outcome.verdict.startswith("fault")]
    for fault in faults:
        print(fault.number, fault.what, fault.verdict, fault.message[:300])
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
