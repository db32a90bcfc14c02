"""Modules of genes: clusters of their embeddings, what they are enriched in, and where they are active."""

from cellfm_torch.gene_tasks.modules.result import ModulesResult
from cellfm_torch.gene_tasks.modules.run import gene_modules

__all__ = ["ModulesResult", "gene_modules"]
