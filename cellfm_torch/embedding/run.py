"""Embed cells: read, compute and keep, block by block, then write; goes on where it was interrupted.

Shapes: n cells, C width of a cell embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import numpy as np
from anndata import AnnData, read_h5ad
from numpy.typing import NDArray
from rich.console import Console

from cellfm_torch.data.files import Given, Input, one_file
from cellfm_torch.data.fingerprint import fingerprint
from cellfm_torch.data.module import CellDataModule
from cellfm_torch.embedding.callbacks import EmbedProgress, PartWriter
from cellfm_torch.embedding.compute import EmbedTask, Functions
from cellfm_torch.embedding.output import Result, is_anndata, read, write_h5ad
from cellfm_torch.embedding.parts import FolderParts, MemoryParts
from cellfm_torch.embedding.plan import estimate
from cellfm_torch.embedding.record import cell_columns, record, weights_of
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.lost import Watched
from cellfm_torch.model.loading import Backbone, load_model
from cellfm_torch.processes import rank
from cellfm_torch.quiet import quiet_lightning

LEAST = 4
"""Cells of a process, on average."""

FILTERS = ("min_genes", "max_genes", "min_counts", "max_counts", "max_mito")


def embed(
    adata: AnnData | Input | str | Path,
    model: Backbone | str | Path,
    *,
    output: str | Path | None = None,
    outputs: str | Iterable[str] = "cell",
    key: str = "X_cellfm",
    int8: bool = False,
    sample_genes: int | None = None,
    token_budget: int = 16384,
    accelerator: str = "auto",
    devices: int | Literal["auto"] = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    num_workers: int = 0,
    overwrite: bool = False,
    verbose: bool = True,
    **reading: Any,
) -> AnnData:
    """Embed every cell, and put the embeddings into the AnnData, in its order.

    Genes are found by symbol, Ensembl id, previous symbol or alias. The numbers depend on nothing but the cell and the
    model: not on batches, the order of cells or the number of processes (float32: 1e-5 of their mean magnitude).
    Training happens nowhere: this is zero-shot.

    Parameters
    ----------
    adata
        Cells with raw counts: an AnnData, which is added to (as an Input it has a name in reports), or a file of any
        known format.
    model
        A model folder, or a network; in evaluation mode while it computes.
    output
        h5ad file to write. The cells are then read, embedded and written block by block, and an interrupted job goes
        on where it stopped when it is called again. Without one the result is in memory.
    outputs
        ``"cell"``, and other names of ``model.outputs()`` of one row per cell: of CellFM ``"mean"`` and ``"max"`` over
        its genes, and ``"layer1"``, ``"layer2"`` ... for cls after a layer.
    key
        Name in ``obsm``; of other outputs than ``"cell"`` with ``_<output>`` behind it.
    int8
        Multiply in 8-bit integers on a CPU with VNNI: about twice as fast, no longer exact.
    sample_genes
        Most genes per cell; of cells with more, so many are drawn, as in pretraining (2,048 there), by the row of the
        cell. None: all genes.
    token_budget
        Gene tokens per batch. Raised to twice the longest cell; halved where memory does not suffice.
    accelerator, devices, num_nodes, strategy
        As :class:`lightning.pytorch.Trainer` has them. More than one device takes an `output`, in a folder that all
        machines see: each process keeps what it has embedded there, and the first one merges it in the order of the
        cells. Where a process is killed, the same call goes on with what is there, with any number of processes.
    num_workers
        Threads that make batches ahead.
    overwrite
        Replace `output` where it exists, and begin again where a job of other options was interrupted.
    verbose
        Print what was read, an estimate of memory and time, and progress.
    reading
        How the file is read: ``layer``, ``counts``, ``genes``, ``stream`` and ``target_depth``, see
        :class:`~cellfm_torch.data.module.CellDataModule`.

    Returns
    -------
    AnnData
        The one given, or the file read; where `output` is given the file written, open for reading. With

        - ``obsm[key]``: (n, C) float32; NaN for cells without counts in the model's genes;
        - ``obs["cellfm_genes"]``: expressed genes of the model;
        - ``obs["cellfm_warning"]``: empty, or what is to be said against the cell;
        - ``uns["cellfm"]``: model, SHA-256 of its weights, what it was converted from, options, genes matched.

    Raises
    ------
    UserError
        If the model or the cells cannot be used, `output` is there already, or memory does not suffice for one cell.

    Examples
    --------
    >>> adata = embed("cells.h5ad", "CellFM_80M_weight")  # doctest: +SKIP
    >>> scanpy.pp.neighbors(adata, use_rep="X_cellfm")  # doctest: +SKIP
    """
    names = [outputs] if isinstance(outputs, str) else list(outputs)
    if wrong := [name for name in FILTERS if name in reading]:
        raise UserError(f"{wrong[0]}: embedding keeps all cells: filter before, or by obs['cellfm_genes'] afterwards")
    found = adata if isinstance(adata, AnnData) else adata.adata if isinstance(adata, Input) else None
    source = None
    if found is None:
        source = one_file(adata.path if isinstance(adata, Input) else adata)
    target = None if output is None else _target(Path(output).expanduser(), overwrite=overwrite)
    if target is not None and source is None:
        raise UserError("output: is for cells in a file; write this AnnData with its write_h5ad instead")
    if devices != 1 and target is None:
        raise UserError(f"devices={devices}: takes an output file, where the processes meet")
    folder = None if isinstance(model, Backbone) else Path(model).expanduser()
    network = model if isinstance(model, Backbone) else load_model(model)
    functions = _functions(network, names, int8=int8)
    cells: Given = adata if source is None else source
    if source is not None and target is None and reading.get("stream") is not True and is_anndata(source):
        found = read(source)  # all of it is wanted in the end: it need not be read for its counts before
        cells = Input(source, adata=found)
    data = CellDataModule(
        cells,
        input_spec=network.input_spec.sampling(sample_genes),
        token_budget=token_budget,
        num_workers=num_workers,
        min_genes=0,
        verbose=verbose,
        **reading,
    )
    lengths = data.table.lengths
    if not lengths.any():
        named = adata.path if isinstance(adata, Input) else source or "AnnData"
        raise UserError(f"{named}: none of its {len(lengths):,} cells has counts in the model's genes")
    data.token_budget = None  # open, or the least one cannot be asked for
    data.token_budget = max(token_budget, data.least_token_budget)

    options = {"outputs": names, "int8": int8, "sample_genes": sample_genes, **reading}
    weights = weights_of(folder)
    wanted, done = np.flatnonzero(lengths > 0), 0
    parts: FolderParts | MemoryParts = MemoryParts()
    if target is not None and source is not None:
        job = {"cells": str(source), **fingerprint(source), "model": weights, "options": options}
        parts = FolderParts(target.with_name(f"{target.name}.parts"), job, overwrite=overwrite)
        there = parts.done()
        wanted, done = np.setdiff1d(wanted, there, assume_unique=True), len(there)
    if len(wanted) or devices != 1 or num_nodes != 1:
        callbacks: list[pl.Callback] = [PartWriter(parts, wanted)]
        if verbose:
            callbacks.append(EmbedProgress(done, done + len(wanted)))
        where = {"accelerator": accelerator, "devices": devices, "num_nodes": num_nodes, "strategy": strategy}
        with quiet_lightning():
            trainer = _trainer(callbacks=callbacks, **where)
            data.predict_rows = _for_each(trainer.world_size, wanted, np.flatnonzero(lengths > 0))
            if verbose and trainer.is_global_zero and len(wanted):
                _say(estimate(network, functions, data, device=trainer.strategy.root_device), done)
            training = network.training
            with Watched(trainer):
                trainer.predict(EmbedTask(network, functions), datamodule=data, return_predictions=False)
            network.train(training)
    if rank():  # the first process writes what all have kept
        return AnnData(obs=data.obs)
    result = Result(
        parts=parts,
        keys={name: key if name == "cell" else f"{key}_{name}" for name in names},
        columns=cell_columns(lengths),
        uns=record(model=network, folder=folder, weights=weights, reports=data.reports, options=options),
        cells=len(lengths),
    )
    if target is not None and source is not None:
        write_h5ad(source, target, result)
        cast(FolderParts, parts).remove()
        return read_h5ad(target, backed="r")
    if found is None:
        found = read(cast(Path, source))
    result.add_to(found)
    return found


def _trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        precision="32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )


def _for_each(processes: int, wanted: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows to compute: the wanted ones, and others where there are too few for all processes to have some.

    They meet when they have computed: one without a cell would leave the others waiting, or be done before they begin.
    """
    if processes == 1:
        return wanted
    others = np.setdiff1d(rows, wanted, assume_unique=True)
    return np.union1d(wanted, others[: max(0, LEAST * processes - len(wanted))])


def _say(line: str, done: int) -> None:
    already = f"; {done:,} cells are done already" if done else ""
    Console().print(line + already, highlight=False, soft_wrap=True)


def _target(output: Path, *, overwrite: bool) -> Path:
    if output.suffix != ".h5ad":
        raise UserError(f"output={output}: the name must end in .h5ad", page="files")
    if output.exists() and not overwrite:
        raise UserError(f"{output}: exists already: choose another output, or set overwrite=true", page="files")
    return output


def _functions(network: Backbone, names: list[str], *, int8: bool) -> Functions:
    known = network.outputs()
    for name in names:
        if name not in known:
            raise UserError(
                f"outputs={name}: this {type(network).__name__} has {', '.join(known)}{nearest(name, known)}"
            )
    if not names:
        raise UserError("outputs: name at least one, such as cell")
    if int8:
        known["cell"] = network.embedder(int8=True)
    return {name: known[name] for name in names}
