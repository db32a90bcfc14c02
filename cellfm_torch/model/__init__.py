"""Networks: plain ``nn.Module`` objects that know no loss and no Lightning."""

from cellfm_torch.model.cellfm import CellFM
from cellfm_torch.model.config import CellFMConfig
from cellfm_torch.model.outputs import Encoding, Prediction

__all__ = ["CellFM", "CellFMConfig", "Encoding", "Prediction"]
