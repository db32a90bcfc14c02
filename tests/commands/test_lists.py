"""Options that take several things, and folders of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cellfm_torch.commands.lists import listed, whole_numbers
from cellfm_torch.commands.outputs import results_folder
from cellfm_torch.errors import UserError


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("a", ["a"]),
        (3, [3]),
        ([1, 2], [1, 2]),
        ("a, b,", ["a", "b"]),
        ("[0,1]", ["0", "1"]),
        ([], []),
    ],
)
def test_one_or_several(given: Any, parts: list[Any]) -> None:
    assert listed(given) == parts


def test_whole_numbers() -> None:
    assert whole_numbers("0,2", "seeds") == whole_numbers("[0, 2]", "seeds") == [0, 2] and whole_numbers(
        3, "seeds"
    ) == [3]
    for given in ("a", -1, 1.5, True):
        with pytest.raises(UserError, match=rf"seeds={given}: must be a whole number, not negative"):
            whole_numbers(given, "seeds")


def test_results_are_not_replaced(tmp_path: Path) -> None:
    assert results_folder(str(tmp_path), overwrite=False) == tmp_path
    (tmp_path / "settings.json").write_text("{}")
    assert results_folder(str(tmp_path), overwrite=True) == tmp_path
    with pytest.raises(UserError, match="holds results already"):
        results_folder(str(tmp_path), overwrite=False)
    with pytest.raises(UserError, match="is a file"):
        results_folder(str(tmp_path / "settings.json"), overwrite=True)


def test_a_gene_with_a_dot_is_no_file() -> None:
    """Clones have names such as RP11-34P13.7; a list of genes ends as lists do."""
    from cellfm_torch.commands.lists import gene_names

    assert gene_names("RP11-34P13.7,KLF1") == ["RP11-34P13.7", "KLF1"]
    with pytest.raises(UserError, match=r"nowhere.txt: no such list of genes"):
        gene_names("nowhere.txt")
