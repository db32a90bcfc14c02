"""cellfm report, as typed: what the page says, and that it stands alone."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from annotated_cells import NUM_CELLS, WITHOUT_COUNTS, annotated_cells, write_annotated

from cellfm_torch import cli
from cellfm_torch.report import page, scatter
from cellfm_torch.report.annotated import flat


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_annotated(tmp_path_factory.mktemp("report") / "cells.h5ad")


@pytest.fixture(scope="module")
def written(cells: Path) -> str:
    output = cells.with_name("page.html")
    typed = ["report", str(cells), "--label", "cell_type", "--batch", "batch", "--output", str(output)]
    assert cli.main(typed) == 0
    return output.read_text(encoding="utf-8")


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r"<script type='application/json' id='cells-data'>(.*?)</script>", text, re.DOTALL)
    assert found
    return json.loads(found[1])


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def own_part(text: str) -> str:
    """The page without its scripts."""
    return re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_stands_alone(written: str) -> None:
    assert "Plotly" in written and written.count("<script>") == 2
    for outside in ("<link", "src=", "@import", "url(http"):
        assert outside not in own_part(written)
    links = re.findall(r"href=.(.{5})", own_part(written))
    assert links and all(link.startswith("#") or link == "data:" for link in links)  # parts and pictures of the page
    headings = ("Predicted types", "Against the given types", "Confusion matrix", "Calibration", "Unknown and rare")
    for heading in headings:
        assert heading in written
    assert own_part(written).count("<svg") == 3


def test_the_picture_holds_every_placed_cell(written: str, cells: Path) -> None:
    adata, data = anndata.read_h5ad(cells), data_of(written)
    placed = np.delete(np.arange(NUM_CELLS), WITHOUT_COUNTS)
    assert data["names"] == list(adata.obs_names[placed])
    coordinates = np.stack([unpacked(data[key], "<f4") for key in "xy"], axis=1)
    np.testing.assert_array_equal(coordinates, adata.obsm["X_umap"][placed])
    fields = {field["label"]: field for field in data["fields"]}
    assert list(fields) == [
        "prediction", "given type", "probability", "runner-up", "likeliest type", "unknown cluster", "batch",
        "right or wrong",
    ]  # fmt: skip
    prediction = np.array(fields["prediction"]["names"])[unpacked(fields["prediction"]["codes"], "<u2")]
    unknown = adata.obs["cellfm_unknown"].to_numpy()[placed]
    expected = np.where(unknown, "unknown", adata.obs["cellfm_label"].astype(str).to_numpy()[placed])
    np.testing.assert_array_equal(prediction, expected)
    assert fields["prediction"]["names"].index("unknown") in fields["prediction"]["grey"]
    probability = adata.obs["cellfm_probability"].to_numpy()[placed]
    np.testing.assert_allclose(unpacked(fields["probability"]["values"], "<f4"), probability, rtol=1e-6)  # float32


def test_numbers_are_of_all_cells(written: str) -> None:
    adata, text = annotated_cells(), own_part(written)
    unknown = adata.obs["cellfm_unknown"].to_numpy()
    right = (adata.obs["cellfm_label"].astype(str) == adata.obs["cell_type"].astype(str)).to_numpy() & ~unknown
    assert f"{right.mean():.1%} of 240 cells with a given type; {right[~unknown].mean():.1%} of those" in text
    assert f"{unknown.sum()} cells ({unknown.mean():.1%})" in text
    assert "1: no counts in the model&#x27;s genes" in text
    row = re.search(r"<tr><td[^>]*>unknown 1</td>.*?</tr>", text)
    # The rejected cells are NK cells: their cluster has the genes of such cells.
    assert row and {"NKG7", "GNLY", "GZMB", "PRF1", "GZMA", "CST7"} & set(re.findall(r"\w+", row[0]))


def test_says_how_numbers_were_made(written: str) -> None:
    text = html.unescape(own_part(written))
    for words in ("cellfm: model.weights_sha256", "abc123", "cellfm: options.int8", "Welch's t", "15 neighbours"):
        assert words in text


def test_names_cannot_break_out_of_the_page(written: str) -> None:
    assert "cell 0 <b>" not in written and data_of(written)["names"][0] == "cell 0 <b>"
    assert "</b>" not in page.table(["a"], [["</b>"]]) and "<i>" not in page.summary([("<i>", "x")])
    part = scatter.cells_part(np.zeros((1, 2)), ["</script><script>x"], {"t": np.array(["<u>"], object)}, filter_by="t")
    assert part.count("</script>") == 1 and "<u>" not in part


def test_coordinates_are_kept_and_taken_again(cells: Path, written: str, tmp_path: Path) -> None:
    first = anndata.read_h5ad(cells).obsm["X_umap"]
    assert np.isnan(first[WITHOUT_COUNTS]).all() and np.isfinite(np.delete(first, WITHOUT_COUNTS, 0)).all()
    before = cells.stat().st_mtime_ns
    assert cli.main(["report", str(cells), "--output", str(tmp_path / "again.html")]) == 0
    assert cells.stat().st_mtime_ns == before
    again = (tmp_path / "again.html").read_text(encoding="utf-8")
    assert data_of(again)["x"] == data_of(written)["x"]
    assert "obsm[&#x27;X_umap&#x27;] as the file has it" in again
    assert "Against the given types" not in again and "batch" not in [f["label"] for f in data_of(again)["fields"]]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_annotated(tmp_path / "cells.h5ad")
    part = path.with_name(path.name + ".part")
    part.symlink_to(tmp_path / "nowhere" / "file")  # refused to root as well, who may write anywhere
    assert cli.main(["report", str(path), "--output", str(tmp_path / "page.html")]) == 0
    assert "UMAP:   could not be kept in" in capsys.readouterr().out
    assert "X_umap" not in anndata.read_h5ad(path).obsm


def test_a_folder_and_a_sample(cells: Path, written: str, tmp_path: Path) -> None:
    many = anndata.concat([annotated_cells()] * 5, uns_merge="first", index_unique="-")
    many.obsm["X_umap"] = np.tile(anndata.read_h5ad(cells).obsm["X_umap"], (5, 1))
    many.write_h5ad(tmp_path / "many.h5ad")
    (tmp_path / "other.h5ad").touch()
    output = tmp_path / "page.html"
    assert cli.main(["report", str(tmp_path), "--output", str(output), "most_cells=300"]) == 0
    text = output.read_text(encoding="utf-8")
    shown = len(data_of(text)["names"])
    assert 300 <= shown < 1195 and f"{shown:,} of 1,195 cells, a sample" in text
    assert "<th>Cells</th><td>1,200</td>" in text  # numbers are of all


def test_given_types_under_other_names(cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = anndata.read_h5ad(cells)
    adata.obs["theirs"] = "their " + adata.obs["cell_type"].astype(str)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    typed = ["report", str(tmp_path / "cells.h5ad"), "--label", "theirs", "--output", str(tmp_path / "page.html")]
    assert cli.main(typed) == 2
    said = capsys.readouterr().err
    assert "is among the predicted ones" in said and "labels_map=FILE.csv" in said and said.count("\n") == 1
    names = sorted(set(adata.obs["cell_type"]))
    rows = [f"their {name},{'' if name == 'NK' else name}" for name in names]
    (tmp_path / "map.csv").write_text("\n".join(["from,to", *rows]))
    assert cli.main([*typed, "--labels-map", str(tmp_path / "map.csv")]) == 0
    number = int((adata.obs["cell_type"] != "NK").sum())
    assert f"of {number} cells with a given type" in (tmp_path / "page.html").read_text(encoding="utf-8")
    for file, says in (("none.csv", "no such file"), ("cells.h5ad", "is no csv table")):
        assert cli.main([*typed, "--labels-map", str(tmp_path / file)]) == 2
        assert says in capsys.readouterr().err


def test_flat() -> None:
    nested = {"a": {"b": 1, "c": np.array([1, 2])}, "d": '{"e": [true]}', "f": "{broken"}
    assert flat(nested) == [("a.b", "1"), ("a.c", "1, 2"), ("d.e", "True"), ("f", "{broken")]


@pytest.mark.parametrize(
    ("change", "arguments", "says"),
    [
        ("", ["--label", "celltype"], "did you mean 'cell_type'?"),
        ("", ["--batch", "lane"], "batch=lane: cells.h5ad has no such column in obs"),
        ("", ["--output", "page.pdf"], "the name must end in .html"),
        ("", ["most_cells=5"], "most_cells=5: must be at least 100"),
        ("", ["layer=counts"], "layer=counts: cells.h5ad has no such layer"),
        ("label", [], "prediction=cellfm_label: cells.h5ad has no such column in obs"),
        ("embedding", [], "cells.h5ad has no obsm['X_cellfm']"),
        ("nan", [], "only 0 of 240 cells have an embedding"),
        ("truncated", [], "cells.h5ad: is truncated (its end is missing): copy or download it again"),
        ("damaged", [], "cells.h5ad: is damaged or not a valid h5ad"),
        ("none", [], "cells.h5ad: no such file"),
    ],
)
def test_mistakes(
    change: str,
    arguments: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    adata = annotated_cells()
    if change == "label":
        del adata.obs["cellfm_label"]
    elif change == "embedding":
        del adata.obsm["X_cellfm"]
    elif change == "nan":
        adata.obsm["X_cellfm"][:] = np.nan
    if change != "none":
        adata.write_h5ad(folder / "cells.h5ad")
        before = (folder / "cells.h5ad").read_bytes()
    if change == "truncated":
        (folder / "cells.h5ad").write_bytes(before := before[:5000])
    elif change == "damaged":
        (folder / "cells.h5ad").write_bytes(before := before.replace(b"X_cellfm", b"X_\xff\xfellfm"))
    assert cli.main(["report", str(folder / "cells.h5ad"), *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]
    assert change == "none" or (folder / "cells.h5ad").read_bytes() == before


def test_folders_without_one_annotated_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "looked for one h5ad file with obs['cellfm_label'], found none" in capsys.readouterr().err
    for name in ("a", "b"):
        write_annotated(tmp_path / f"{name}.h5ad")
    assert cli.main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "found 2 of them" in said and "name one" in said
