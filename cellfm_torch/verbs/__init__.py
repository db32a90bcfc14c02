"""The table of commands: what ``cellfm`` can do, and which module does it.

Options are what a user usually sets, each an alias of a configuration key. A verb is one row in a module here, a
configuration of the same name in conf/, and a module with ``main(overrides)``.
"""

from __future__ import annotations

from cellfm_torch.verb import Group, Verb
from cellfm_torch.verbs import cells, files, genes, machine, perturbation

CHAPTERS: dict[str, dict[str, Verb | Group]] = {
    "training, files and models": files.VERBS,
    "cells": cells.VERBS,
    "genes": genes.VERBS,
    "perturbations and drugs": perturbation.VERBS,
    "this machine": machine.VERBS,
}
"""Verbs by subject, in the order of the help."""

VERBS: dict[str, Verb | Group] = {name: verb for chapter in CHAPTERS.values() for name, verb in chapter.items()}


def flat(verbs: dict[str, Verb | Group]) -> dict[str, Verb]:
    """Return the verbs under their full names, those of a group as ``"genes embed"``."""
    found = {}
    for name, verb in verbs.items():
        below = {f"{name} {x}": y for x, y in verb.verbs.items()} if isinstance(verb, Group) else {name: verb}
        found.update(below)
    return found


def verb_of(config: str) -> Verb | None:
    """Return the verb that has a configuration, by its name: ``"embed"``, ``"genes_embed"``."""
    return flat(VERBS).get(config.replace("_", " "))
