"""Effects that are planted into cells: which genes stand together, what each moves, which pairs interact.

Shapes: M conditions, G genes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import log_normalised
from cellfm_torch.errors import UserError
from cellfm_torch.perturbation.gene.effects import Condition

Floats = NDArray[np.float64]

ANCHORS = {
    "myeloid": "LYZ",
    "B cell": "CD79A",
    "cytotoxic": "NKG7",
    "ribosomal": "RPL32",
    "early response": "FOS",
    "interferon": "ISG15",
    "T cell": "CD3D",
    "platelet": "PPBP",
}
"""A gene of each module; the others are those that go with it in the cells."""

LEFT_OUT = ("HLA-", "LINC", "RP11-", "MALAT1")
"""Beginnings of names that one of the published lists of genes lacks: its model would have no embedding of them."""

SHARED_TARGETS = 40
PRIVATE_TARGETS = 10
INTERACTION_TARGETS = 30
TARGET_LFC = 1.0
INTERACTION_LFC = 1.5
OWN_LFC = -2.0
"""Natural logarithm of the fold change of counts."""

STRENGTHS = (0.7, 1.3)


@dataclass(frozen=True)
class Programme:
    """Genes that move together, and how far: natural logarithm of the fold change of counts."""

    targets: tuple[str, ...]
    lfc: tuple[float, ...]


@dataclass(frozen=True)
class Module:
    """Genes whose perturbations move the same programme."""

    name: str
    genes: tuple[str, ...]
    programme: Programme


@dataclass(frozen=True)
class Planted:
    """The truth of a simulation.

    Attributes
    ----------
    genes : tuple of str, G
        That are read out.
    share : (G,) float64
        Expected share of a control cell's counts.
    conditions : tuple of Condition, M
        That have cells, without control.
    modules
        Of the perturbed genes.
    strength
        Of a perturbed gene's programme.
    private
        What only this gene moves.
    interactions
        By the names of two modules: what moves where genes of both are perturbed, and by none of them alone.
    """

    genes: tuple[str, ...]
    share: Floats
    conditions: tuple[Condition, ...]
    modules: tuple[Module, ...]
    strength: Mapping[str, float]
    private: Mapping[str, Programme]
    interactions: Mapping[tuple[str, str], Programme]

    @property
    def lfc(self) -> Floats:
        """True log fold change of the counts of each condition, (M, G)."""
        return np.stack([self.lfc_of(condition) for condition in self.conditions])

    def lfc_of(self, condition: Condition) -> Floats:
        """Return the true log fold change of a condition, with cells or without, (G,)."""
        total = self.interaction_lfc(condition)
        for gene in condition:
            total = total + self._vector(self.module_of(gene).programme) * self.strength[gene]
            total = total + self._vector(self.private[gene])
            total[self.genes.index(gene)] += OWN_LFC
        return total

    def interaction_lfc(self, condition: Condition) -> Floats:
        """Return what the genes of a condition do only together, (G,)."""
        names = {self.module_of(gene).name for gene in condition}
        total = np.zeros(len(self.genes))
        for pair, programme in self.interactions.items():
            if names.issuperset(pair):
                total += self._vector(programme)
        return total

    def interacts(self, condition: Condition) -> bool:
        """Say whether the genes of a condition do something together that none does alone."""
        return bool(self.interaction_lfc(condition).any())

    def module_of(self, gene: str) -> Module:
        """Return the module of a perturbed gene."""
        return next(module for module in self.modules if gene in module.genes)

    def _vector(self, programme: Programme) -> Floats:
        where = {gene: i for i, gene in enumerate(self.genes)}
        vector = np.zeros(len(self.genes))
        vector[[where[gene] for gene in programme.targets]] = programme.lfc
        return vector


def coexpressed(matrix: Any, genes: NDArray[Any], sizes: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Return each module's genes: its anchor, and the genes that go with it most and with no other anchor more.

    Parameters
    ----------
    matrix : (B, G)
        Counts of cells of all types, whose differences are what genes of a module share.
    genes : (G,) str
        Symbols.
    sizes
        Genes of each module, by the names of `ANCHORS`.

    Raises
    ------
    UserError
        If an anchor is missing or has too few companions.
    """
    values = log_normalised(matrix).tocsc()
    seen = np.asarray((values > 0).mean(0)).ravel()
    where = {str(gene): i for i, gene in enumerate(genes)}
    missing = [ANCHORS[name] for name in sizes if ANCHORS[name] not in where]
    if missing:
        raise UserError(f"simulation: the cells lack {', '.join(missing)}, around which modules are found")
    anchors = [where[ANCHORS[name]] for name in sizes]
    usable = np.flatnonzero((seen > 0.02) & ~np.char.startswith(genes.astype(str)[:, None], LEFT_OUT).any(1))
    values = values.astype(np.float64)
    mean, square = (np.asarray(x.mean(0)).ravel() for x in (values, values.multiply(values)))
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-12))
    joint = np.asarray((values[:, anchors].T @ values[:, usable]).todense()) / values.shape[0]
    correlation = (joint - np.outer(mean[anchors], mean[usable])) / np.outer(deviation[anchors], deviation[usable])
    own = correlation.argmax(0)
    found = {}
    for row, (name, size) in enumerate(sizes.items()):
        order = np.flatnonzero(own == row)[np.argsort(-correlation[row, own == row], kind="stable")]
        found[name] = tuple(str(genes[usable[i]]) for i in order[:size])
        if len(found[name]) < size:
            raise UserError(f"simulation: only {len(found[name])} genes go with {ANCHORS[name]}, {size} are asked for")
    return found


def plant(
    groups: Mapping[str, tuple[str, ...]],
    genes: tuple[str, ...],
    share: Floats,
    usable: NDArray[np.bool_],
    *,
    doubles: int,
    interactions: int,
    rng: np.random.Generator,
) -> Planted:
    """Return effects whose targets are disjoint, so that no two of them meet in a gene.

    Parameters
    ----------
    groups
        Genes of each module.
    genes, share
        As `Planted` has them.
    usable : (G,) bool
        Genes whose counts can be seen to rise and fall.
    doubles
        Half of them of interacting modules.
    interactions
        Pairs of modules that interact; no module is in two.

    Raises
    ------
    UserError
        If there are too few usable genes, modules or pairs of genes.
    """
    if 2 * interactions > len(groups):
        raise UserError(f"simulation: {interactions} interacting pairs need {2 * interactions} modules")
    perturbed = [gene for group in groups.values() for gene in group]
    pool = rng.permutation(
        [gene for gene, use in zip(genes, usable, strict=True) if use and gene not in set(perturbed)]
    )
    needed = SHARED_TARGETS * len(groups) + PRIVATE_TARGETS * len(perturbed) + INTERACTION_TARGETS * interactions
    if needed > len(pool):
        raise UserError(
            f"simulation: {needed} target genes are needed, {len(pool)} are expressed: ask for fewer singles"
        )
    taken = 0

    def programme(number: int, size: float) -> Programme:
        nonlocal taken
        targets = tuple(str(gene) for gene in pool[taken : taken + number])
        taken += number
        return Programme(targets, tuple(float(sign) for sign in size * rng.choice([-1.0, 1.0], number)))

    modules = tuple(Module(name, group, programme(SHARED_TARGETS, TARGET_LFC)) for name, group in groups.items())
    strength = {gene: float(rng.uniform(*STRENGTHS)) for gene in perturbed}
    private = {gene: programme(PRIVATE_TARGETS, TARGET_LFC) for gene in perturbed}
    order = [str(name) for name in rng.permutation(list(groups))]
    pairs = [tuple(sorted(order[2 * i : 2 * i + 2])) for i in range(interactions)]
    together = {(a, b): programme(INTERACTION_TARGETS, INTERACTION_LFC) for a, b in pairs}
    conditions = (*((gene,) for gene in sorted(perturbed)), *_doubles(groups, set(together), doubles, rng))
    return Planted(genes, share, conditions, modules, strength, private, together)


def _doubles(
    groups: Mapping[str, tuple[str, ...]], pairs: set[tuple[str, str]], number: int, rng: np.random.Generator
) -> list[Condition]:
    """Return pairs of genes of two modules; half of them interact where there are so many."""
    kinds: tuple[list[Condition], list[Condition]] = ([], [])
    for a, b in combinations(sorted(groups), 2):
        kinds[(a, b) not in pairs].extend(tuple(sorted(pair)) for pair in product(groups[a], groups[b]))
    with_, without = ([kind[int(i)] for i in rng.permutation(len(kind))] for kind in kinds)
    if number > len(with_) + len(without):
        raise UserError(f"simulation: {number} doubles are asked for, {len(with_) + len(without)} are possible")
    half = max(min(number // 2, len(with_)), number - len(without))
    return sorted([*with_[:half], *without[: number - half]])
