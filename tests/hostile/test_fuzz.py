"""A few of the thousands of hostile inputs of fuzz.py, and all that once were faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz import TARGETS
from harness import READ, REFUSED, run

CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text())
"""By target: cases that once ended in a traceback, a crash or a hang."""


def test_the_corpus_is_of_targets_that_there_are() -> None:
    assert set(CORPUS) <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_hostile_inputs_are_read_or_refused_in_one_line(target: str) -> None:
    fresh = list(range(0, 1000, 25))
    outcomes = list(run(TARGETS[target], fresh + CORPUS.get(target, [])))
    assert len(outcomes) == len(fresh) + len(CORPUS.get(target, []))
    assert not [outcome for outcome in outcomes if outcome.verdict not in (READ, REFUSED)]
    # Damage that is not noticed in most cases would be none; and some inputs must be sound enough to be read.
    refused = sum(outcome.verdict == REFUSED for outcome in outcomes)
    assert len(fresh) / 4 < refused < len(outcomes)
