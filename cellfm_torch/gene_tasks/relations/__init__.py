"""Gene-gene relations: what genes gather from each other in a group of cells."""

from cellfm_torch.gene_tasks.relations.result import GeneRelations
from cellfm_torch.gene_tasks.relations.run import gene_relations

__all__ = ["GeneRelations", "gene_relations"]
