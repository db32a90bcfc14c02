"""Every theme from its command line at a tiny size, beside a stand-in for the peer that this file writes."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bulk, embed, memory, retention, timing, train
from benchmarks.__main__ import main
from benchmarks.settings import Settings
from cellfm_torch.model.config import PRESETS
from cellfm_torch.model.scfoundation.config import PRESETS as SCFOUNDATION_PRESETS

FIELDS = {"ratio_to_peer", "useful_utilisation", "max_error", "cells_per_second", "tokens_per_second", "matmul_rate"}
FIELDS |= {"peak_memory_mb", "machine", "versions", "shapes", "settings", "rows", "notes"}

# Our own network behind the peer's calls. It is wrong where the peer is, unless its slope is put right and its
# outermost module trains; then it agrees.
STAND_IN = """
import torch
from torch import nn
from benchmarks.peer import peer_name
from cellfm_torch import CellBatch, CellFM, CellFMConfig, pretraining_loss

class FinetuneModel(nn.Module):
    def __init__(self, num_genes, options):
        super().__init__()
        sizes = dict(num_layers=options.enc_nlayers, dim=options.enc_dims, num_heads=options.enc_num_heads)
        self.inner = CellFM(CellFMConfig(num_genes=num_genes, read_depth=True, **sizes))
        self.act, self.norm = nn.LeakyReLU(), nn.LayerNorm(2)
        assert not options.recompute and options.pad_zero

    def named_parameters(self, *args, **options):
        return [(peer_name(name), p) for name, p in self.inner.named_parameters()]

    def load_state_dict(self, state, strict=True):
        self.inner.load_state_dict({name: state[peer_name(name)] for name in self.inner.state_dict()})

    def batch(self, expression, genes, depths, valid, target=None, values=None):
        assert genes.shape[1] == 2048 and expression.shape == (*genes.shape, 2)
        return CellBatch.from_padded(
            genes, expression[..., 1], valid=valid, hidden=expression[..., 0] == 0, target=target, target_values=values,
            read_depth=depths.expm1() * 1000 if self.training else None,
        )

    def encode(self, *x):
        cell = self.inner.encode(self.batch(*x)).cell
        assert self.norm.eps == (1e-7 if self.act.negative_slope == 0.2 else 1e-5)
        return (cell * self.act.negative_slope / 0.2)[:, None], None

    def forward(self, values, expression, depths, genes, target, valid):
        batch = self.batch(expression, genes, depths, valid, target, values)
        return pretraining_loss(self.inner(batch), batch) * (self.act.negative_slope / 0.2)
"""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of the 80M's layout in a thousandth of its size, and no fresh processes."""
    changes = {"num_layers": 2, "dim": 32, "num_heads": 2, "num_genes": 27_855, "read_depth": True}
    monkeypatch.setitem(PRESETS, "small", changes)
    monkeypatch.setattr(timing, "MATMUL", (64, 32, 32))
    monkeypatch.setattr(embed, "peak_of", lambda *_: 7.0)
    monkeypatch.setattr(train, "peak_of", lambda *_: 7.0)
    for theme in (retention, memory, bulk):
        monkeypatch.setattr(theme, "run_fresh", lambda *_, **__: {"start": 1e6, "peak": 5e6, "seconds": 1.0})


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "checkout"
    (folder / "layers").mkdir(parents=True)
    (folder / "layers" / "__init__.py").touch()
    (folder / "layers" / "torch_finetune.py").write_text(STAND_IN)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "layers"]:
        del sys.modules[name]


def run(tmp_path: Path, theme: str, *more: str) -> dict[str, Any]:
    output = tmp_path / "results"
    assert main([theme, "--model=small", "--threads=1", f"--output={output}", "--token-budget=4096", *more]) == 0
    (result,) = output.glob(f"{theme}_cpu_*.json")
    assert result.with_suffix(".md").read_text().startswith("# ")
    found: dict[str, Any] = json.loads(result.read_text())
    assert found.keys() >= FIELDS
    assert str(tmp_path) not in result.read_text()
    return found


def rows_of(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [row for row in found["rows"] if row["name"].startswith(name)]


def test_embed(tmp_path: Path, checkout: Path) -> None:
    found = run(tmp_path, "embed", "--cells=14", "--repeats=2", "--peer-cells=2", f"--peer={checkout}")
    # Two orders of the same float32 sums; the refusal itself is at 1e-4.
    assert found["max_error"] < 1e-5 and found["rows"][0]["error_to_encode"] < 1e-5
    (exact,) = rows_of(found, "exact")
    assert exact["cells"] == found["shapes"]["cells"] == 14 and len(exact["seconds"]) == 2
    assert exact["ratio_to_peer"] > 0 and found["useful_utilisation"] > 0
    (peer,) = rows_of(found, "CellFM-torch")
    assert peer["cells"] == 4 and peer["ratio_to_peer"] == 1
    with_tables = rows_of(found, "the same")[0]
    assert with_tables["cells_per_second"] <= exact["cells_per_second"]
    for row in rows_of(found, "int8"):  # not measured without VNNI
        assert row["cells_per_second"] is None or row["cosine_min"] > 0.99


def test_train(tmp_path: Path, checkout: Path) -> None:
    found = run(tmp_path, "train", "--repeats=2", "--peer-cells=2", f"--peer={checkout}")
    assert found["error"]["loss"] < 1e-5 and found["error"]["gradient"] < 1e-2
    names = [row["name"] for row in found["rows"]]
    assert names[0] == "ragged, loss on targets" and "padded to 2,048" in names and "with fused AdamW" in names
    assert {"layers checkpointed", "backend compiled"} < set(names)
    assert all(row["ratio_to_first"] > 0 for row in found["rows"] if row["cells_per_second"] is not None)
    assert found["rows"][-1] == {"name": "on a GPU, bf16", "cells_per_second": None, "ratio_to_peer": None}


def test_a_peer_of_other_numbers_gets_no_speed(
    tmp_path: Path, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkout / "layers" / "torch_finetune.py"
    file.write_text(file.read_text().replace("negative_slope / 0.2", "negative_slope / 0.2001"))
    for theme in ("embed", "train"):
        more = [f"--peer={checkout}", f"--output={tmp_path / 'out'}", "--cells=4", "--token-budget=4096"]
        assert main([theme, "--model=small", *more]) == 2
        assert "no speed is reported" in capsys.readouterr().err
    assert not any((tmp_path / "out").iterdir())


def test_retention(tmp_path: Path) -> None:
    found = run(tmp_path, "retention", "--lengths=64,128", "--repeats=2")
    chunked = rows_of(found, "chunked")
    assert [row["tokens"] for row in chunked] == [64, 128]
    # float32 sums of at most 128 products, largest of 64 queries.
    assert all(row["max_error"] < 1e-5 for row in chunked)
    assert found["time_per_token_max_over_min"]["chunked"] >= 1
    assert "Time per token max/min from 64 to 128: chunked" in found["notes"][0]
    for mode in ("recurrent", "parallel"):
        assert rows_of(found, mode)  # a figure or "not measured", but a row
    pictures = [tmp_path / "results" / name for name in found["pictures"]]
    assert len(pictures) == 2 and all(path.read_bytes()[:4] == b"\x89PNG" for path in pictures)


def test_memory(tmp_path: Path) -> None:
    found = run(tmp_path, "memory", "--lengths=100,1000")
    measured = [row for row in found["rows"] if row["peak_memory_mb"] is not None]
    assert len(measured) == 2 * 2 * 2 and found["peak_memory_mb"] == 5
    assert {row["cells"] for row in measured} == {1, 2}
    assert len(found["pictures"]) == 1


# Our own network behind the names that the official code has; S and T come last in it.
OFFICIAL = """
import torch
from cellfm_torch import ScFoundation, ScFoundationConfig
from cellfm_torch.convert.scf_names import source_name

def select_model(config):
    encoder, decoder = config["encoder"], config["decoder"]
    sizes = dict(num_genes=config["seq_len"] - 2, num_bins=config["bin_num"], bin_alpha=config["bin_alpha"])
    for name, part in (("encoder", encoder), ("decoder", decoder)):
        sizes |= {f"{name}_dim": part["hidden_dim"], f"{name}_layers": part["depth"], f"{name}_heads": part["heads"]}
    return Official(ScFoundationConfig(decoder_head_dim=decoder["dim_head"], **sizes))

class Official(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.inner = ScFoundation(config)

    def load_state_dict(self, state, strict):
        named = {name: state[source_name(name).removeprefix("model.")] for name in self.inner.state_dict()}
        self.inner.load_state_dict(named)

    def token_emb(self, x, output_weight):
        return self.inner.value_enc(x[..., 0])

    def pos_emb(self, ids):
        return self.inner.gene_emb(ids)

    def encoder(self, x, padding):
        assert x.shape[:2] == padding.shape == (1, x.shape[1]) and not padding.any()
        return SCALE * self.inner.encoder(x[0], lengths=[x.shape[1]])[None]

SCALE = 1.0

def gatherData(x, visible, pad):
    return x[visible][None], x[visible][None] == pad
"""


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setitem(SCFOUNDATION_PRESETS, "small", SCFOUNDATION_PRESETS["scfoundation-tiny"])
    (tmp_path / "official" / "model").mkdir(parents=True)
    (tmp_path / "official" / "model" / "load.py").write_text(OFFICIAL)
    yield tmp_path / "official"
    sys.modules.pop("load", None)


def test_scfoundation(tmp_path: Path, official: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path, "scfoundation", "--cells=5", "--repeats=2", f"--peer={official}", "--token-budget=8192")
    exact, plain, peer = found["rows"]
    # Two orders of the same float32 sums; the refusal itself is at 1e-4.
    assert found["max_error"] == exact["max_error"] < 1e-5 and plain["max_error"] < 1e-5
    assert exact["cells"] == plain["cells"] == peer["cells"] == 5 and peer["ratio_to_peer"] == 1
    assert found["ratio_to_peer"] == exact["ratio_to_peer"] == exact["cells_per_second"] / peer["cells_per_second"]
    del sys.modules["load"]
    (official / "model" / "load.py").write_text(OFFICIAL.replace("SCALE = 1.0", "SCALE = 1.001"))
    more = ["--cells=2", "--repeats=1", f"--output={tmp_path / 'out'}"]
    assert main(["scfoundation", "--model=small", f"--peer={official}", *more]) == 2
    assert "no speed is reported" in capsys.readouterr().err
    for wrong, said in (
        ([f"--peer={tmp_path}"], "no checkout of scFoundation"),
        (["--repeats=3"], "at least one per turn"),
    ):
        assert main(["scfoundation", "--model=small", *more, *wrong]) == 2
        assert said in capsys.readouterr().err
    assert not any((tmp_path / "out").iterdir())


def test_bulk(tmp_path: Path, official: Path) -> None:
    found = run(tmp_path, "bulk", f"--peer={official}")
    assert [row["tokens"] for row in found["rows"]] == [19_000] * 3 and found["peak_memory_mb"] == 5
    settings = Settings(theme="bulk", model="small", peer=official)
    for kind in bulk.KINDS:
        made = bulk.prepare(kind, 50, settings)()
        cell = made if isinstance(made, torch.Tensor) else made.encoding.cell
        assert cell.shape == (1, 256) and cell.isfinite().all()


def test_a_failed_compiler_is_no_measurement() -> None:
    def fallen_back(turn: int) -> timing.Work:
        warnings.warn("torch.compile failed, the eager path is used instead", RuntimeWarning, stacklevel=1)
        return 1, 1

    assert train.warmed(timing.Side("a", lambda turn: (1, 1)))
    assert not train.warmed(timing.Side("b", fallen_back))


def test_scripts_are_reached_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--help"]) == 0
    assert "--layers" in capfd.readouterr().out


def test_wrong_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, said in (
        (["--peer", str(tmp_path)], "no checkout of CellFM-torch"),
        (["--model", "8m"], "no preset '8m'"),
    ):
        base = ["embed", "--model=small", "--cells=2", f"--output={tmp_path / 'out'}", "--token-budget=4096"]
        assert main([*base, *more]) == 2
        message = capsys.readouterr().err.strip()
        assert said in message and "\n" not in message
