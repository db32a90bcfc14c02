"""Which page on troubleshooting helps with an error: by the module that noticed it."""

from __future__ import annotations

from types import TracebackType

from cellfm_torch.errors import UserError

PAGES = {
    "install": "Python, packages, GPUs: what must be there",
    "cells": "files of cells: counts, layers, columns of obs",
    "genes": "gene names, gene tables, lists and sets of genes",
    "models": "model folders, published checkpoints, exports",
    "training": "runs, checkpoints, memory, several processes",
    "tasks": "annotation, integration, genes, perturbations, drugs",
    "files": "what is read and written: stores, damage, disks",
    "command-line": "verbs, options, key=value, exit codes, --json",
}
"""Pages and what they are about; each is docs/troubleshooting/PAGE.md."""

# The longest name wins. What is not listed says nothing: it serves whoever called it, who is asked next.
_PAGE_OF = {
    "annotation": "tasks",
    "annotator": "tasks",
    "analysis": "tasks",
    "analysis.columns": "cells",
    "callbacks": "training",
    "cli": "command-line",
    "command_line": "command-line",
    "commands": "tasks",
    "commands.completion": "command-line",
    "commands.doctor": "install",
    "commands.estimate": "command-line",
    "commands.export": "models",
    "commands.genes_build": "genes",
    "commands.hydra_app": "command-line",
    "commands.interrupt": "training",
    "commands.help_pages": "command-line",
    "commands.lists": "genes",
    "commands.outputs": "files",
    "commands.prepare": "files",
    "commands.run_folder": "training",
    "commands.store_info": "files",
    "commands.store_verify": "files",
    "commands.training": "training",
    "convert": "models",
    "data": "cells",
    "data.budget": "training",
    "data.collection": "files",
    "data.file_parts": "files",
    "data.file_table": "files",
    "data.files": "files",
    "data.gene_annotation": "genes",
    "data.gene_column": "genes",
    "data.gene_match": "genes",
    "data.gene_sets": "genes",
    "data.gene_table": "genes",
    "data.genes": "genes",
    "data.hgnc": "genes",
    "data.labelled": "cells",
    "data.loader": "training",
    "data.masking": "training",
    "data.module": "training",
    "data.sampler": "training",
    "data.shares": "training",
    "data.source": "cells",
    "data.sources": "files",
    "data.split": "training",
    "data.split_module": "training",
    "data.store": "files",
    "data.store_codec": "files",
    "data.store_genes": "files",
    "data.store_jobs": "files",
    "data.store_manifest": "files",
    "data.store_shard": "files",
    "data.store_source": "files",
    "data.store_table": "files",
    "data.store_verify": "files",
    "data.store_write": "files",
    "distributed": "training",
    "drug": "tasks",
    "embedding": "tasks",
    "enhance": "tasks",
    "gene_tasks": "tasks",
    "gene_tasks.genes": "genes",
    "memory": "training",
    "model": "models",
    "model.device": "install",
    "ops": "install",
    "optim": "training",
    "perturbation": "tasks",
    "plots": "tasks",
    "predict": "tasks",
    "report": "tasks",
    "tasks": "training",
    "train": "training",
}


def page_of(problem: BaseException, *, otherwise: str = "command-line") -> str:
    """Return the page that helps with an error.

    Parameters
    ----------
    problem
        As it was caught: its traceback, or that of the UserError it came from, says which module noticed it. A
        UserError may name its `page` itself.
    otherwise
        The page where nothing is known, as of an error of another process.
    """
    cause: BaseException | None = problem
    while cause is not None:  # of several the first one, which was the reason for the others
        if isinstance(cause, UserError):
            problem = cause
        cause = cause.__cause__
    named = getattr(problem, "page", None)
    if named is not None:
        return str(named)
    if "pip install" in str(problem):
        return "install"
    pages = [page for module in _modules(problem.__traceback__) if (page := _page_of_module(module))]
    return pages[-1] if pages else otherwise


def _modules(traceback: TracebackType | None) -> list[str]:
    """List the modules of this package that an error passed through, the one that noticed it last."""
    found = []
    while traceback is not None:
        about = traceback.tb_frame.f_globals
        name = about.get("__name__", "")
        if name == "__main__" and about.get("__spec__") is not None:  # python -m cellfm_torch.train
            name = about["__spec__"].name
        if name.startswith("cellfm_torch."):
            found.append(name.removeprefix("cellfm_torch."))
        traceback = traceback.tb_next
    return found


def _page_of_module(module: str) -> str | None:
    while module:
        if module in _PAGE_OF:
            return _PAGE_OF[module]
        module = module.rpartition(".")[0]
    return None
