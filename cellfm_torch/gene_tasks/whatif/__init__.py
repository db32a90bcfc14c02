"""What if a gene were not expressed, or expressed otherwise: how far the embedding of a cell moves."""

from cellfm_torch.gene_tasks.whatif.run import WhatIf, what_if

__all__ = ["WhatIf", "what_if"]
