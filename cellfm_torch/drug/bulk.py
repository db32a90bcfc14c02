"""Bulk drug response: IC50 of held-out pairs, lines, drugs or tissues, beside baselines."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import log_normalised
from cellfm_torch.drug.baselines import NEAREST, RIDGE, mean_baselines, nearest_drug, ridge
from cellfm_torch.drug.join import Responses, read_responses
from cellfm_torch.drug.network import FitOptions, fit
from cellfm_torch.drug.result import MODEL, RANDOM, DrugResult
from cellfm_torch.drug.scores import Floats, per_drug, scores
from cellfm_torch.drug.splits import Split, make_splits
from cellfm_torch.embedding.cell_sets import Embeddings, counts_digest, weights_digest
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.job_folder import kept, open_job
from cellfm_torch.model.device import chosen_device
from cellfm_torch.model.loading import Backbone, load_model, untrained


def drug_response(
    expression: anndata.AnnData | str | Path,
    ic50: str | Path,
    model: Backbone | str | Path,
    *,
    smiles: str | Path | None = None,
    drugs: str | Path | None = None,
    annotation: str | Path | None = None,
    split: str = "pair",
    seeds: Sequence[int] = (0, 1, 2),
    share: float = 0.2,
    validation: float = 0.1,
    random_weights: bool = True,
    values: str = "auto",
    unit: str = "ln_uM",
    accelerator: str = "auto",
    keep: str | Path | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
    trainer: Mapping[str, Any] | None = None,
    fit_options: Mapping[str, Any] | None = None,
    **reading: Any,
) -> DrugResult:
    """Predict the IC50 of cell lines to drugs from expression and structure, and score it beside baselines.

    Lines are embedded by the model as it is. Two towers, of embedding and of fingerprint, predict what the means of
    drug and line leave unsaid, where the split leaves them known. Validation pairs, of the same kind as the test's, say
    when to stop; test pairs are read for the scores only.

    Parameters
    ----------
    expression
        Cell lines by genes, either way round: csv, tsv, gct, h5ad, or an AnnData with a row per line; log2(1 + TPM) as
        DepMap has it, ln(1 + TPM), log2 intensities, TPM or counts.
    ic50
        ln(uM): drugs by lines, or long with columns drug, line and ln_ic50.
    model
        Model folder, or a network.
    smiles
        csv with columns drug,smiles, or two columns without a heading (PubChem id, SMILES); None: drugs are told apart
        by name.
    drugs
        Table of drugs with two of drug_id, Name, PubCHEM, where the SMILES go by another name than the IC50.
    annotation
        Table of cell lines with their names (depMapID, CCLE_ID, COSMIC_ID, Name ...) and tissue (Site_Primary ...).
    split
        What is new in a test: ``"pair"``, ``"line"``, ``"drug"`` or ``"tissue"``.
    seeds
        Each holds out others, and starts the network anew.
    share, validation
        Of the units that are tested, and that decide when to stop.
    random_weights
        Also with the same network with random weights.
    values
        ``"log2"``, ``"ln"``, ``"linear"`` expression; ``"auto"`` tells which.
    unit
        ``"ln_uM"``, ``"uM"``, ``"nM"`` or ``"pIC50"`` (-log10 of molar).
    accelerator
        Where to embed; ``"auto"`` takes a GPU where there is one.
    keep
        Folder in which embeddings and the predictions of each split are kept as they are made: the same call goes on
        after an interruption. Whoever gives it removes it.
    overwrite
        Throw away what another job has kept there.
    say
        Is told what is being done.
    trainer
        Options of Lightning's Trainer: ``max_epochs`` (default 60), ``accelerator`` (default cpu) ...
    fit_options
        Fields of :class:`~cellfm_torch.drug.network.FitOptions`.
    reading
        ``genes`` and ``token_budget``.

    Returns
    -------
    DrugResult
        ``summary()``, ``per_drug()``, ``verdicts()``, ``predictions``, ``joined`` and ``splits``.

    Raises
    ------
    UserError
        If a table cannot be used, nothing joins, or there is nothing to hold out.

    Examples
    --------
    >>> result = drug_response("OmicsExpression.csv", "GDSC_IC50.csv", "models/80m")  # doctest: +SKIP
    >>> result.summary()  # doctest: +SKIP
    """
    tell = say or (lambda line: None)
    for name in fit_options or {}:
        if name not in FitOptions.__dataclass_fields__:
            raise UserError(f"fit.{name}: there is no such option{nearest(name, FitOptions.__dataclass_fields__)}")
    options = FitOptions(**dict(fit_options or {}), trainer=dict(trainer or {}))
    network: Any = load_model(Path(model).expanduser()) if isinstance(model, str | Path) else model
    network = network.to(chosen_device(accelerator))
    responses = read_responses(
        expression,
        ic50,
        network.input_spec,
        smiles=smiles,
        drugs=drugs,
        annotation=annotation,
        values=values,
        unit=unit,
        **reading,
    )
    splits = make_splits(responses, split, seeds, share=share, validation=validation)
    for line in responses.notes:
        tell(line)
    result = DrugResult(splits, responses)
    log_values = log_normalised(responses.cells.counts)[responses.rows]
    tell(f"embedding {len(responses.cells):,} lines")
    features = np.stack([responses.compounds.features[name] for name in responses.drugs])
    folder = None if keep is None else Path(keep)
    if folder is not None:
        open_job(folder, _job(network, responses, features, splits, options), overwrite=overwrite)
    known = Embeddings(network, keep=folder)
    for number, one in enumerate(splits):
        tell(f"split {number + 1} of {len(splits)}: {one.held_out} held out, seed {one.seed}")
        _add(result, one, mean_baselines(responses.values, one))
        if one.kind == "drug":
            _add(result, one, {NEAREST: nearest_drug(responses.values, one, features)})
        _add(result, one, {RIDGE: ridge(responses.values, one, log_values)})
        _learn(result, one, MODEL, known, features, options, folder)
        if random_weights:
            random = Embeddings(untrained(network, seed=one.seed), keep=folder)
            _learn(result, one, RANDOM, random, features, options, folder)
    return result


def _learn(
    result: DrugResult,
    split: Split,
    name: str,
    embeddings: Embeddings,
    features: NDArray[np.float32],
    options: FitOptions,
    keep: Path | None,
) -> None:
    responses = result.responses

    def learned() -> dict[str, NDArray[Any]]:
        known = embeddings.of(responses.cells)[responses.rows]
        found = fit(responses.values, split, known, features, options)
        return {"predicted": found.of(split.test), "epochs": np.array(found.epochs)}

    file = None if keep is None else keep / f"{split.seed}_{name.replace(' ', '_')}.npz"
    found = kept(file, {"predicted": (len(split.test),), "epochs": ()}, learned)
    result.epochs[name, split.seed] = int(found["epochs"])
    _add(result, split, {name: found["predicted"]})


def _job(
    network: Any,
    responses: Responses,
    features: NDArray[np.float32],
    splits: Sequence[Split],
    options: FitOptions,
) -> dict[str, Any]:
    """Return what makes predictions what they are."""
    ic50 = hashlib.sha256(repr((responses.lines, responses.drugs)).encode())
    for array in (responses.values, responses.rows, features):
        ic50.update(np.ascontiguousarray(array).data)
    parts = hashlib.sha256()
    for split in splits:
        for array in (split.train, split.validation, split.test):
            parts.update(np.ascontiguousarray(array).data)
    return {
        "model": weights_digest(network),
        "expression": counts_digest(responses.cells),
        "ic50_and_drugs": ic50.hexdigest(),
        "split": splits[0].kind,
        "seeds": [split.seed for split in splits],
        "parts": parts.hexdigest(),
        "fit": dataclasses.asdict(options),
    }


def _add(result: DrugResult, split: Split, answers: Mapping[str, Floats]) -> None:
    """Score the answers to a test and keep them."""
    responses, test = result.responses, split.test
    true = responses.values[test[:, 0], test[:, 1]]
    for name, predicted in answers.items():
        about = {"split": split.kind, "seed": split.seed, "method": name}
        result.score_rows.append(about | {"pairs": len(test)} | scores(true, predicted, test[:, 1]))
        table = per_drug(true, predicted, test[:, 1])
        table.insert(0, "method", name)
        table.insert(0, "seed", split.seed)
        result.drug_tables.append(table)
        unit = test[:, 1 if split.kind == "drug" else 0]
        result.unit_tables.append(pd.DataFrame({"method": name, "unit": unit, "error": (true - predicted) ** 2}))
        if name == MODEL:
            result.prediction_tables.append(
                pd.DataFrame(
                    {
                        "seed": split.seed,
                        "line": np.array(responses.lines, dtype=object)[test[:, 0]],
                        "drug": np.array(responses.drugs, dtype=object)[test[:, 1]],
                        "name": np.array(responses.titles, dtype=object)[test[:, 1]],
                        "ln_ic50": true,
                        "predicted": predicted,
                    }
                )
            )
