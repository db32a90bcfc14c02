"""Gene embeddings: ``cellfm genes embed [CELLS] --model FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app


def run(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right.
    """
    import shutil

    from omegaconf import OmegaConf
    from rich.console import Console

    from cellfm_torch.commands.outputs import new_file, write_genes, write_table
    from cellfm_torch.data.files import one_file
    from cellfm_torch.gene_tasks.embeddings import gene_embeddings
    from cellfm_torch.gene_tasks.embeddings.table import embedding_table

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    given, overwrite = options.pop("cells"), options["overwrite"]
    cells = one_file(given) if given else None
    default = "genes.h5ad" if cells is None else f"{cells.stem}_genes.h5ad"
    output = new_file(options.pop("output"), default, ".h5ad", overwrite=overwrite)
    parquet = options.pop("parquet")
    if parquet is not None:
        parquet = new_file(parquet, "", ".parquet", "parquet", overwrite=overwrite)
    keep = output.with_name(f"{output.name}.parts")
    reading = options.pop("data") | {"genes": options.pop("genes")}
    try:
        genes = gene_embeddings(options.pop("model_folder"), cells, keep=keep, **options, **reading)
    except KeyboardInterrupt:
        return hydra_app.interrupted(keep)
    write_genes(genes, output)
    shutil.rmtree(keep, ignore_errors=True)
    console = Console()
    shapes = ", ".join(f"obsm['{key}'] {x.shape[1]} wide" for key, x in list(genes.obsm.items())[:3])
    more = f" and {len(genes.obsm) - 3} more" if len(genes.obsm) > 3 else ""
    console.print(f"{genes.n_obs:,} genes: {shapes}{more}", highlight=False, markup=False, soft_wrap=True)
    answer(output=output, parquet=parquet, genes=genes.n_obs)
    console.print(f"written: {output}", highlight=False, markup=False, soft_wrap=True)
    if parquet is not None:
        write_table(embedding_table(genes), parquet)
        console.print(f"written: {parquet}", highlight=False, markup=False, soft_wrap=True)
    return 0


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/genes_embed.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="genes_embed", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
