"""Gene sets of .gmt files, and what is known of genes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellfm_torch import UserError
from cellfm_torch.data.gene_annotation import annotate_genes
from cellfm_torch.data.gene_sets import read_gmt
from cellfm_torch.data.gene_table import Gene, GeneTable
from cellfm_torch.data.vocab import bundled_symbols
from cellfm_torch.data.vocab.make_biotypes import by_name, joined

GENES = ["CD3D", "LYZ", "AARS1", "TP53"]
TABLE = GeneTable([Gene("CD3D", ("ENSG00000167286",)), Gene("LYZ"), Gene("AARS1", (), ("AARS",)), Gene("TP53")])


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sets.gmt"
    path.write_text(text)
    return path


def test_members_are_found_by_any_name(tmp_path: Path) -> None:
    path = written(tmp_path, "one\thttp://x\tCD3D,1.0\tENSG00000167286\tAARS\tNOBODY\n\ntwo\t\tLYZ\nthree\t\tNOBODY\n")
    sets = read_gmt(path, GENES, table=TABLE)
    assert list(sets) == ["one", "two"] and sets.rows["one"].tolist() == [0, 2]
    assert sets.sizes == {"one": 4, "two": 1, "three": 1} and sets.source == "sets.gmt"
    assert np.array_equal(sets.matrix().T, [[True, False, True, False], [False, True, False, False]])
    assert list(sets.of_size(2)) == ["one"]
    with pytest.raises(
        UserError, match="none of its 2 sets has between 3 and 4 of the 4 genes \\(the largest has 2\\)"
    ):
        sets.of_size(3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no gene set"),
        ("one\tx\n", "line 1 is not a gene set"),
        ("one\tx\tLYZ\none\tx\tCD3D\n", "line 2 names the set 'one' for the second time"),
        ("one\tx\tlyz2\tCd3g\n", "none of the genes of its 1 sets is known \\(lyz2, Cd3g ...\\)"),
    ],
)
def test_says_what_is_wrong(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        read_gmt(written(tmp_path, text), GENES, table=TABLE)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file of gene sets"):
        read_gmt(tmp_path / "none.gmt", GENES)
    (tmp_path / "binary.gmt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match="is not a text file"):
        read_gmt(tmp_path / "binary.gmt", GENES)


@pytest.mark.parametrize("number", [24_078, 27_855, 19_264])
def test_biotypes_of_the_vocabularies(number: int) -> None:
    symbols = bundled_symbols(number)
    assert symbols is not None
    found = annotate_genes(symbols)
    assert list(found.index) == list(symbols)
    known = {"CD3D": "protein_coding", "KIFC1": "protein_coding", "GAPDH": "protein_coding"}
    known |= {} if number == 19_264 else {"MALAT1": "lncRNA", "XIST": "lncRNA", "MIR21": "miRNA", "NEAT1": "lncRNA"}
    assert {gene: found.loc[gene, "biotype"] for gene in known} == known
    # Newer symbols are not in the table that the types were made from.
    assert (found["biotype"] == "unknown").mean() < 0.07
    assert found["biotype"].value_counts()["protein_coding"] > 17_000


def test_kinds_by_name() -> None:
    names = (
        "LINC00926",
        "ABCF1-DT",
        "ABHD15-AS1",
        "MIR17HG",
        "SNHG7",
        "MIR21",
        "MIRLET7A1",
        "SNORD3A",
        "CD3D",
        "XY",
    )
    kinds = ["lncRNA"] * 5 + ["miRNA", "miRNA", "snoRNA", "", ""]
    assert [by_name(name) for name in names] == kinds
    assert joined("antisense") == "lncRNA" and joined("unitary_pseudogene") == "pseudogene"
