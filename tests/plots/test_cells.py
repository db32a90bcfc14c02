"""The pictures: coordinates, plots, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside
from cellfm_torch.plots.cells import loss_curve, read_history, save_figure, umap_coordinates, umap_plot

matplotlib.use("Agg")


def axis() -> Any:
    return Figure(figsize=(6.0, 4.5), layout="constrained").add_subplot()


def test_umap_separates_groups_and_repeats_itself(recwarn: pytest.WarningsRecorder) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (20, 5)), rng.normal(20, 1, (20, 5))])
    coords = umap_coordinates(x, seed=3)
    assert coords.shape == (40, 2) and np.isfinite(coords).all()
    np.testing.assert_array_equal(coords, umap_coordinates(x, seed=3))
    between = np.linalg.norm(coords[:20].mean(0) - coords[20:].mean(0))
    # Spread about each group's own centre: where the centres lie is up to UMAP, and differs with its version.
    assert between > 4 * max(coords[:20].std(0).max(), coords[20:].std(0).max())
    assert umap_coordinates(x[:5]).shape == (5, 2)
    assert not [w for w in recwarn if "n_jobs" in str(w.message)]


@pytest.mark.parametrize("cells", [1, 2, 4])
def test_too_few_cells_for_umap(cells: int) -> None:
    coords = umap_coordinates(np.random.default_rng(0).normal(size=(cells, 3)))
    assert coords.shape == (cells, 2) and np.isfinite(coords).all()


def test_refuses_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give one row per cell"):
        umap_coordinates(np.zeros((0, 3)))
    with pytest.raises(UserError, match="1 of 9 cells have NaN or infinite values, first row 2"):
        x = np.ones((9, 3))
        x[2, 1] = np.nan
        umap_coordinates(x)
    with pytest.raises(UserError, match="2 labels for 3 cells"):
        umap_plot(np.zeros((3, 2)), ["a", "b"])
    with pytest.raises(UserError, match="unknown kind '.bmpx'; use .png"):
        save_figure(axis().figure, tmp_path / "x.bmpx")
    with pytest.raises(UserError, match="no 'train_loss' or 'val_loss' was logged; columns are step, lr"):
        loss_curve(pd.DataFrame({"step": [1], "lr": [0.1]}))
    with pytest.raises(UserError, match="no metrics.csv"):
        read_history(tmp_path)
    assert not list(tmp_path.iterdir())


def test_umap_plot_is_a_picture(tmp_path: Path) -> None:
    coords = np.random.default_rng(0).normal(size=(60, 2))
    labels = ["T"] * 30 + ["B"] * 15 + [None] * 8 + [f"rare {i}" for i in range(7)]
    ax = umap_plot(coords, labels, ax=(given := axis()), title="Cells")
    assert ax is given and ax.get_title(loc="left") == "Cells"
    legend = ax.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:2] == ["T (30)", "B (15)"] and texts[-1] == "not labelled (8)" and len(texts) == 10
    path = save_figure(ax.figure, tmp_path / "new" / "umap.png")
    picture = imread(path)[..., :3]
    assert picture.shape[:2] == (675, 900)
    legend_half, plot_half = picture[:, 700:], picture[:, :600]
    assert legend_half.std() > 0.02 and plot_half.std() > 0.02, "blank"
    assert [p.name for p in path.parent.iterdir()] == ["umap.png"]


def test_umap_plot_of_numbers_and_of_nothing() -> None:
    coords = np.random.default_rng(0).normal(size=(20, 2))
    assert len(umap_plot(coords, np.linspace(0, 1, 20), ax=axis()).figure.axes) == 2  # type: ignore[arg-type]
    assert umap_plot(coords, ax=axis()).get_legend() is None
    assert umap_plot(coords).figure.bbox_inches.size.tolist() == [6.0, 4.5]  # type: ignore[union-attr]


def test_loss_curve_and_its_scale() -> None:
    steps = np.arange(0, 400, 10)
    history = pd.DataFrame({"step": steps, "train_loss": 1 + 1 / (1 + steps), "val_loss": np.nan})
    history.loc[9, "val_loss"] = 1.1
    ax = loss_curve(history, ax=axis(), baselines={"gene mean": 1.5})
    legend = ax.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["training (smoothed)", "validation", "gene mean (1.5)"]
    assert ax.get_yscale() == "linear"
    few = loss_curve(history[:9], ax=axis())
    np.testing.assert_array_equal(few.lines[1].get_ydata(), history["train_loss"][:9], "too few points to smooth")
    history["train_loss"] -= 0.99
    assert loss_curve(history, ax=axis()).get_yscale() == "log"
    assert loss_curve(history[["step", "val_loss"]], ax=axis()).lines[0].get_xdata().tolist() == [90]  # type: ignore[union-attr]


def test_history_of_a_resumed_run(tmp_path: Path) -> None:
    logs = {
        "version_0": "step,train_loss,val_loss\n9,1.0,\n19,0.9,\n19,,0.95\n29,0.8,\n39,0.7,\n",
        "version_2": "step,train_loss,val_loss,extra\n29,0.5,,7\n29,,0.55,\n39,0.4,,\n49,0.3,,\n",
        "version_10": "step,train_loss\n49,0.2\n",
        "version_11": "",
    }
    for name, text in logs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text(text)
    history = read_history(tmp_path)
    assert history["step"].tolist() == [9, 19, 29, 39, 49]
    assert history["train_loss"].tolist() == [1.0, 0.9, 0.5, 0.4, 0.2]
    assert history["val_loss"].dropna().tolist() == [0.95, 0.55]
    assert read_history(tmp_path / "version_10")["step"].tolist() == [49]


def test_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with pytest.raises(KeyboardInterrupt), written_beside(target) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    for text in ("old", "new"):
        with written_beside(target) as part:
            part.write_text(text)
    with pytest.raises(OSError), written_beside(target) as part:
        part.write_text("half")
        raise OSError("disk full")
    assert target.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
