"""scFoundation: a transformer encoder over expressed genes and a linear-attention decoder over all of them.

Source: Hao et al., Large-scale foundation model on single-cell transcriptomics, Nature Methods 21 (2024),
doi 10.1038/s41592-024-02305-7. Written from that description and from recorded inputs and outputs.
"""

from cellfm_torch.model.scfoundation.config import ScFoundationConfig
from cellfm_torch.model.scfoundation.network import ScFoundation

__all__ = ["ScFoundation", "ScFoundationConfig"]
