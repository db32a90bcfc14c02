"""Graphs of genes, and the messages along them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cellfm_torch.data.gene_sets import GeneSets
from cellfm_torch.model.gene_graph import GeneMessages
from cellfm_torch.perturbation.gene import graphs
from cellfm_torch.perturbation.gene.graphs import LEAST_CORRELATION, co_expressed, shared_sets

GENES = tuple("ABCDEF")


def sets_of(**members: str) -> GeneSets:
    rows = {name: np.array(sorted(GENES.index(gene) for gene in genes)) for name, genes in members.items()}
    return GeneSets(genes=GENES, rows=rows, sizes={name: len(genes) for name, genes in members.items()})


def test_shared_sets_by_hand() -> None:
    """A: one, two. B: one. C: one, two. D: two, three. E: three. F: none."""
    sets = sets_of(one="ABC", two="ACD", three="DE")
    found = shared_sets(sets, np.array([0, 2, 3]), neighbours=2)  # A, C and D send
    # A shares both sets with C (1) and one of three with D (1/3); itself is left out though it would be the first.
    assert found.rows.tolist() == [[1, 2], [0, 1], [0, 2], [0, 1], [2, -1], [-1, -1]]
    third, half = np.float32(1 / 3), np.float32(1 / 2)
    assert found.weights.tolist() == [[1, third], [half, half], [1, third], [third, third], [half, 0], [0, 0]]


def test_no_sets_and_no_senders() -> None:
    for sets, senders in ((sets_of(), [0, 2]), (sets_of(one="ABC"), [])):
        found = shared_sets(sets, np.array(senders, dtype=np.int64))
        assert (found.rows == -1).all() and not found.weights.any() and len(found.rows) == 6
        assert found.rows.shape[1] >= 1  # so that tables of all graphs have an axis


def test_co_expression_is_the_positive_correlation() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((300, 6))
    x[:, 1] = x[:, 0] + 0.1 * rng.random(300)
    x[:, 2] = 1 - x[:, 0]
    x[:, 5] = 0
    senders = np.array([0, 1, 2, 5])
    found = co_expressed(sp.csr_matrix(x), senders, neighbours=3)
    with np.errstate(invalid="ignore"):
        true = np.nan_to_num(np.corrcoef(x.T))
    np.fill_diagonal(true, 0)
    for gene in range(6):
        order = np.argsort(-true[gene, senders], kind="stable")
        expected = [*(int(i) for i in order if true[gene, senders[i]] > LEAST_CORRELATION), -1, -1, -1][:3]
        assert found.rows[gene].tolist() == expected, gene
        weights = [true[gene, senders[i]] if i >= 0 else 0 for i in expected]
        np.testing.assert_allclose(found.weights[gene], weights, atol=1e-6)  # float32
    assert found.rows[0, 0] == 1 and found.rows[1, 0] == 0 and (found.rows[5] == -1).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = sp.csr_matrix(np.random.default_rng(1).random((50, 30)) ** 4)
    senders = np.arange(0, 30, 2)
    whole = co_expressed(x, senders)
    monkeypatch.setattr(graphs, "BLOCK", 7)
    parts = co_expressed(x, senders)
    assert (whole.rows == parts.rows).all() and (whole.weights == parts.weights).all()


def messages(width: int = 8) -> GeneMessages:
    torch.manual_seed(0)
    module = GeneMessages(width)
    torch.nn.init.normal_(module.outer.weight)
    return module


def test_messages_start_with_no_change() -> None:
    x = torch.randn(3, 8)
    assert torch.equal(GeneMessages(8)(x, x, torch.tensor([[1], [2], [0]]), torch.ones(3, 1)), x)


def test_messages_are_the_weighted_mean_of_neighbours() -> None:
    module, x, senders = messages(), torch.randn(3, 8), torch.randn(4, 8)
    neighbours = torch.tensor([[1, 3], [2, -1], [-1, -1]])
    weights = torch.tensor([[0.2, 0.6], [0.3, 9.0], [5.0, 5.0]])  # those of no neighbour do not count
    heard = torch.stack([senders[1] / 4 + senders[3] * 3 / 4, senders[2], torch.zeros(8)])
    expected = x + module.outer(torch.nn.functional.gelu(module.inner(heard)))
    torch.testing.assert_close(module(x, senders, neighbours, weights), expected)  # rounding of float32


def test_without_neighbours_nothing_changes() -> None:
    module, x = messages(), torch.randn(3, 8)
    none = torch.full((3, 2), -1)
    assert torch.equal(module(x, torch.randn(5, 8), none, torch.zeros(3, 2)), x)
