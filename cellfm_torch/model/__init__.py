"""Networks: plain ``nn.Module`` objects that know no loss and no Lightning."""

from cellfm_torch.model.cellfm import CellFM
from cellfm_torch.model.config import CellFMConfig
from cellfm_torch.model.loading import load_model
from cellfm_torch.model.outputs import Encoding, Prediction
from cellfm_torch.model.scfoundation import ScFoundation, ScFoundationConfig

__all__ = ["CellFM", "CellFMConfig", "Encoding", "Prediction", "ScFoundation", "ScFoundationConfig", "load_model"]
