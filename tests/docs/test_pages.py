"""The code of the pages runs, as it stands, on few cells and with a model that has learned nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from walk import blocks, rewritten, walk

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if list(blocks(page.read_text(encoding="utf-8"))))

FEWER = {
    "train": ("trainer.max_steps=2", "trainer.val_check_interval=2", "callbacks.umap=null", "data.token_budget=4096"),
    "annotate": ("baselines=[majority]",),
    "integrate": ("baselines=[pca]",),
    "compare": (),
    "genes function": ("seeds=[0]", "probes=[logistic]", "baselines=[majority]", "folds=2"),
    "genes relations": ("top_genes=20", "edges=10", "least_cells=2"),
    "genes specific": ("most_cells=20",),
    "genes modules": ("seeds=[0,1]", "resolutions=[1,4]", "baselines=false", "least_genes=3", "least_cells=5"),
    "genes whatif": ("most_cells=5", "pool=5", "permutations=20"),
    "perturb train": ("trainer.max_epochs=2", "control_cells=8", "baselines=[no_change]"),
    "chem train": ("trainer.max_epochs=1", "fit.markers=40", "least_cells=4", "seeds=[0]", "random_weights=false"),
    "drug bulk": ("trainer.max_epochs=2", "fit.hidden=16", "random_weights=false"),
    "drug cells": ("random_weights=false",),
}
"""What is added to a command of a page, to have it over in seconds."""

SLOW = {"tutorials/genes", "tutorials/perturb", "tutorials/chem", "tutorials/drug", "tutorials/enhance"}


def name(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=name(p), marks=pytest.mark.slow if name(p) in SLOW else ()) for p in PAGES]
)
def test_page_runs(page: Path, reader: Path) -> None:
    printed = walk(page, FEWER)
    shown = rewritten(page.read_text(encoding="utf-8"), printed)
    assert "```text\n\n```" not in shown, "a block of output follows a command that prints nothing"


def test_the_pages_that_are_run() -> None:
    assert {"quick-start", "tutorials/embed", "extending/task", "how-it-works/retention"} <= {name(p) for p in PAGES}
    assert {f"tutorials/{p.stem}" for p in (DOCS / "tutorials").glob("*.md")} - {name(p) for p in PAGES} == {
        "tutorials/index"
    }


def test_outputs_are_put_into_the_page() -> None:
    page = "a\n```python\nx\n```\n\n```text\nold\n```\n```sh\ny\n```\n```text\nkept\n```\n"
    progress = "Training 0/97\nTesting 73/97 (75%)  0:05 left\nTesting 97/97 (100%)  in 0:19\n10% of it, seed 0: knn\n"
    assert rewritten(page, [progress + "new\n"]) == page.replace("old", "new")


def test_pictures_are_small_used_and_described() -> None:
    shown = {
        (page.parent / place).resolve(): words
        for page in DOCS.rglob("*.md")
        for words, place in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert all(len(words.split()) > 2 for words in shown.values()), "a picture says in words what it shows"
    files = set((DOCS / "pictures").iterdir())
    assert files == {place for place in shown if place.parent == DOCS / "pictures"}
    sizes = {file.name: file.stat().st_size for file in files}
    assert max(sizes.values()) < 120_000 and sum(sizes.values()) < 1_500_000, sizes
