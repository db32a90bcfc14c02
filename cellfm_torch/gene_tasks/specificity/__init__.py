"""Genes that the model looks at in some cell types and not in others."""

from cellfm_torch.gene_tasks.specificity.run import SpecificGenes, specific_genes

__all__ = ["SpecificGenes", "specific_genes"]
