"""scFoundation against a plain reading of its description: every output, hidden values, any batch.

Shapes: B cells, G genes of the vocabulary.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scfoundation_cells import LENGTHS, cells_of, network_of
from scfoundation_oracle import Oracle, stacked

from cellfm_torch import CellBatch, ScFoundation

BAR = 1e-11
"""float64 sums of up to 200 products in another order, of values of magnitude 1, through four layers."""


def expected(network: ScFoundation, batch: CellBatch) -> list[dict[str, np.ndarray]]:
    oracle, results = Oracle(network), []
    for b in range(batch.num_cells):
        rows = slice(int(batch.offsets[b]), int(batch.offsets[b + 1]))
        values, hidden = np.zeros(network.config.num_genes), np.zeros(network.config.num_genes, dtype=bool)
        values[batch.gene_ids[rows]] = batch.values[rows].numpy()
        hidden[batch.gene_ids[rows]] = batch.hidden[rows].numpy()
        total_s, total_t = batch.read_depth[b].tolist()
        results.append(oracle.cell(values, hidden, total_s, total_t))
    return results


@pytest.mark.parametrize(
    "sizes",
    [{}, {"encoder_layers": 3, "decoder_layers": 1, "encoder_heads": 1, "decoder_heads": 3, "bin_alpha": 0.7}],
    ids=["2 + 2 layers", "3 + 1 layers"],
)
@pytest.mark.parametrize("cells", [None, 3], ids=["a batch", "one cell"])
@torch.no_grad()
def test_outputs(sizes: dict[str, object], cells: int | None) -> None:
    network = network_of(**sizes)
    batch = cells_of(LENGTHS if cells is None else LENGTHS[cells : cells + 1])
    results = expected(network, batch)
    prediction = network(batch)
    found = {
        "all": prediction.encoding.cell,
        "max": network_of(pool="max", **sizes).encode(batch).cell,
        "gene": network.gene_embeddings(batch),
        "expression": prediction.expression,
    }
    for name, x in found.items():
        reference = stacked(results, name)
        assert x.shape == reference.shape
        assert (x - reference).abs().max() < BAR * reference.abs().mean(), name
    assert batch.hidden.any() and (batch.values == 0).any()


@torch.no_grad()
def test_the_oracle_tells_wrong_readings_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each point of the description that decides parity moves the oracle by far more than the bar."""
    network, batch = network_of(), cells_of()
    right = stacked(expected(network, batch), "expression")
    own_favor, own_norm = Oracle.favor, Oracle.norm

    def maximum_per_token(q: np.ndarray, k: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.stack([own_favor(q[h : h + 1], k[h : h + 1], v[h : h + 1], w)[0] for h in range(len(q))])

    def one_norm_less(self: Oracle, name: str, x: np.ndarray) -> np.ndarray:
        return x if name == "decoder.norm" else own_norm(self, name, x)

    for name, wrong in (("favor", staticmethod(maximum_per_token)), ("norm", one_norm_less)):
        with monkeypatch.context() as patch:
            patch.setattr(Oracle, name, wrong)
            moved = stacked(expected(network, batch), "expression")
        assert (moved - right).abs().max() > 1e6 * BAR * right.abs().mean(), name
