"""What gene function is predicted with: folds, scores, probes and the reading of labels."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import roc_auc_score

from cellfm_torch.errors import UserError
from cellfm_torch.gene_tasks.function.folds import gene_folds, read_families
from cellfm_torch.gene_tasks.function.labels import read_questions
from cellfm_torch.gene_tasks.function.probes import PROBES, prior, standardised
from cellfm_torch.gene_tasks.function.scores import aupr, auroc, fmax, function_scores
from cellfm_torch.gene_tasks.profiles import GeneProfiles
from cellfm_torch.tasks.gene_function import GeneFunctionTask

GENES = ("CD4", "CD8A", "MS4A1", "GNLY", "LYZ", "NKG7", "PPBP", "FCGR3A")


def two(target: list[bool]) -> np.ndarray:
    return np.array([target, [not x for x in target]]).T


def test_folds_have_as_much_of_each_class() -> None:
    classes = two([i % 4 == 0 for i in range(83)])  # 21 and 62
    fold = gene_folds(classes, 5, ("a", "b"), seed=1)
    for column in classes.T:
        sizes = np.bincount(fold[column], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    assert (fold != gene_folds(classes, 5, ("a", "b"), seed=2)).any()
    np.testing.assert_array_equal(fold, gene_folds(classes, 5, ("a", "b"), seed=1))


def test_families_are_never_split() -> None:
    rng = np.random.default_rng(0)
    families = rng.integers(0, 25, 120)
    classes = two(list(rng.random(120) < 0.4))
    fold = gene_folds(classes, 4, ("a", "b"), seed=0, families=families)
    assert all(len(set(fold[families == family])) == 1 for family in families)
    assert np.bincount(fold).min() > 20  # of 30 each: families have five genes
    with pytest.raises(UserError, match=r"t: fewer families of genes than folds=4 in 'a' \(1\), 'b' \(1\)"):
        gene_folds(classes, 4, ("a", "b"), seed=0, families=np.zeros(120, dtype=int), what="t")


def test_folds_of_terms_spread_the_rare_ones() -> None:
    rng = np.random.default_rng(0)
    classes = rng.random((200, 6)) < np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0.06])
    fold = gene_folds(classes, 5, tuple("abcdef"), seed=0)
    for column in classes.T:
        sizes = np.bincount(fold[column], minlength=5)
        assert sizes.min() >= 0.5 * sizes.mean()  # by chance alone some fold has none of the rarest


@pytest.mark.parametrize("folds", [1, 8])
def test_too_few_genes_for_the_folds(folds: int) -> None:
    with pytest.raises(UserError, match=r"folds=1: must be|fewer genes than folds=8 in 'a' \(2\)"):
        gene_folds(two([True, True, *[False] * 8]), folds, ("a", "b"), seed=0)


def test_families_of_a_gene_with_two_are_one(tmp_path: Path) -> None:
    path = tmp_path / "families.csv"
    path.write_text("gene,family\nCD4,x\nGNLY,x\nGNLY,y\nENSG00000090382,y\nPPBP,z\nNOGENE,z\n")
    family = read_families(path, GENES)
    same = {(a, b) for a in GENES for b in GENES if family[GENES.index(a)] == family[GENES.index(b)] and a < b}
    assert same == {("CD4", "GNLY"), ("CD4", "LYZ"), ("GNLY", "LYZ")}


def test_areas_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    target, score = rng.random(60) < 0.3, rng.integers(0, 6, 60) / 6  # with ties
    # Both sum sixty numbers in float64.
    assert auroc(target, score) == pytest.approx(roc_auc_score(target, score), abs=1e-12)
    assert np.isnan(auroc(np.ones(3, dtype=bool), np.arange(3.0)))
    assert aupr(target, np.full(60, 0.5)) == pytest.approx(target.mean())


def test_fmax_by_hand() -> None:
    targets = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=bool)
    found = np.array([[0.9, 0.2, 0.6], [0.1, 0.7, 0.1], [0.9, 0.9, 0.9]])
    # From 0.61 to 0.7 on: {1}, {2}: precision 1 and 1, recall 1/2 and 1. At 0.2: {1,2,3}, {2}: 5/6 and 1.
    high, low = 2 * 1 * 0.75 / 1.75, 2 * (5 / 6) / (11 / 6)
    assert fmax(targets, found) == pytest.approx(max(high, low))
    assert fmax(targets, targets.astype(float)) == 1
    # A gene without a prediction has no precision, and a recall of 0.
    assert fmax(targets, np.where(targets & (np.arange(3) == 0)[:, None], 1.0, -1.0)) == pytest.approx(2 / 3)


def test_scores_of_two_classes() -> None:
    target = np.array([[1], [1], [0], [0], [0]], dtype=bool)
    found = function_scores(target, np.array([[0.9], [0.4], [0.6], [0.2], [0.1]]))
    assert found == pytest.approx({"accuracy": 0.6, "macro_f1": (0.5 + 2 / 3) / 2, "auroc": 5 / 6, "aupr": 5 / 6})


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("terms", [1, 3])
def test_probes_learn_what_can_be_learned_and_repeat_themselves(probe: str, terms: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 12))
    y = x[:, :terms] + 0.3 * rng.normal(size=(240, terms)) > 0.4
    train, asked = standardised(x[:180], x[180:])
    first, again = (PROBES[probe](train, y[:180], asked, seed=3) for _ in range(2))
    assert first.shape == (60, terms) and (first >= 0).all() and (first <= 1).all()
    np.testing.assert_array_equal(first, again)
    scores = function_scores(y[180:], first)
    # Noise bounds it at about 0.95; of twelve numbers neighbours look at nine that say nothing.
    assert scores["auroc"] > (0.75 if probe == "knn" else 0.9)
    shuffled = PROBES[probe](train, y[rng.permutation(180)], asked, seed=3)
    assert abs(function_scores(y[180:], shuffled)["auroc"] - 0.5) < 0.25


def test_the_prior_is_that_of_the_training_genes() -> None:
    y = np.array([[1, 0], [0, 0], [1, 1], [0, 0]], dtype=bool)
    np.testing.assert_array_equal(prior(np.zeros((4, 1)), y, np.zeros((2, 1))), [[0.5, 0.25]] * 2)


def test_the_network_is_the_published_one() -> None:
    task = GeneFunctionTask(64, 20)
    shapes = [tuple(p.shape) for p in task.parameters()]
    assert shapes == [(32, 64), (16, 32), (20, 16)]  # no biases
    drops = [layer.p for layer in task.network if isinstance(layer, torch.nn.Dropout)]
    assert drops == [0.15, 0.15] and sum(isinstance(layer, torch.nn.SiLU) for layer in task.network) == 2
    assert [tuple(p.shape) for p in GeneFunctionTask(2, 1).parameters()] == [(8, 2), (8, 8), (2, 8)]


def test_the_loss_weighs_the_positives_of_each_term() -> None:
    weight = torch.tensor([3.0, 1.0])
    task = GeneFunctionTask(4, 2, positive_weight=weight)
    logits, y = torch.tensor([[0.3, -1.0], [2.0, 0.5]]), torch.tensor([[True, False], [False, True]])
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    terms = np.where(y.numpy(), -weight.numpy() * np.log(p), -np.log(1 - p))
    # Four float32 logarithms.
    assert float(task.loss(logits, y)) == pytest.approx(terms.mean(), rel=1e-6)


def test_standardised_by_training_genes_alone() -> None:
    rng = np.random.default_rng(0)
    train, asked = rng.normal(3, 2, (50, 4)), rng.normal(size=(5, 4))
    train[:, 2] = 7.0
    a, b = standardised(train, asked)
    np.testing.assert_allclose(a.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(a.std(0), [1, 1, 0, 1], atol=1e-12)
    np.testing.assert_array_equal(b[:, 2], 0)
    _, other = standardised(train, np.vstack([asked, 1e6 * np.ones((1, 4))]))
    np.testing.assert_array_equal(other[:5], b)


def test_loadings_are_those_of_the_centred_matrix() -> None:
    rng = np.random.default_rng(0)
    x = rng.poisson(0.7, (40, 15)).astype(np.float32)
    x[:, 3] = 0
    profiles = GeneProfiles(sp.csr_matrix(x), None, "cells")
    found = profiles.loadings(4)
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    wanted = (axes[:4] * s[:4, None]).T / np.sqrt(39)
    sign = np.sign((found * wanted).sum(0))
    # The same decomposition by another solver, which stops at the precision of float64 times the condition.
    np.testing.assert_allclose(found * sign, wanted, atol=1e-6)
    assert all(a > b for a, b in pairwise(np.linalg.norm(found, axis=0))) and not found[3].any()
    np.testing.assert_allclose(profiles.expression(), np.stack([x.mean(0), (x > 0).mean(0)], axis=1), rtol=1e-6)


def csv(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_tasks_of_a_csv(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        "task,label,ensembl_id,symbol",
        "a,no,,GNLY",
        "a,yes,ENSG00000010610,",  # CD4
        "a,no,ENSG00000000000,LYZ",
        "a,no,,NOGENE",
        "b,x,,CD4",
        "b,y,,GNLY",
        "b,z,,LYZ",
        "b,z,,GNLY",  # of y and z: in neither's question of the two
    )
    with pytest.raises(UserError, match="of task 'b: y vs z' only genes of 'z' are known"):
        read_questions(path, GENES)
    a, b = read_questions(path, GENES, pairs=["yes/no", "z/x"])
    assert (a.name, a.terms, a.rows.tolist(), a.targets[:, 0].tolist()) == ("a", ("yes", "no"), [0, 3, 4], [1, 0, 0])
    assert (b.name, b.terms, b.rows.tolist(), b.targets[:, 0].tolist()) == (
        "b: z vs x",
        ("z", "x"),
        [0, 3, 4],
        [0, 1, 1],
    )
    assert (a.left_out, b.left_out) == (1, 0)


def test_pairs_choose_and_turn_round(tmp_path: Path) -> None:
    path = csv(tmp_path, "label,gene", "x,CD4", "y,GNLY", "z,LYZ")
    (question,) = read_questions(path, GENES, pairs=["z/x"])
    assert (question.terms, question.rows.tolist(), question.targets[:, 0].tolist()) == (("z", "x"), [0, 4], [0, 1])
    with pytest.raises(UserError, match="pairs=z/w: no task of labels.csv has these two labels; there are x, y, z"):
        read_questions(path, GENES, pairs=["z/x", "z/w"])


def test_the_largest_sets(tmp_path: Path) -> None:
    path = tmp_path / "sets.gmt"
    path.write_text("one\t\tCD4\tGNLY\tLYZ\ntwo\t\tCD4\tNKG7\nthree\t\tPPBP\nfour\t\tFCGR3A\tCD8A\tMS4A1\n")
    known = np.array([name != "MS4A1" for name in GENES])
    (question,) = read_questions(path, GENES, known=known, top_terms=2, least_genes=2)
    assert question.terms == ("one", "two") and not question.binary
    assert [GENES[i] for i in question.rows] == ["CD4", "GNLY", "LYZ", "NKG7"]
    assert question.targets.tolist() == [[1, 1], [1, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (("label,name_of_gene", "x,CD4"), "has no column gene (or symbol, ensembl_id); it has label, name_of_gene"),
        (("gene,class", "CD4,x"), "has no column label; it has gene, class"),
        (("gene,label", "CD40L4,x", "Q1,y"), "none of its 2 genes (CD40L4, Q1) is known to the model; did you mean"),
        (("gene,label", "CD4,x", "LYZ,x"), "all genes of task 'labels' are 'x': it takes two classes"),
        (("gene,label", "CD4,x", "NOGENE,y"), "of task 'labels' only genes of 'x' are known to the model"),
        (("gene,label", "CD4,x", "LYZ,y", "CD4,y"), "row 4 has 'CD4' of another class than row 2"),
        (("gene,label", *(f"{gene},{i}" for i, gene in enumerate(GENES))), "has 8 labels (1, 0, 2 ...): name those"),
        (("gene,label",), "has no labelled gene"),
        (("gene,label", '"CD4,x'), "is no csv table"),
    ],
)
def test_refused_labels(lines: tuple[str, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_questions(csv(tmp_path, *lines), GENES)
    assert says in str(caught.value) and "labels.csv" in str(caught.value) and "\n" not in str(caught.value)
