"""Cross-validated predictions of gene function, by several classifiers on embeddings and on baselines.

Shapes: n genes of a question, T terms, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from cellfm_torch.errors import UserError, nearest
from cellfm_torch.gene_tasks.embeddings.static import STATIC
from cellfm_torch.gene_tasks.function.features import BASELINES, MAJORITY, Features, read_features
from cellfm_torch.gene_tasks.function.folds import gene_folds, read_families
from cellfm_torch.gene_tasks.function.kept import digest
from cellfm_torch.gene_tasks.function.labels import Question, read_questions
from cellfm_torch.gene_tasks.function.probes import PROBES, prior, standardised
from cellfm_torch.gene_tasks.function.result import FunctionResult
from cellfm_torch.gene_tasks.function.scores import function_scores, term_scores
from cellfm_torch.gene_tasks.steps import steps
from cellfm_torch.job_folder import kept, open_job
from cellfm_torch.model.loading import Backbone
from cellfm_torch.paths import PBMC3K

Floats = NDArray[np.float64]

TRAINING = ("batch_size", "most_epochs", "patience", "neighbours")
"""Options of the classifiers."""


def gene_function(
    labels: str | Path,
    model: Backbone | str | Path | None = None,
    *,
    embeddings: AnnData | str | Path | None = None,
    keys: Sequence[str] = (STATIC,),
    cells: AnnData | str | Path | None = PBMC3K,
    probes: Sequence[str] = tuple(PROBES),
    baselines: Sequence[str] = tuple(BASELINES),
    families: str | Path | None = None,
    folds: int = 5,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    pairs: Sequence[str] | None = None,
    top_terms: int = 20,
    least_genes: int = 10,
    most_genes: int | None = None,
    accelerator: str = "cpu",
    training: dict[str, Any] | None = None,
    keep: str | Path | None = None,
    overwrite: bool = False,
    verbose: bool = True,
    **reading: Any,
) -> FunctionResult:
    """Predict labels of genes from their embeddings, cross-validated by gene, beside baselines.

    Parameters
    ----------
    labels
        A csv of labelled genes or a .gmt of gene sets, see
        :func:`~cellfm_torch.gene_tasks.function.labels.read_questions` for it, `pairs`, `top_terms`, `least_genes` and
        `most_genes`.
    model
        A model folder or a network, whose static embedding is asked about.
    embeddings
        Instead of that, genes as :func:`~cellfm_torch.gene_embeddings` leaves them; `model` is what the untrained
        network is like then.
    keys
        Which of their ``obsm``. Genes without one of them take no part.
    cells
        Cells that the baselines of expression are computed from; by default the bundled PBMC3k, None for none.
    probes
        Classifiers: ``"mlp"``, ``"logistic"``, ``"knn"``.
    baselines
        Of :data:`~cellfm_torch.gene_tasks.function.features.BASELINES`.
    families
        csv with columns gene,family: families stay in one fold.
    folds, seeds
        Each seed deals the genes out anew.
    accelerator
        That the small networks are trained on.
    training
        ``batch_size``, ``most_epochs``, ``patience`` of the small networks, ``neighbours`` of the vote.
    keep
        Folder in which each cross-validation is kept while it works: the same call goes on after an interruption.
    overwrite
        Throw away what another job has kept there.
    reading
        How `cells` are read: fields of :class:`~cellfm_torch.data.options.ReadOptions`.

    Returns
    -------
    FunctionResult
        ``summary()``, a row per task, features and probe with mean and standard deviation over folds and seeds;
        ``scores``, each fold; ``per_term()``; ``predictions()``, out-of-fold probabilities in an AnnData of genes;
        ``verdicts()``, a line per task that says whether an embedding beats the best baseline.

    Raises
    ------
    UserError
        If a file cannot be used, no gene is known, or there are too few of a class.

    Examples
    --------
    >>> result = gene_function("dosage.csv", "CellFM_80M_weight")  # doctest: +SKIP
    >>> result.summary()  # doctest: +SKIP
    """
    for name in probes:
        if name not in PROBES:
            raise UserError(f"probes: there is no '{name}'{nearest(name, PROBES)}; there are {', '.join(PROBES)}")
    for name, value in (training or {}).items():
        if name not in TRAINING:
            raise UserError(f"training.{name}: there is no such option{nearest(name, TRAINING)}")
        if not isinstance(value, int) or value < 1:
            raise UserError(f"training.{name}={value}: must be a whole number, at least 1")
    if not seeds or not probes:
        raise UserError("give at least one seed and one of probes")
    features = read_features(model, embeddings, keys, cells, baselines=baselines, accelerator=accelerator, **reading)
    questions = read_questions(
        labels,
        features.genes,
        known=features.known,
        pairs=pairs,
        top_terms=top_terms,
        least_genes=least_genes,
        most_genes=most_genes,
    )
    groups = None if families is None else read_families(families, features.genes)
    # What is wrong with the folds shows before any work.
    dealt = {
        (question.name, seed): gene_folds(
            question.classes(),
            folds,
            question.terms,
            seed=seed,
            families=None if groups is None else groups[question.rows],
            what=question.name,
        )
        for question in questions
        for seed in seeds
    }
    options = {"accelerator": accelerator} | (training or {})
    plan = [(MAJORITY, "none")] if MAJORITY in baselines else []
    plan += [(name, probe) for name in features.by_name for probe in probes]
    result = FunctionResult(features.asked, questions, features.genes, features.left_out)
    total = len(questions) * len(plan) * len(seeds)
    folder = None if keep is None else Path(keep)
    if folder is not None:
        job = {
            "labels_and_embeddings": digest(questions, features),
            "classifiers": plan,
            "folds": folds,
            "seeds": seeds,
        }
        open_job(folder, job | {"training": options, "families": str(families)}, overwrite=overwrite)
    number = 0
    with steps(total, "cross-validations", show=verbose) as advance:
        for question in questions:
            for seed in seeds:
                fold = dealt[question.name, seed]
                for name, probe in plan:
                    found = kept(
                        None if folder is None else folder / f"{number:06}.npz",
                        {"probabilities": question.targets.shape},
                        partial(_predicted, question, features, name, probe, fold, seed=seed, options=options),
                    )["probabilities"]
                    number += 1
                    _score(result, question, fold, found, features=name, probe=probe, seed=seed)
                    advance(f"{question.name}, {name} by {probe}")
    return result


def _predicted(*what: Any, **how: Any) -> dict[str, Floats]:
    return {"probabilities": _cross_validate(*what, **how)}


def _cross_validate(
    question: Question,
    features: Features,
    name: str,
    probe: str,
    fold: NDArray[np.int64],
    *,
    seed: int,
    options: dict[str, Any],
) -> Floats:
    """Return the probability of each term for each gene by what was learned from the other folds, (n, T)."""
    x = np.zeros((len(fold), 1)) if name == MAJORITY else features.by_name[name](seed)[question.rows]
    called = prior if name == MAJORITY else PROBES[probe]
    found = np.full(question.targets.shape, np.nan)
    for number in range(int(fold.max()) + 1):
        test = fold == number
        train, asked = standardised(x[~test], x[test])
        found[test] = called(train, question.targets[~test], asked, seed=seed * 1000 + number, **options)
    return found


def _score(result: FunctionResult, question: Question, fold: NDArray[np.int64], found: Floats, **which: Any) -> None:
    result.add(question, found, **which)
    for number in range(int(fold.max()) + 1):
        test = fold == number
        labels = {"task": question.name, **which, "fold": number, "genes": int(test.sum())}
        result.score_rows.append({**labels, **function_scores(question.targets[test], found[test])})
        if not question.binary:
            terms = term_scores(question.targets[test], found[test])
            terms.insert(0, "term", question.terms)
            for key in ("probe", "features", "task"):
                terms.insert(0, key, labels[key])
            result.term_tables.append(terms)
