"""The model card of a model folder: what is known of the network is filled in, the rest is for its author to say."""

from __future__ import annotations

import dataclasses
from typing import Any

CARD = "README.md"

TEXT = """\
---
library_name: cellfm_torch
tags: [single-cell, transcriptomics, biology]
license: other  # see Licence below
---

# {name}

{kind} of {weights:,} weights over {genes:,} human genes, written by cellfm_torch.

    from cellfm_torch import load_model
    model = load_model("THIS FOLDER")

    cellfm embed cells.h5ad --model "THIS FOLDER"

| field | value |
|---|---|
{fields}

`genes.txt` has the genes in the order of the rows of the embedding, `config.json` the table above,
`model.safetensors` the weights.

## Trained on

_Which cells, how many, where they are from, what was left out; steps, seed and the configuration of the run._

## Good for, and not

_What it was scored on, beside which baselines. Human cells with raw counts only. No medical device._

## Licence

_Of these weights. Those that CellFM's authors published, and what is made of them, are under CC BY-NC-ND 4.0: not to be
redistributed. scFoundation's have a licence of their own: non-commercial research, not to be redistributed._

## Cite

Zeng et al., CellFM, Nature Communications 2025, doi:10.1038/s41467-025-59926-5.{more}
"""

SCFOUNDATION = "\nHao et al., scFoundation, Nature Methods 2024, doi:10.1038/s41592-024-02305-7."


def model_card(name: str, kind: str, config: Any, *, genes: int, weights: int) -> str:
    """Return the text of a model card.

    Parameters
    ----------
    name
        Of the folder.
    kind
        Class of the network.
    config
        Its configuration, a dataclass.
    genes
        Rows of the vocabulary.
    weights
        How many numbers there are to learn.
    """
    fields = "\n".join(f"| {field} | {value} |" for field, value in dataclasses.asdict(config).items())
    more = SCFOUNDATION if kind.startswith("ScFoundation") else ""
    return TEXT.format(name=name, kind=kind, weights=weights, genes=genes, fields=fields, more=more)
