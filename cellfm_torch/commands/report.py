"""A page of annotated cells: ``cellfm report CELLS.h5ad``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app


def report(cfg: Any) -> int:
    """Write one page from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right.
    """
    from rich.console import Console

    from cellfm_torch.annotation.labels import read_labels_map
    from cellfm_torch.commands.cells import read_cells
    from cellfm_torch.commands.outputs import new_file
    from cellfm_torch.report.gather import UMAP, checked, write_report

    path = annotated_file(cfg.cells)
    adata = read_cells(path)
    options = {key: cfg[key] for key in ("prediction", "label", "batch", "most_cells")}
    options["labels_map"] = read_labels_map(cfg.labels_map)
    output = new_file(cfg.output, f"{path.stem}_report.html", ".html", overwrite=cfg.overwrite)
    checked(adata, output, source=path.name, **options)
    console = Console()
    had = UMAP in adata.obsm
    with console.status("UMAP, genes and tables ..."):
        write_report(adata, output, layer=cfg.layer, seed=cfg.seed, source=path.name, **options)
    if not had and cfg.save_umap:
        _save(path, adata.obsm[UMAP], console)
    size = output.stat().st_size / 1e6
    answer(output=output)
    console.print(f"page:   {output} ({size:.1f} MB), needs no network", highlight=False, soft_wrap=True)
    return 0


def annotated_file(given: Any) -> Path:
    """Return the h5ad file that was named, or the one with predictions in the folder that was.

    Raises
    ------
    UserError
        If there is none, or there are several.
    """
    import h5py

    from cellfm_torch.data.files import one_file
    from cellfm_torch.errors import UserError, examples

    names = [given] if isinstance(given, str) else list(given)
    if len(names) == 1 and (folder := Path(names[0]).expanduser()).is_dir():
        found = []
        for path in sorted(filter(h5py.is_hdf5, folder.rglob("*.h5ad"))):
            with h5py.File(path) as file:
                if "obs" in file and "cellfm_label" in file["obs"]:
                    found.append(path)
        if len(found) != 1:
            what = f"{len(found)} of them: {examples(found)}; name one" if found else "none; cellfm annotate writes one"
            raise UserError(f"{folder}: looked for one h5ad file with obs['cellfm_label'], found {what}")
        return found[0]
    return one_file(names)


def _save(path: Path, coordinates: Any, console: Any) -> None:
    """Add the coordinates to the file, beside and renamed, so that the next page need not compute them."""
    from anndata.io import write_elem

    from cellfm_torch.h5_files import h5_beside

    plain: dict[str, Any] = {"highlight": False, "soft_wrap": True}
    try:
        with h5_beside(path, copy_of=path) as file:
            write_elem(file.require_group("obsm"), "X_umap", coordinates)
        console.print(f"UMAP:   kept in {path}, obsm['X_umap']; save_umap=false leaves the file alone", **plain)
    except OSError as problem:
        console.print(f"UMAP:   could not be kept in {path}: {problem.strerror or problem}", **plain)


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/report.yaml with overrides (default: the command line's) and write the page."""
    return hydra_app.run(report, config="report", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
