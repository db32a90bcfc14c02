"""Splits in files: kept with a run, or given by the user as JSON, as CSV or as a column of the cells."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.errors import UserError, examples, nearest
from cellfm_torch.files import write_text
from cellfm_torch.perturbation.gene.conditions import is_control
from cellfm_torch.perturbation.gene.effects import Condition, condition_name
from cellfm_torch.perturbation.gene.splits import PARTS, Split, make_split

PART_OF = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "ood": "test",
}
"""Words for the three parts in files of others."""

LEFT_OUT = frozenset({"", "none", "nan", "<na>"})
"""Words for conditions that are in no part."""

Parse = Callable[[str], Condition]


def parse_condition(word: str) -> Condition:
    """Return the condition of a word such as ``KLF1+ctrl``, ``CEBPA+KLF1`` or ``ctrl``."""
    parts = {part.strip() for part in word.split("+")}
    return tuple(sorted(part for part in parts if part and not is_control(part)))


def save_split(split: Split, path: str | Path) -> None:
    """Write a split as JSON, beside and renamed."""
    described = {
        "name": split.name,
        "seed": split.seed,
        **{part: [condition_name(condition) for condition in getattr(split, part)] for part in PARTS},
        "group": {condition_name(condition): split.group[condition] for condition in split.test},
    }
    write_text(path, json.dumps(described, indent=2) + "\n")


def load_split(path: str | Path, conditions: Iterable[Condition] | None = None) -> Split:
    """Read a split that `save_split` wrote.

    Parameters
    ----------
    conditions
        Those that have cells; every condition of the split must be among them. None: not checked.

    Raises
    ------
    UserError
        If the file is missing, damaged or changed, or names a condition without cells.
    """
    described = _json(path)
    try:
        parts = [[parse_condition(str(word)) for word in described[part]] for part in PARTS]
        name, seed, groups = str(described["name"]), int(described["seed"]), dict(described["group"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is no split of a run: what it lacks or has otherwise is {error}") from None
    if conditions is not None:
        _refuse_unknown(path, [condition for part in parts for condition in part], set(conditions))
    try:
        split = make_split(name, seed, *parts)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if groups != {condition_name(condition): group for condition, group in split.group.items()}:
        raise UserError(f"{path}: its groups are not those of its conditions: the file was changed by hand")
    return split


def given_split(path: str | Path, conditions: Iterable[Condition], *, parse: Parse = parse_condition) -> Split:
    """Read the user's split.

    Parameters
    ----------
    path
        JSON with lists ``train``, ``val`` and ``test`` (``val`` may be missing), or CSV with the columns ``condition``
        and ``split``.
    conditions
        Those that have cells; each must be in one part, or in none by name (``none``).
    parse
        Reads a name of a condition.

    Raises
    ------
    UserError
        If the file is missing or damaged, names a condition without cells or one twice, or leaves one out.
    """
    if Path(path).suffix.lower() in {".csv", ".tsv", ".txt"}:
        rows = _rows(path)
    else:
        described = _json(path)
        rows = [(word, part) for part, words in described.items() for word in _words(path, part, words)]
    return _of_rows(str(path), rows, {condition for condition in conditions if condition}, parse)


def column_split(
    column: str, cells: Sequence[Condition], words: Sequence[object], conditions: Iterable[Condition] | None = None
) -> Split:
    """Return the split that a column of the cells' table says.

    Parameters
    ----------
    column
        Its name, for messages.
    cells
        Condition of each cell; what control cells say does not matter.
    words
        ``train``, ``val`` or ``test`` of each cell.
    conditions
        None: those of the cells.

    Raises
    ------
    UserError
        If a word is another, cells of one condition say two, or a condition has no part.
    """
    rows = sorted({(condition_name(c), str(word)) for c, word in zip(cells, words, strict=True) if c})
    known = {condition for condition in (cells if conditions is None else conditions) if condition}
    return _of_rows(f"column '{column}'", rows, known, parse_condition)


def _of_rows(source: str, rows: Iterable[tuple[str, str]], known: set[Condition], parse: Parse) -> Split:
    """Return the split of pairs of a condition's name and a part's."""
    part_of: dict[Condition, str] = {}
    for word, given in rows:
        condition, asked = parse(word), given.strip().lower()
        if not condition:
            continue
        if asked not in PART_OF and asked not in LEFT_OUT:
            raise UserError(f"{source}: '{given}' of {word} is no part of a split; use train, val, test or none")
        part = PART_OF.get(asked, "")
        if part_of.setdefault(condition, part) != part:
            raise UserError(f"{source}: {condition_name(condition)} is in two parts; keep one")
    _refuse_unknown(source, part_of, known)
    missing = sorted(known - part_of.keys())
    if missing:
        names = examples(map(condition_name, missing))
        raise UserError(
            f"{source}: {len(missing)} conditions have no part: {names}; give each train, val, test or none"
        )
    parts = [[condition for condition, there in part_of.items() if there == part] for part in PARTS]
    if not parts[0]:
        raise UserError(f"{source}: no condition is in train")
    try:
        return make_split(source, 0, *parts)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None


def _refuse_unknown(source: str | Path, named: Iterable[Condition], known: set[Condition]) -> None:
    unknown = sorted(set(named) - known)
    if unknown:
        names = [condition_name(condition) for condition in unknown]
        hint = nearest(names[0], map(condition_name, known))
        raise UserError(f"{source}: {len(unknown)} conditions have no cells: {examples(names)}{hint or ''}")


def _json(path: str | Path) -> dict[str, Any]:
    try:
        described = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a split is JSON or CSV") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(described, Mapping):
        raise UserError(f"{path}: is no split: needs the lists train, val and test")
    return dict(described)


def _words(path: str | Path, part: str, words: object) -> list[str]:
    """Return the conditions of a part; other entries, such as the seed of our own files, have none."""
    if part.strip().lower() not in PART_OF:
        return []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{path}: '{part}' is no list of names of conditions")
    return words


def _rows(path: str | Path) -> list[tuple[str, str]]:
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            start = file.read(4096)
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter="\t" if "\t" in start.partition("\n")[0] else ","))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a split is JSON or CSV") from None
    except (ValueError, OSError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from None
    if not rows or not {"condition", "split"} <= set(rows[0]):
        raise UserError(f"{path}: needs the columns 'condition' and 'split', and a row per condition")
    for number, row in enumerate(rows, start=2):
        if row["condition"] is None or row["split"] is None:
            raise UserError(f"{path}: line {number} is too short")
    return [(row["condition"], row["split"]) for row in rows]
