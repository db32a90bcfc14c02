"""Gene vocabulary and how names map onto it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.errors import UserError


@pytest.mark.parametrize("num_genes", [24078, 27855])
def test_bundled(num_genes: int) -> None:
    vocab = GeneVocab.bundled(num_genes)
    assert len(vocab) == len(vocab.symbols) == num_genes
    assert vocab.first_id == 1
    assert vocab.symbols[0] == "A1BG"


def test_bundled_unknown_size_names_the_sizes() -> None:
    with pytest.raises(UserError, match="100 genes: choose from 24078, 27855"):
        GeneVocab.bundled(100)


def test_save_and_load(tmp_path: Path) -> None:
    vocab = GeneVocab(["B", "A", "C-1"])
    vocab.save(tmp_path / "genes.txt")
    assert GeneVocab.from_file(tmp_path / "genes.txt").symbols == ("B", "A", "C-1")
    assert [file.name for file in tmp_path.iterdir()] == ["genes.txt"]


def test_bad_lists(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such gene list"):
        GeneVocab.from_file(tmp_path / "no.txt")
    (tmp_path / "twice.txt").write_text("A\nB\nA\n")
    with pytest.raises(UserError, match=r"twice\.txt: gene list names 'A' more than once"):
        GeneVocab.from_file(tmp_path / "twice.txt")
    with pytest.raises(UserError, match="empty"):
        GeneVocab([])


def test_match_symbols() -> None:
    match = GeneVocab(["A", "B", "C"]).match([" C", "x", "A", "C", "a", "C "])
    assert match.kind == "symbol"
    np.testing.assert_array_equal(match.rows, [2, -1, 0, 2, -1, 2])
    assert (match.matched, match.unmatched) == (["C", "A", "C", "C"], ["x", "a"])
    assert match.duplicated == ["C", "C"]
    np.testing.assert_array_equal(match.repeated, [False, False, False, True, False, True])


@pytest.mark.parametrize("version", ["", ".14", ".2_PAR_Y"])
def test_match_ensembl(vocab: GeneVocab, ensembl_ids: list[str], version: str) -> None:
    match = vocab.match([gene + version for gene in ensembl_ids] + ["ERCC-00002", "ENSG99999999999"])
    assert match.kind == "ensembl"
    np.testing.assert_array_equal(match.rows, [*range(len(vocab)), -1, -1])


def test_ensembl_table_covers_known_pairs() -> None:
    """Pairs everyone knows, so that a shifted table would be noticed."""
    vocab = GeneVocab.bundled(24078)
    known = {"ENSG00000141510": "TP53", "ENSG00000156738": "MS4A1", "ENSG00000010610": "CD4"}
    assert [vocab.symbols[row] for row in vocab.match(known).rows] == list(known.values())
