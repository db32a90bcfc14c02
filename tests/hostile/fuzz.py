"""Read hostile inputs by the thousand: each must be read, or refused in one clear line that names it.

    python tests/hostile/fuzz.py [--targets h5ad,manifest] [--cases 10000] [--first 0]

Prints a table by target, and every fault: a traceback, a crash, a hang, more than 2 GB. A case is a number, and those
that once were faults are in corpus.json, which the tests read again.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[i]) for i in (0, 2)] + [str(Path(__file__).parents[1] / "data")]

import of_cells  # noqa: E402
import of_texts  # noqa: E402
import of_weights  # noqa: E402
from harness import READ, REFUSED, Target, run  # noqa: E402

TARGETS: dict[str, Target] = {
    "cells": of_cells.cells,
    "h5ad": of_cells.h5ad,
    "mindspore": of_weights.mindspore,
    "scfoundation": of_weights.scfoundation,
    "model folder": of_weights.model_folder,
    "manifest": of_texts.manifest,
    "gene table": of_texts.gene_table,
    "store": of_texts.store,
    "config": of_texts.config,
}


def kind_of(message: str) -> str:
    """A message without what differs from file to file."""
    text = re.sub(r"(/\S+|\b\S*fuzz\S*)(?=[:,])", "FILE", message)
    text = re.sub(r"'[^']*'|\(.*?\)+", "...", text)
    text = re.sub(r"\S+ for gene .*? in cell .*? is", "N for gene G in cell C is", text)
    return re.sub(r"\b-?\d[\d,.]*(e[+-]?\d+)?", "N", text)[:100]


def main() -> int:
    """Run all cases and print the table; returns 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--cases", type=int, default=10_000, help="of each target")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--messages", action="store_true", help="also what was said, by kind")
    options = parser.parse_args()
    faults = 0
    for name in options.targets.split(","):
        began, outcomes = time.monotonic(), []
        for outcome in run(TARGETS[name], range(options.first, options.first + options.cases)):
            outcomes.append(outcome)
            if outcome.verdict not in (READ, REFUSED):
                faults += 1
                print(name, outcome.number, outcome.what, outcome.verdict, outcome.message[:300].strip(), flush=True)
        verdicts = Counter(outcome.verdict.split(":")[0] for outcome in outcomes)
        parts = ", ".join(f"{number:,} {verdict}" for verdict, number in sorted(verdicts.items()))
        print(f"{name}: {len(outcomes):,} cases, {parts}; {time.monotonic() - began:.0f} s", flush=True)
        if options.messages:
            said = Counter(kind_of(outcome.message) for outcome in outcomes if outcome.verdict == REFUSED)
            for message, number in said.most_common():
                print(f"{number:6,}  {message}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
