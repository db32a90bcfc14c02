"""Splits by perturbation: what of a test condition was seen in training is part of the split.

A gene is seen where it occurs in a training condition. The groups are those of GEARS (Roohani et al. 2023, Nature
Biotechnology 42, 927): singles of unseen genes, and doubles of which none, one or both genes were seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cellfm_torch.errors import UserError, examples
from cellfm_torch.perturbation.gene.effects import Condition, condition_name

UNSEEN_SINGLE = "unseen single"
SEEN_SINGLE = "seen single"
"""Only in a split that the user gave: the gene occurs in a training double."""

GROUPS = (UNSEEN_SINGLE, "combo seen 0", "combo seen 1", "combo seen 2")
"""In the order of tables."""

PARTS = ("train", "val", "test")
FEWEST_GENES = 5


@dataclass(frozen=True)
class Split:
    """Conditions by part; control belongs to every part and is in none.

    Attributes
    ----------
    name
        ``"simulation"``, ``"none"``, or where it was read from.
    seed
        That drew it; 0 where nothing was drawn.
    train, val, test : tuple of Condition
        In alphabetical order.
    group
        Of each test condition: one of `GROUPS`, ``"seen single"``, or ``"combo seen K"`` of more than two genes.
    """

    name: str
    seed: int
    train: tuple[Condition, ...]
    val: tuple[Condition, ...]
    test: tuple[Condition, ...]
    group: Mapping[Condition, str] = field(default_factory=dict)

    def tested(self, group: str) -> tuple[Condition, ...]:
        """Return the test conditions of a group."""
        return tuple(condition for condition in self.test if self.group[condition] == group)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups that have a test condition, in the order of tables."""
        there = set(self.group.values())
        return (*(group for group in GROUPS if group in there), *sorted(there - set(GROUPS)))


def make_split(
    name: str, seed: int, train: Iterable[Condition], val: Iterable[Condition], test: Iterable[Condition]
) -> Split:
    """Return a split with the groups of its test conditions, checked for leaks."""
    parts = [tuple(sorted(part)) for part in (train, val, test)]
    split = Split(name, seed, parts[0], parts[1], parts[2], groups_of(parts[0], parts[2]))
    check_leaks(split)
    return split


def groups_of(train: Iterable[Condition], test: Iterable[Condition]) -> dict[Condition, str]:
    """Return the group of each test condition."""
    seen = {gene for condition in train for gene in condition}
    groups: dict[Condition, str] = {}
    for condition in test:
        number = len(seen.intersection(condition))
        if len(condition) == 1:
            groups[condition] = SEEN_SINGLE if number else UNSEEN_SINGLE
        else:
            groups[condition] = f"combo seen {number}"
    return groups


def check_leaks(split: Split) -> None:
    """Refuse a split of which a test says less than it seems to.

    Raises
    ------
    ValueError
        If a condition is in two parts or is control, the group of a test condition is not what was seen of it, or a
        gene whose single is tested as unseen occurs in training or validation.
    """
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        both = sorted(set(getattr(split, one)) & set(getattr(split, other)))
        if both:
            raise ValueError(f"split '{split.name}': {_some(both)} both in {one} and in {other}")
    for part in PARTS:
        conditions = getattr(split, part)
        if len(set(conditions)) < len(conditions) or () in conditions:
            raise ValueError(f"split '{split.name}': {part} names a condition twice, or control")
    wrong = [c for c, group in groups_of(split.train, split.test).items() if split.group.get(c) != group]
    if wrong or len(split.group) != len(split.test):
        raise ValueError(
            f"split '{split.name}': the group of {_some(wrong or split.group)} is not what training has of it"
        )
    unseen = {gene for condition in split.tested(UNSEEN_SINGLE) for gene in condition}
    leaked = sorted({condition for condition in split.val if unseen.intersection(condition)})
    if leaked:
        raise ValueError(f"split '{split.name}': {_some(leaked)} of validation has a gene that is tested as unseen")


def no_split(conditions: Sequence[Condition]) -> Split:
    """Return a split in which everything is trained on."""
    return make_split("none", 0, conditions, (), ())


def simulation_split(
    conditions: Sequence[Condition],
    seed: int = 0,
    *,
    test_share: float = 0.25,
    val_share: float = 0.1,
    seen_doubles_share: float = 0.25,
) -> Split:
    """Return GEARS' simulation split: genes are held out, and with them every double that has one.

    A share of the genes is unseen: all their conditions are tested. Of the other genes a share goes to validation, with
    all their conditions. Of the doubles of two remaining genes a share is tested and a share validated; all else is
    trained on. Validation genes are never trained on, so they do not count as seen in a test double either.

    Parameters
    ----------
    conditions
        Perturbations that have cells; control is left out where it is among them.
    seed
        Of the draw.
    test_share, val_share
        Of the perturbed genes; at least one each.
    seen_doubles_share
        Of the doubles of two genes in training: tested as ``"combo seen 2"``; at least one where there are four.

    Raises
    ------
    UserError
        If fewer than 5 genes are perturbed, or nothing is left to train on.
    """
    perturbed = sorted({condition for condition in conditions if condition})
    genes = sorted({gene for condition in perturbed for gene in condition})
    if len(genes) < FEWEST_GENES:
        raise UserError(
            f"split: {len(genes)} perturbed genes are too few to hold some out, {FEWEST_GENES} are needed: "
            "train on all (split=none) or add conditions"
        )
    rng = np.random.default_rng(seed)
    order = [genes[int(i)] for i in rng.permutation(len(genes))]
    num_test, num_val = (max(1, round(share * len(genes))) for share in (test_share, val_share))
    unseen, validated = set(order[:num_test]), set(order[num_test : num_test + num_val])
    parts: dict[str, list[Condition]] = {part: [] for part in PARTS}
    both_seen: list[Condition] = []
    for condition in perturbed:
        if unseen.intersection(condition):
            parts["test"].append(condition)
        elif validated.intersection(condition):
            parts["val"].append(condition)
        elif len(condition) > 1:
            both_seen.append(condition)
        else:
            parts["train"].append(condition)
    shuffled = [both_seen[int(i)] for i in rng.permutation(len(both_seen))]
    tested = _some_of(len(shuffled), seen_doubles_share)
    also = tested + _some_of(len(shuffled) - tested, val_share)
    parts["test"] += shuffled[:tested]
    parts["val"] += shuffled[tested:also]
    parts["train"] += shuffled[also:]
    if len(parts["train"]) < 2 or not parts["val"] or not parts["test"]:
        sizes = ", ".join(f"{len(parts[part])} in {part}" for part in PARTS)
        raise UserError(f"split: of {len(perturbed)} conditions {sizes}: too few, or the shares leave none to train on")
    return make_split("simulation", seed, parts["train"], parts["val"], parts["test"])


def _some_of(number: int, share: float) -> int:
    """Return a share of a number; at least one where there are four or more and a share is asked for."""
    return max(round(share * number), 1 if number >= 4 and share > 0 else 0)


def _some(conditions: Iterable[Condition]) -> str:
    return examples(map(condition_name, conditions))
