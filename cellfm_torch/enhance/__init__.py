"""Expression at another read depth than a cell was sequenced at."""

from cellfm_torch.enhance.run import enhance

__all__ = ["enhance"]
