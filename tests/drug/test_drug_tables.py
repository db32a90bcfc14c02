"""Layouts of public tables, what joins and what does not, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from line_tables import network, simulated, write

from cellfm_torch import UserError
from cellfm_torch.analysis.expression import log_normalised
from cellfm_torch.drug.expression import read_expression
from cellfm_torch.drug.ic50 import read_ic50, read_smiles, read_thresholds
from cellfm_torch.drug.join import Responses, read_responses
from cellfm_torch.drug.names import Names, cleaned, read_lines

SPEC = network().input_spec


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write(tmp_path_factory.mktemp("tables"), simulated(12, 300))


def read(tables: dict[str, Any], **other: Any) -> Responses:
    return read_responses(spec=SPEC, **(tables | other))


def test_depmap_joined_to_gdsc(tables: dict[str, Any]) -> None:
    made, found = simulated(12, 300), read(tables)
    assert found.lines == tuple(made.expression.index) and found.titles[0] == "drug 1"
    assert found.drugs == tuple(str(i + 1) for i in range(12))
    np.testing.assert_allclose(found.values, made.ic50.to_numpy().T)  # as written: pandas writes floats whole
    assert dict(zip(found.lines, found.tissue, strict=True)) == made.tissue
    assert found.joined["joined"].all() and "12 of 12 lines with IC50 joined" in found.notes
    assert "12 of 12 drugs with IC50 joined" in found.notes


def test_values_become_log_cp10k(tables: dict[str, Any]) -> None:
    cells = read_expression(tables["expression"], SPEC).cells
    found = np.asarray(log_normalised(cells.counts).todense())
    made = simulated(12, 300).expression
    tpm = 2 ** made.to_numpy() - 1
    rows = [cells.cells.counts[:, j].toarray().ravel() for j in np.flatnonzero(cells.counts.getnnz(0))]
    assert len(rows) > 250  # the bundled cells' genes are the vocabulary's but for a few
    # The model's genes only, so sums differ by those it does not know: under one part in three here.
    np.testing.assert_allclose(np.expm1(found).sum(1), 1e4, rtol=1e-4)
    order = np.corrcoef(np.sort(found[0][found[0] > 0]), np.sort(np.log1p(tpm[0] / 100))[-int((found[0] > 0).sum()) :])
    assert order[0, 1] > 0.99


def as_ccle(folder: Path) -> Path:
    """gct: two lines, then genes as rows with a Description, lines named by CCLE and DepMap."""
    made = simulated(12, 300)
    table = (2**made.expression.T - 1).round(4)
    table.columns = [f"L{line[4:]}_LUNG ({line})" for line in table.columns]
    table.insert(0, "Description", table.index)
    table.index = pd.Index([f"UNKNOWN{i}.1" for i in range(len(table))], name="Name")
    path = folder / "ccle.gct"
    path.write_text(f"#1.2\n{len(table)}\t12\n" + table.to_csv(sep="\t"))
    return path


def as_gdsc(folder: Path) -> Path:
    """Log intensities with GENE_SYMBOLS as rows, lines by COSMIC id behind DATA."""
    table = simulated(12, 300).expression.T + 2
    table.columns = [f"DATA.{900000 + i}" for i in range(12)]
    table.insert(0, "GENE_title", "a gene, some gene")
    table.index.name = "GENE_SYMBOLS"
    table.to_csv(folder / "rma.txt", sep="\t")
    return folder / "rma.txt"


@pytest.mark.parametrize(("layout", "values", "taken"), [(as_ccle, "auto", "not log"), (as_gdsc, "log2", "log2(1 +")])
def test_other_layouts(layout: Any, values: str, taken: str, tables: dict[str, Any], tmp_path: Path) -> None:
    found = read(tables, expression=str(layout(tmp_path)), values=values)
    assert found.lines == tuple(simulated(12, 300).expression.index)
    assert len(found.pairs) == np.isfinite(simulated(12, 300).ic50.to_numpy()).sum()
    assert taken in found.notes[0]


def test_anndata_and_units_of_expression() -> None:
    made = simulated(12, 300).expression
    tpm = 2 ** made.to_numpy() - 1
    for values, taken in ((np.log1p(tpm), "ln(1"), (np.log1p(tpm / 100), "ln(1"), (made.to_numpy(), "log2")):
        adata = anndata.AnnData(values.astype(np.float32), made[[]], pd.DataFrame(index=made.columns))
        assert f"taken for {taken}" in read_expression(adata, SPEC).notes[0]
    adata.X[:] = 1.25
    with pytest.raises(UserError, match=r"cannot tell whether values are log2.*: set values=log2, ln or linear"):
        read_expression(adata, SPEC)


def test_long_ic50_by_cosmic_id(tables: dict[str, Any], tmp_path: Path) -> None:
    wide = simulated(12, 300).ic50
    rows = [
        f"{drug + 1},{900000 + line},{wide.iloc[drug, line]}"
        for drug in range(12)
        for line in range(12)
        if np.isfinite(wide.iloc[drug, line])
    ]
    path = tmp_path / "long.csv"
    path.write_text("\n".join(["DRUG_ID,COSMIC_ID,LN_IC50", *rows]) + "\n")
    found, expected = read(tables, ic50=str(path)), read(tables)
    order = [found.lines.index(line) for line in expected.lines]  # as they come in the table
    np.testing.assert_allclose(found.values[order], expected.values)


def test_transposed_ic50(tables: dict[str, Any], tmp_path: Path) -> None:
    simulated(12, 300).ic50.T.to_csv(tmp_path / "t.csv")
    np.testing.assert_allclose(read(tables, ic50=str(tmp_path / "t.csv")).values, read(tables).values)


def test_what_does_not_join_is_said(tables: dict[str, Any], tmp_path: Path) -> None:
    made = simulated(12, 300)
    made.expression.iloc[2:].rename(index={"ACH-000012": "ACH-999999"}).to_csv(tmp_path / "e.csv")
    smiles = Path(tables["smiles"]).read_text().splitlines()[1:]
    (tmp_path / "s.txt").write_text("\n".join(smiles) + "\n")
    found = read(tables, expression=str(tmp_path / "e.csv"), smiles=str(tmp_path / "s.txt"))
    assert len(found.lines) == 9 and len(found.drugs) == 11
    assert any(
        note.startswith("9 of 12 lines with IC50 joined; 3 have no expression (ACH-000001, ACH-000002, ACH-000012")
        for note in found.notes
    )
    assert "11 of 12 drugs with IC50 joined; 1 have no SMILES (1)" in found.notes
    missing = found.joined[~found.joined["joined"]]
    assert set(missing["why"]) == {"no expression", "no SMILES", "no IC50"}
    assert missing.loc[missing["why"] == "no IC50", "name"].tolist() == ["ACH-999999"]


def test_names() -> None:
    assert cleaned("DATA.905975") == cleaned("905975.0") == "905975" and cleaned("GDSC:1") == "1"
    assert cleaned("22Rv1_PROSTATE (ACH-000956)") == "ACH-000956"
    names = Names.from_rows([("ACH-1", "T.T"), ("ACH-2", "TT"), ("ACH-3", "DMS 53")])
    assert names.of("dms-53") == "ACH-3"
    assert names.of("TT") == "TT"  # a name of two lines is that of neither


def written(folder: Path, text: str) -> str:
    (folder / "bad.csv").write_text(text)
    return str(folder / "bad.csv")


@pytest.mark.parametrize(
    ("what", "text", "message"),
    [
        ("ic50", "drug,a,b\nx,150,40\ny,30,20\n", "from 20 to 150 with a median of 35 look like uM, where ln(uM) is"),
        ("ic50", "drug,a,b\nx,25,30\ny,40,50\n", "look like uM"),
        ("ic50", "drug,a,b\nx,9000,5000\ny,1e4,2000\n", "look like nM, where ln(uM) is expected: set unit=nM"),
        ("ic50", "drug,a,b\nx,-1,500\n", "cannot be ln(uM), which is below 100"),
        ("ic50", "drug,a,b\n" + "x,9,10\n" * 1 + "".join(f"y{i},9,8\n" for i in range(9)), "look like ln(nM)"),
        ("ic50", "drug,a,b\nx,1,high\n", "the IC50 of x, b is 'high': must be a number or NA"),
        ("ic50", "DRUG_NAME,LINE,LN_IC50\nx,a,1\ny,b,?\n", "the IC50 of y, b is '?': must be a number or NA"),
        ("ic50", "drug,a\nx,NA\n", "holds no IC50"),
        ("ic50", "drug,a,b\nx,1,-2\n", "no line of"),
        ("ic50", "alone\nx\n", "is neither drugs by lines nor a table with columns drug, line, ln_ic50 (it has alone)"),
        ("smiles", "name,structure,more\nx,C,1\n", "needs columns drug and smiles (it has name, structure, more)"),
        ("smiles", "drug,smiles\nnone,C\n", "has the SMILES of no drug of the IC50 table (1, 2, 3; it has none)"),
        ("smiles", "drug,smiles\n1,CC(=O\n2,C\n", "bad.csv: the SMILES of 1 does not parse (CC(=O): correct it"),
        ("annotation", "a,b\n1,2\n", "has no column with names of cell lines"),
        ("drugs", "drug_id,b\n1,2\n", "needs two columns of drug_id, Name, PubCHEM (it has drug_id, b)"),
        ("expression", "line,GAPDH,B2M\na,-1,1\n", "line a has negative values: log2(TPM + 1), TPM or counts are"),
        ("expression", "line,GAPDH,B2M\na,,1\n", "line a has a value that is no number: fill it in or drop the gene"),
        ("expression", "line,G1x,G2x\na,1,1\n", "no gene of the model is in its rows (a) or columns (G1x, G2x)"),
        ("expression", "line,GAPDH,B2M\na,0,0\n", "line a expresses no gene: take it out"),
        ("expression", "line,GAPDH,B2M\na,5,1\na,3,1\n", "line a is there more than once: keep one row of it"),
        ("expression", "line,GAPDH,B2M\n900001,5,1\nACH-000002,3,1\n", "900001 and ACH-000002 are one line (ACH-0"),
    ],
)
def test_mistakes_are_one_line(what: str, text: str, message: str, tables: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tables, **{what: written(tmp_path, text)})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_not_there(tables: dict[str, Any]) -> None:
    for what in ("expression", "ic50", "smiles", "drugs", "annotation"):
        with pytest.raises(UserError, match=f"{what}=nowhere.csv: there is no such file"):
            read(tables, **{what: "nowhere.csv"})
    with pytest.raises(UserError, match=r"unit=um: choose ln_uM, uM, nM, pIC50; did you mean 'uM'\?"):
        read(tables, unit="um")
    with pytest.raises(UserError, match=r"values=log: choose auto, log2, ln, linear"):
        read(tables, values="log")


def test_other_units_of_ic50(tmp_path: Path) -> None:
    path = written(tmp_path, "drug,a,b\nx,1000,200\n")
    np.testing.assert_allclose(read_ic50(path, Names(), Names(), unit="nM"), np.log([[1.0, 0.2]]))
    np.testing.assert_allclose(read_ic50(path, Names(), Names(), unit="uM"), np.log([[1000.0, 200.0]]))
    path = written(tmp_path, "drug,a,b\nx,6,9\n")
    np.testing.assert_allclose(read_ic50(path, Names(), Names(), unit="pIC50"), np.log([[1.0, 1e-3]]), atol=1e-12)
    with pytest.raises(UserError, match=r"unit=nM: has values that are not positive \(0\)"):
        read_ic50(written(tmp_path, "drug,a\nx,0\n"), Names(), Names(), unit="nM")


LN_MICROMOLAR = np.random.default_rng(0).normal(2.5, 2.7, (12, 20))
"""As GDSC's are spread."""
IN = {
    "ln_uM": LN_MICROMOLAR,
    "uM": np.exp(LN_MICROMOLAR),
    "nM": 1e3 * np.exp(LN_MICROMOLAR),
    "pIC50": 6 - LN_MICROMOLAR / np.log(10),
}


@pytest.mark.parametrize("unit", IN)
@pytest.mark.parametrize("said", IN)
def test_the_unit_that_numbers_look_like_is_said(unit: str, said: str, tmp_path: Path) -> None:
    table = pd.DataFrame(IN[unit], [f"drug {i}" for i in range(12)], [f"line {i}" for i in range(20)])
    table.to_csv(tmp_path / "t.csv")
    if unit == said:
        np.testing.assert_allclose(read_ic50(tmp_path / "t.csv", Names(), Names(), unit=said), LN_MICROMOLAR)
        return
    # Micromolar of usual drugs are as nanomolar of potent ones: nobody can tell.
    if (unit, said) == ("uM", "nM"):
        assert np.isfinite(read_ic50(tmp_path / "t.csv", Names(), Names(), unit=said)).all().all()
        return
    with pytest.raises(UserError) as caught:
        read_ic50(tmp_path / "t.csv", Names(), Names(), unit=said)
    like, expected = (("ln(uM)" if name == "ln_uM" else name) for name in (unit, said))
    assert str(caught.value).endswith(f"look like {like}, where {expected} is expected: set unit={unit}")
    assert str(tmp_path / "t.csv") in str(caught.value) and "\n" not in str(caught.value)


def test_other_logarithms_are_told(tmp_path: Path) -> None:
    for values, message in (
        (
            LN_MICROMOLAR / np.log(10) - 6,
            "look like log10(M), where ln(uM) is expected: change their sign and set unit",
        ),
        (LN_MICROMOLAR + np.log(1e3), "look like ln(nM), where ln(uM) is expected: subtract ln(1000) = 6.908"),
    ):
        pd.DataFrame(values).to_csv(tmp_path / "t.csv")
        with pytest.raises(UserError) as caught:
            read_ic50(tmp_path / "t.csv", Names(), Names())
        assert message in str(caught.value)
    path = written(tmp_path, "DRUG_NAME,LINE,pIC50\nx,a,5\ny,b,6\n")
    with pytest.raises(UserError, match=r"column pIC50 is not ln_uM: set unit=pIC50"):
        read_ic50(path, Names(), Names())
    assert read_ic50(path, Names(), Names(), unit="pIC50").loc["y", "b"] == pytest.approx(0)


def test_one_drug_may_be_anything(tmp_path: Path) -> None:
    """A potent one and a weak one, in ln(uM): of each alone the numbers look like those of another unit."""
    for middle in (-5.0, 5.0):
        pd.DataFrame(LN_MICROMOLAR[:1] / 4 + middle, ["x"]).to_csv(tmp_path / "t.csv")
        assert np.isfinite(read_ic50(tmp_path / "t.csv", Names(), Names())).all().all()


def test_thresholds_and_smiles(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("A\tB \n1.5\t-2\n")
    assert read_thresholds(path) == {"A": 1.5, "B": -2.0}
    path.write_text("drug,threshold\nA,1\nB,NA\n")
    assert read_thresholds(path) == {"A": 1.0}
    path.write_text("5\tCCO\n6\tC\n")
    assert read_smiles(path) == {"5": "CCO", "6": "C"}
    assert read_lines(None).of("x") == "x"
