"""Genes that the model looks at in some cell types and not in others."""

from cellfm_torch.gene_tasks.specificity.result import SpecificGenes
from cellfm_torch.gene_tasks.specificity.run import specific_genes

__all__ = ["SpecificGenes", "specific_genes"]
