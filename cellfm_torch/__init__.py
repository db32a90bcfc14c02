"""CellFM, a foundation model of human single-cell RNA, in PyTorch and Lightning: the public names.

Each name is imported when it is first used, so that ``cellfm --help`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cellfm_torch.analysis.batch_methods import score_beside
    from cellfm_torch.analysis.comparison import compare
    from cellfm_torch.annotator import CellAnnotator
    from cellfm_torch.batch import CellBatch, InputSpec
    from cellfm_torch.callbacks import (
        ActivationCheckpointing,
        BackboneFreezer,
        EmbeddingWriter,
        KeepFreedMemory,
        LossCurve,
        MatmulPrecision,
        StepGuard,
        Throughput,
        TokenBudgetFinder,
        UMAPPicture,
    )
    from cellfm_torch.data.genes import GeneVocab
    from cellfm_torch.data.module import CellDataModule
    from cellfm_torch.drug.bulk import drug_response
    from cellfm_torch.drug.cells import single_cell_response
    from cellfm_torch.embedding import embed
    from cellfm_torch.enhance import enhance
    from cellfm_torch.errors import UserError
    from cellfm_torch.gene_tasks.embeddings import gene_embeddings
    from cellfm_torch.gene_tasks.function import gene_function
    from cellfm_torch.gene_tasks.modules import gene_modules
    from cellfm_torch.gene_tasks.relations import gene_relations
    from cellfm_torch.gene_tasks.specificity import specific_genes
    from cellfm_torch.gene_tasks.whatif import what_if
    from cellfm_torch.model import (
        CellFM,
        CellFMConfig,
        Encoding,
        Prediction,
        ScFoundation,
        ScFoundationConfig,
        load_model,
    )
    from cellfm_torch.ops import (
        Layout,
        RetentionState,
        retention,
        retention_map,
        retention_state,
        split_retention,
    )
    from cellfm_torch.perturbation.chem.predictor import ChemicalPerturbation
    from cellfm_torch.perturbation.gene.screen import GenePerturbation
    from cellfm_torch.predict import predict
    from cellfm_torch.report.gather import write_report
    from cellfm_torch.tasks.annotate import AnnotateTask
    from cellfm_torch.tasks.integrate import IntegrateTask
    from cellfm_torch.tasks.losses import pretraining_loss
    from cellfm_torch.tasks.perturb import PerturbTask
    from cellfm_torch.tasks.pretrain import PretrainTask

_HOME = {
    "annotator": ("CellAnnotator",),
    "analysis.batch_methods": ("score_beside",),
    "analysis.comparison": ("compare",),
    "batch": ("CellBatch", "InputSpec"),
    "callbacks": (
        "ActivationCheckpointing",
        "BackboneFreezer",
        "EmbeddingWriter",
        "KeepFreedMemory",
        "LossCurve",
        "MatmulPrecision",
        "StepGuard",
        "Throughput",
        "TokenBudgetFinder",
        "UMAPPicture",
    ),
    "data.genes": ("GeneVocab",),
    "data.module": ("CellDataModule",),
    "drug.bulk": ("drug_response",),
    "drug.cells": ("single_cell_response",),
    "embedding": ("embed",),
    "enhance": ("enhance",),
    "errors": ("UserError",),
    "gene_tasks.embeddings": ("gene_embeddings",),
    "gene_tasks.function": ("gene_function",),
    "gene_tasks.modules": ("gene_modules",),
    "gene_tasks.relations": ("gene_relations",),
    "gene_tasks.specificity": ("specific_genes",),
    "gene_tasks.whatif": ("what_if",),
    "model": ("CellFM", "CellFMConfig", "Encoding", "Prediction", "ScFoundation", "ScFoundationConfig", "load_model"),
    "ops": ("Layout", "RetentionState", "retention", "retention_map", "retention_state", "split_retention"),
    "perturbation.chem.predictor": ("ChemicalPerturbation",),
    "perturbation.gene.screen": ("GenePerturbation",),
    "predict": ("predict",),
    "tasks.annotate": ("AnnotateTask",),
    "report.gather": ("write_report",),
    "tasks.integrate": ("IntegrateTask",),
    "tasks.losses": ("pretraining_loss",),
    "tasks.perturb": ("PerturbTask",),
    "tasks.pretrain": ("PretrainTask",),
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _HOME.items() for name in names}

__all__ = [
    "ActivationCheckpointing",
    "AnnotateTask",
    "BackboneFreezer",
    "CellAnnotator",
    "CellBatch",
    "CellDataModule",
    "CellFM",
    "CellFMConfig",
    "ChemicalPerturbation",
    "EmbeddingWriter",
    "Encoding",
    "GenePerturbation",
    "GeneVocab",
    "InputSpec",
    "IntegrateTask",
    "KeepFreedMemory",
    "Layout",
    "LossCurve",
    "MatmulPrecision",
    "Prediction",
    "PerturbTask",
    "PretrainTask",
    "RetentionState",
    "ScFoundation",
    "ScFoundationConfig",
    "StepGuard",
    "Throughput",
    "TokenBudgetFinder",
    "UMAPPicture",
    "UserError",
    "compare",
    "drug_response",
    "embed",
    "enhance",
    "gene_embeddings",
    "gene_function",
    "gene_modules",
    "gene_relations",
    "load_model",
    "predict",
    "pretraining_loss",
    "retention",
    "retention_map",
    "retention_state",
    "score_beside",
    "single_cell_response",
    "specific_genes",
    "split_retention",
    "what_if",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
