"""Gene tables: the bundled one, HGNC's compiled one, and how names lead to genes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellfm_torch.cli import main
from cellfm_torch.data.gene_table import BUNDLED, Gene, GeneTable, cached_table, ensembl_id, find_table
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.hgnc import read_hgnc
from cellfm_torch.data.vocab.make_genes import make_table, read_release
from cellfm_torch.errors import UserError

HGNC = (
    "hgnc_id\tsymbol\tstatus\talias_symbol\tprev_symbol\tensembl_gene_id\n"
    'HGNC:1\tAARS1\tApproved\t"CMT2N|AlaRS"\tAARS\tENSG00000090861\n'
    "HGNC:2\tA4GALT\tApproved\tGb3S|P(k)\tP1\tENSG00000128274\n"
    "HGNC:3\tABCB10\tApproved\tM-ABC2\t\tENSG00000135776\n"
    "HGNC:4\tABCB10P1\tApproved\tM-ABC2\tABCB10P\tENSG00000274099\n"
    "HGNC:5\tOLD1\tEntry Withdrawn\t\t\t\n"
    "HGNC:6\tNEWGENE\tApproved\t\tA4GALT\t\n"
)
"""Lines in the layout of HGNC's file: quotes around several names, an alias of two genes, a withdrawn entry, and a
previous symbol that is another gene's approved one."""


@pytest.fixture
def hgnc(tmp_path: Path) -> Path:
    (tmp_path / "hgnc_complete_set.txt").write_text(HGNC)
    return tmp_path / "hgnc_complete_set.txt"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ENSG00000141510", "ENSG00000141510"),
        ("ENSG00000141510.18", "ENSG00000141510"),
        ("ENSG00000002586.20_PAR_Y", "ENSG00000002586"),
        ("ENSGR0000002586", "ENSG00000002586"),
        ("PTPRC_ENSG00000081237", "ENSG00000081237"),
        ("ENSG00000141510|TP53", "ENSG00000141510"),
        ("ENSMUSG00000059552", None),
        ("ENSG0000014151", None),
        ("ENSG000001415100", None),
        ("TP53", None),
    ],
)
def test_ensembl_id(name: str, wanted: str | None) -> None:
    assert ensembl_id(name) == wanted


def test_bundled_table_covers_the_vocabularies() -> None:
    """Pairs everyone knows, so that a shifted table would be noticed; and nearly all genes of both models."""
    table = GeneTable.load(BUNDLED)
    known = {
        "ENSG00000141510": "TP53",
        "ENSG00000156738": "MS4A1",
        "ENSG00000010610": "CD4",
        "ENSG00000198888": "MT-ND1",
    }
    assert [table.genes[table.find(name)[0]].symbol for name in known] == list(known.values())
    for size, missing in ((24078, 3_000), (27855, 5_000)):  # symbols of other releases than the table's
        assert sum(table.find(symbol)[0] < 0 for symbol in GeneVocab.bundled(size).symbols) <= missing


def test_names_lead_to_genes(hgnc: Path) -> None:
    table = read_hgnc(hgnc)
    found = {name: table.find(name) for name in ("AARS1", "AARS", "CMT2N", "ENSG00000090861.3", "M-ABC2", "A4GALT")}
    assert found["AARS1"] == (0, "symbol") and found["AARS"] == (0, "previous") and found["CMT2N"] == (0, "alias")
    assert found["ENSG00000090861.3"] == (0, "ensembl")
    assert found["M-ABC2"] == (-1, "ambiguous"), "the alias of two genes is of no use"
    assert found["A4GALT"] == (1, "symbol"), "an approved symbol is not another gene's previous one"
    assert table.find("OLD1") == table.find("nonsense") == (-1, "")
    assert table.symbol("P1") == "A4GALT" and table.symbol("nonsense") == "nonsense"


def test_save_load_and_merge(hgnc: Path, tmp_path: Path) -> None:
    other = GeneTable(
        [
            Gene("AARS", ("ENSG00000099999",), ("VERYOLD",)),  # goes to AARS1, which has this symbol now
            Gene("A4GALT", ("ENSG00000128274", "ENSG00000088888"), ("ABCB10",)),  # ABCB10 is another gene
            Gene("ONLYHERE", ("ENSG00000077777",)),
            Gene("SAMEID", ("ENSG00000135776",)),  # the id is ABCB10's: an older name of it
        ],
        source="other",
    )
    table = read_hgnc(hgnc).merged(other)
    table.save(tmp_path / "genes.tsv.gz")
    loaded = GeneTable.load(tmp_path / "genes.tsv.gz")
    assert loaded.genes == table.genes and loaded.source == table.source
    assert table.source.startswith("HGNC (hgnc_complete_set.txt, 5 genes)") and table.source.endswith("other")
    wanted = {
        "AARS": "AARS1",
        "VERYOLD": "AARS1",
        "ENSG00000099999": "AARS1",
        "ENSG00000088888": "A4GALT",
        "ABCB10": "ABCB10",
        "ONLYHERE": "ONLYHERE",
        "SAMEID": "ABCB10",
    }
    assert {name: table.symbol(name) for name in wanted} == wanted
    table.save(tmp_path / "again.tsv.gz")
    assert (tmp_path / "again.tsv.gz").read_bytes() == (tmp_path / "genes.tsv.gz").read_bytes()


def test_which_table_is_used(hgnc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option before the environment before the user's own before the bundled one."""
    assert find_table() is GeneTable.load(BUNDLED)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["genes", "build", str(hgnc)]) == 0
    assert cached_table() == tmp_path / "cache" / "cellfm_torch" / "genes.tsv.gz"
    assert find_table().find("CMT2N")[1] == "alias"
    small = GeneTable([Gene("X", ("ENSG00000000001",))], source="small")
    small.save(tmp_path / "small.tsv.gz")
    monkeypatch.setenv("CELLFM_GENES", str(tmp_path / "small.tsv.gz"))
    assert find_table().source == "small"
    assert find_table(cached_table()).find("CMT2N")[1] == "alias"


def test_build_command(hgnc: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "own.tsv.gz"
    assert main(["genes", "build", str(hgnc), "--output", str(output)]) == 0
    assert "own.tsv.gz: 23," in capsys.readouterr().out
    table = GeneTable.load(output)
    assert table.symbol("CMT2N") == "AARS1" and table.symbol("ENSG00000141510") == "TP53"
    (tmp_path / "wrong.txt").write_text("symbol\tname\nA\tB\n")
    (tmp_path / "empty.txt").write_text(HGNC.partition("\n")[0] + "\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00symbol")
    for arguments, message in (
        (["genes", "build", str(tmp_path / "no.txt")], "no such file: download HGNC's complete set"),
        (
            ["genes", "build", str(tmp_path / "wrong.txt")],
            "has no column ensembl_gene_id and no prev_symbol and no alias",
        ),
        (["genes", "build", str(tmp_path / "empty.txt")], "has no gene"),
        (["genes", "build", str(tmp_path / "binary.txt")], "cannot be read"),
        (["genes", "bulid"], "there is no verb 'genes bulid'; did you mean 'build'?"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and error.startswith("error: ")


def test_what_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such gene table: make one with cellfm genes build"):
        find_table(tmp_path / "no.tsv.gz")
    for content in (b"", b"symbol\n", BUNDLED.read_bytes()[:1000]):
        (tmp_path / "x.tsv.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.tsv\.gz: is not a gene table"):
            find_table(tmp_path / "x.tsv.gz")


def test_releases_give_previous_symbols(tmp_path: Path) -> None:
    new, old = tmp_path / "new.csv", tmp_path / "old.csv"
    new.write_text("ENSG00000000001,NEW,1\nENSG00000000002,OTHER_ENSG00000000002,1\nENSG00000000003,OLD2,1\n")
    old.write_text("n,ensembl_id,gene_name\n0,ENSG00000000001,OLD\n1,ENSG00000000002,OLD2\n2,ENSGunknown,NO\n")
    table = make_table([read_release(str(new)), read_release(str(old))], {"NEW", "OTHER"})
    assert table.genes == (
        Gene("NEW", ("ENSG00000000001",), ("OLD",)),
        Gene("OTHER", ("ENSG00000000002",)),  # OLD2 is another gene by now
    )
