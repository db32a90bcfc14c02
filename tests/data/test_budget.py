"""Budgets left open, and copies to the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cellfm_torch.batch import CellBatch
from cellfm_torch.data.budget import TokenBudgetDataModule
from cellfm_torch.errors import UserError


def test_open_budget_travels_with_checkpoints() -> None:
    module = TokenBudgetDataModule("auto")
    assert module.token_budget is None
    module.token_budget = 1234
    again = TokenBudgetDataModule("auto")
    again.load_state_dict(module.state_dict())
    assert again.token_budget == 1234
    given = TokenBudgetDataModule(99)
    given.load_state_dict(module.state_dict())  # another choice now: the user's
    assert given.token_budget == 99 and given.state_dict() == {}


@pytest.mark.parametrize("budget", [0, -1, "all", 1.5, None])
def test_refused(budget: Any) -> None:
    with pytest.raises(UserError, match=r"data\.token_budget"):
        TokenBudgetDataModule(budget)


@pytest.mark.parametrize(("kind", "expected"), [("cuda", True), ("cpu", False)])
def test_copies_to_cuda_do_not_wait(kind: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def to(self: torch.Tensor, device: torch.device, *, non_blocking: bool = False) -> torch.Tensor:
        asked.append((torch.device(device).type, non_blocking))
        return self

    valid = torch.ones(2, 3, dtype=torch.bool)
    batch = CellBatch.from_padded(valid.long(), valid.float(), valid=valid)
    batch.extras["dose"] = torch.zeros(2)
    monkeypatch.setattr(torch.Tensor, "to", to)
    TokenBudgetDataModule(8).transfer_batch_to_device(batch, torch.device(kind), 0)
    assert asked == [(kind, expected)] * 7  # five fields, the padding mask, the extra
