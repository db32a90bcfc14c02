"""Which genes were perturbed in each cell: the words of GEARS, scPerturb and pertpy, as conditions of a vocabulary.

Shapes: n cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.errors import UserError, examples, nearest
from cellfm_torch.perturbation.gene.effects import CONTROL, Condition, condition_name

COLUMNS = ("condition", "perturbation", "perturbation_name", "guide_identity", "gene")
"""Of obs, in the order in which they are looked for: GEARS, scPerturb, pertpy, Norman as published, Replogle."""

CONTROL_WORDS = frozenset(
    (
        *("ctrl", "control", "negctrl", "neg-ctrl", "nt", "non-targeting", "nontargeting", "non-targeting-control"),
        *("safe-targeting", "scramble", "scrambled", "untreated", "unperturbed", "mock", "wt"),
    )
)
"""In small letters, ``_`` and blanks written as ``-``."""

NUMBERED = frozenset(
    (
        *("control", "negctrl", "neg-ctrl", "non-targeting", "nontargeting", "non-targeting-control"),
        *("safe-targeting", "p-intergenic"),
    )
)
"""Of these, words that may have a number at the end (``NegCtrl0``); not ``wt``: WT1 is a gene."""

SEPARATORS = ("+", "_", ";", ",", "|", "&")
"""Between the genes of a combination; the first one is tried first, and all others only where the whole is no gene."""

SYNTAX = "write GENE+ctrl, A+B or ctrl"


def is_control(word: str) -> bool:
    """Say whether a word stands for no perturbation."""
    plain = re.sub(r"[\s_]+", "-", word.strip().lower())
    return plain in CONTROL_WORDS or re.sub(r"-?\d+$", "", plain) in NUMBERED


@dataclass(frozen=True)
class Parsed:
    """Words as conditions.

    Attributes
    ----------
    conditions : dict of str to Condition
        Of the words all of whose genes are known.
    unknown : dict of str to str
        The first unknown gene of each of the other words.
    """

    conditions: dict[str, Condition]
    unknown: dict[str, str]


def parse(words: Iterable[str], vocab: GeneVocab, *, option: str, control: Sequence[str] = ()) -> Parsed:
    """Return what words mean.

    Parameters
    ----------
    words
        Such as ``"KLF1+ctrl"``, ``"KLF1"``, ``"CEBPA+KLF1"``, ``"CEBPA_KLF1"`` (scPerturb), ``"ctrl"``,
        ``"KLF1_NegCtrl0__KLF1_NegCtrl0"``, ``"CREB1_pDS269"``, ``"p-sgELF1-2"``.
    vocab
        Genes of the model; symbols, Ensembl ids, previous symbols and aliases are known.
    option
        What gave the words, for messages.
    control
        Further words for control.

    Raises
    ------
    UserError
        If a word has an empty part, or names a gene twice.
    """
    words = list(dict.fromkeys(words))
    parts = {word: [] if word in control or is_control(word) else _split(word, option) for word in words}
    known = _lookup([name for names in parts.values() for name in names], vocab)
    for word, names in parts.items():
        for separator in SEPARATORS[1:]:
            if len(names) == 1 and names[0] not in known and separator in names[0]:
                among = [name.strip() for name in names[0].split(separator) if not _beside_genes(name)]
                known |= _lookup(among, vocab)
                if all(name in known for name in among):
                    parts[word] = names = among
    conditions, unknown = {}, {}
    for word, names in parts.items():
        genes = [known.get(name) for name in names]
        if None in genes:
            unknown[word] = names[genes.index(None)]
            continue
        condition = tuple(sorted(str(gene) for gene in genes))
        if len(set(condition)) < len(condition):
            raise UserError(f"{option}: '{word}' names a gene twice: {SYNTAX}")
        conditions[word] = condition
    return Parsed(conditions, unknown)


def _split(word: str, option: str) -> list[str]:
    once = re.fullmatch(r"(.+)__\1", word)  # the two guides of Norman et al. as published: A_B__A_B
    word = once[1] if once else word
    word = re.sub(r"^p[-_]sg(.+)[-_]\d+$", r"\1", word)  # a guide of Dixit et al.: p-sgELF1-2
    names = [name.strip() for name in word.split("+")]
    if "" in names:
        raise UserError(f"{option}: '{word}' is no condition: {SYNTAX}")
    return [name for name in names if not is_control(name)]


def _beside_genes(word: str) -> bool:
    """Say whether a word beside a gene is none: control, or the plasmid of Adamson et al. (``CREB1_pDS269``)."""
    return is_control(word) or re.fullmatch(r"p[A-Z]{2}\d+(-\d+)?", word) is not None


def _lookup(names: list[str], vocab: GeneVocab) -> dict[str, str]:
    match = vocab.match(dict.fromkeys(names)) if names else None
    if match is None:
        return {}
    return {name: vocab.symbols[row] for name, row in zip(match.names, match.rows, strict=True) if row >= 0}


def asked_conditions(words: Iterable[str], vocab: GeneVocab, *, option: str = "genes") -> list[Condition]:
    """Return the conditions that a user asks about, each once, in their order.

    Raises
    ------
    UserError
        If a gene is unknown (with the nearest name), or a word means control or nothing.
    """
    words = [words] if isinstance(words, str) else list(words)
    parsed = parse(words, vocab, option=option)
    for name in parsed.unknown.values():
        raise UserError(f"{option}: the model has no gene '{name}'{nearest(name.upper(), vocab.symbols)}")
    found = list(dict.fromkeys(parsed.conditions[word] for word in words))
    if CONTROL in found or not found:
        raise UserError(f"{option}: names no gene to perturb: write GENE, or A+B for both at once")
    return found


def condition_column(obs: pd.DataFrame, wanted: str | None, *, source: str) -> str:
    """Return the column of obs with conditions.

    Raises
    ------
    UserError
        If there is none, with the columns that there are.
    """
    there = [str(name) for name in obs.columns]
    if wanted is not None:
        if wanted not in there:
            hint = nearest(wanted, there)
            raise UserError(f"condition={wanted}: no such column in obs of {source} (it has {', '.join(there)}){hint}")
        return wanted
    found = [name for name in COLUMNS if name in there]
    if not found:
        raise UserError(
            f"{source}: obs has no column {', '.join(COLUMNS[:3])}: say with condition=NAME which one of "
            f"{', '.join(there) or 'none'} has the perturbed genes"
        )
    return found[0]


def conditions_of(
    words: pd.Series, vocab: GeneVocab, *, source: str, control: str | None = None
) -> tuple[list[Condition | None], list[str]]:
    """Return the condition of each cell, and what has to be said about those that have none.

    Parameters
    ----------
    words : n
        Column of obs; None where there is no word.
    vocab
        Genes of the model.
    source
        File, for messages.
    control
        Word for control cells, besides the usual ones.

    Returns
    -------
    conditions : n
        None for cells without a word, or with a gene that the model does not know.
    said : list of str
        Lines for the user.

    Raises
    ------
    UserError
        If no cell is control, none is perturbed, or a word cannot be read.
    """
    name = str(words.name)
    option = f"{source}: obs['{name}']"
    sizes = words.value_counts(sort=False)
    sizes = sizes[sizes > 0]
    if control is not None and control not in sizes:
        raise UserError(f"control={control}: no cell has it in {option}{nearest(control, map(str, sizes.index))}")
    parsed = parse(map(str, sizes.index), vocab, option=option, control=() if control is None else (control,))
    if CONTROL not in parsed.conditions.values():
        few = examples(sizes.index)
        raise UserError(f"{option} has no control cells (it has {few} ...): call them ctrl, or say control=WORD")
    if len(set(parsed.conditions.values())) < 2:
        word, gene = next(iter(parsed.unknown.items()), ("", ""))
        why = (
            f"the model has no gene '{gene}'{nearest(gene.upper(), vocab.symbols)}" if word else "all cells are control"
        )
        raise UserError(f"{option} has no perturbation that the model knows: {why}")
    said = []
    if missing := int(words.isna().sum()):
        said.append(f"left out: {missing:,} cells without a word in {option}")
    if parsed.unknown:
        cells = int(sum(sizes[word] for word in parsed.unknown))
        genes = list(dict.fromkeys(parsed.unknown.values()))
        said.append(
            f"left out: {len(parsed.unknown)} of {len(sizes)} conditions ({cells:,} cells) with genes that the model "
            f"does not know: {examples(genes)}{nearest(genes[0].upper(), vocab.symbols)}"
        )
    found = [None if word is None else parsed.conditions.get(str(word)) for word in words]
    return found, said


def named(conditions: Iterable[Condition]) -> list[str]:
    """Return the names of conditions."""
    return [condition_name(condition) for condition in conditions]
