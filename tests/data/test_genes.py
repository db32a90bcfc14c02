"""Gene vocabulary and how names map onto it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellfm_torch.data.gene_match import guess_species
from cellfm_torch.data.gene_table import Gene, GeneTable
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.errors import UserError


@pytest.mark.parametrize("num_genes", [24078, 27855])
def test_bundled(num_genes: int) -> None:
    vocab = GeneVocab.bundled(num_genes)
    assert len(vocab) == len(vocab.symbols) == num_genes
    assert vocab.first_id == 1
    assert vocab.symbols[0] == "A1BG"


def test_bundled_unknown_size_names_the_sizes() -> None:
    with pytest.raises(UserError, match="100 genes: choose from 19264, 24078, 27855"):
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


TABLE = GeneTable(
    [
        Gene("A", ("ENSG00000000001",), ("A_OLD",), ("A_ALIAS", "SHARED")),
        Gene("B", ("ENSG00000000002", "ENSG00000000012"), (), ("SHARED",)),
        Gene("C_NEW", ("ENSG00000000003",), ("C",)),  # the vocabulary has it under its previous symbol
        Gene("ELSE", (), ("ELSE_OLD",)),  # not in the vocabulary
        Gene("MT-1", ("ENSG00000000009",)),
        Gene("C1orf9", ()),
    ]
)
VOCAB = GeneVocab(["A", "B", "C", "C1orf9"])


def kinds(names: list[str], **options: object) -> dict[str, tuple[int, str]]:
    """Row and kind of each name."""
    match = VOCAB.match(names, table=TABLE, **options)  # type: ignore[arg-type]
    return dict(zip(match.names, zip(match.rows.tolist(), match.kinds, strict=True), strict=True))


def test_match_exact() -> None:
    names = [" C", "x", "A", "C", "a", "C ", "A_OLD", "ENSG00000000002"]
    match = VOCAB.match(names, rule="exact", table=TABLE)
    np.testing.assert_array_equal(match.rows, [2, -1, 0, 2, -1, 2, -1, -1])
    assert (match.matched, match.unmatched) == (["C", "A", "C", "C"], ["x", "a", "A_OLD", "ENSG00000000002"])
    assert match.duplicated == ["C", "C"]
    np.testing.assert_array_equal(match.repeated, [False, False, False, True, False, True, False, False])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("A", (0, "symbol")),
        ("A_OLD", (0, "previous")),
        ("A_ALIAS", (0, "alias")),
        ("ENSG00000000002", (1, "ensembl")),
        ("ENSG00000000012.7", (1, "ensembl")),
        ("B_ENSG00000000002", (1, "ensembl")),
        ("C", (2, "symbol")),
        ("C_NEW", (2, "previous")),
        ("ENSG00000000003", (2, "ensembl")),
        ("SHARED", (-1, "ambiguous")),
        ("ELSE", (-1, "")),
        ("ELSE_OLD", (-1, "")),
        ("GRCh38_A", (0, "symbol")),
        ("hg19___B", (1, "symbol")),
        ("mm10_A", (-1, "")),
        ("C1ORF9", (3, "symbol")),
        ("a", (-1, "")),
        ("", (-1, "")),
    ],
)
def test_match_all(name: str, wanted: tuple[int, str]) -> None:
    assert kinds([name])[name] == wanted


def test_an_alias_never_steals() -> None:
    """A previous symbol or alias is left to the gene's own name, its id or a better name in the same file."""
    assert kinds(["A_OLD", "A"])["A_OLD"] == (-1, "taken")
    assert kinds(["A_ALIAS", "ENSG00000000001"])["A_ALIAS"] == (-1, "taken")
    both = kinds(["A_ALIAS", "A_OLD", "B"])
    assert both == {"A_ALIAS": (-1, "taken"), "A_OLD": (0, "previous"), "B": (1, "symbol")}


def test_several_ids_of_one_gene_are_one() -> None:
    match = VOCAB.match(["ENSG00000000002", "B", "ENSG00000000012.1", "A"], table=TABLE)
    np.testing.assert_array_equal(match.rows, [1, 1, 1, 0])
    assert match.duplicated == ["B", "ENSG00000000012.1"]
    assert match.matched_by == {"symbol": 2, "ensembl": 2} and match.kind == "symbol"


def test_repeated_names_made_unique() -> None:
    """``B-1`` is B where B is in the file too; ``B-2`` only behind ``B-1``."""
    match = VOCAB.match(["B", "B-1", "B-2", "A.1", "C.2", "C", "x", "x-1"], table=TABLE)
    np.testing.assert_array_equal(match.rows, [1, 1, 1, -1, -1, 2, -1, -1])


def test_mitochondrial_genes() -> None:
    """By symbol or id, in the vocabulary or not."""
    match = VOCAB.match(["MT-1", "ENSG00000000009.2", "MTOR", "GRCh38_MT-CO1", "A"], table=TABLE)
    np.testing.assert_array_equal(match.mito, [True, True, False, True, False])


@pytest.mark.parametrize("version", ["", ".14", ".2_PAR_Y"])
def test_match_ensembl(vocab: GeneVocab, ensembl_ids: list[str], version: str) -> None:
    match = vocab.match([gene + version for gene in ensembl_ids] + ["ERCC-00002", "ENSG99999999999"])
    assert match.kind == "ensembl"
    np.testing.assert_array_equal(match.rows, [*range(len(vocab)), -1, -1])


@pytest.mark.parametrize(
    ("names", "species"),
    [
        (["ENSMUSG00000000001", "ENSMUSG00000000002", "Gt"], "mouse"),
        (["ENSRNOG00000000001"], "rat"),
        (["Sox1", "Gapdh", "mt-Nd1", "Gm1234", "0610007P14Rik", "H2-K1"] * 4, "mouse"),
        (["Sox1", "Gapdh", "LOC100911", "RGD1309"] * 10 + ["Cd4"] * 20, "rat"),
        (["mm10_Sox1", "mm10_Cd4"] * 10, "mouse"),
        (["sox1a", "cd4-1", "si:dkey-1a"] * 10, "zebrafish"),
        (["SOX1", "GAPDH", "C1orf112", "HLA-A", "RP11-34P13.7"] * 10, None),
        (["C1orf112", "C9orf72"] * 20, None),
        (["gene1", "gene2"] * 20, None),
        (["Sox1"], None),
        ([], None),
    ],
)
def test_species(names: list[str], species: str | None) -> None:
    assert guess_species(names) == species
