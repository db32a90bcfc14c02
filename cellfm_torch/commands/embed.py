"""Embed the cells of a file: ``cellfm embed CELLS --model FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app
from cellfm_torch.processes import rank
from cellfm_torch.quiet import quiet_lightning


@quiet_lightning()
def run(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right.
    """
    from omegaconf import OmegaConf
    from rich.console import Console

    from cellfm_torch.data.files import one_file
    from cellfm_torch.embedding import embed
    from cellfm_torch.embedding.record import NONE, WARNING_COLUMN

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    cells = one_file(options.pop("cells"))
    output = options.pop("output")
    if output is None:
        output = Path(f"{cells.name.removesuffix('.gz').rsplit('.', 1)[0]}_cellfm.h5ad")
    reading = options.pop("data")
    try:
        adata = embed(
            cells, options.pop("model_folder"), output=output, genes=options.pop("genes"), **options, **reading
        )
    except KeyboardInterrupt:
        return hydra_app.interrupted(Path(f"{output}.parts"))
    if rank():
        return 0
    answer(output=output, cells=adata.n_obs, genes=adata.n_vars)
    shapes = ", ".join(f"obsm['{key}'] {x.shape[1]} wide" for key, x in adata.obsm.items() if key.startswith(cfg.key))
    flagged = adata.obs[WARNING_COLUMN][adata.obs[WARNING_COLUMN] != NONE].value_counts()
    warned = "".join(f"\nwarning: {n:,} cells with {why}" for why, n in flagged.items() if n)
    Console().print(
        f"{adata.n_obs:,} cells: {shapes}{warned}\n"
        f"written:  {output}\n"
        f"use:      adata = anndata.read_h5ad('{output}'); scanpy.pp.neighbors(adata, use_rep='{cfg.key}')",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    adata.file.close()
    return 0


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/embed.yaml with overrides (default: the command line's) and embed."""
    return hydra_app.run(run, config="embed", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
