"""The estimate of a model's cost, as printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cellfm_torch import CellFM, CellFMConfig, cli
from cellfm_torch.commands.estimate import MATMUL, estimate, measured_rate, usual_utilisation


def asked(capsys: pytest.CaptureFixture[str], *typed: str) -> dict[str, Any]:
    assert cli.main(["estimate", *typed, "--json", "--rate", "0.1"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_published_80m(capsys: pytest.CaptureFixture[str]) -> None:
    said = asked(capsys, "80m", "--tokens", "8170")
    assert said["parameters"]["total"] == 86_192_130
    assert said["batch"]["cells"] == 10 and said["batch"]["tokens_per_cell"] == 820
    assert said["operations_per_token"] == {"embedding": 75_890_688, "training": 3 * 75_890_688}
    memory = said["training_memory"]
    assert memory["weights"] == 4 * 86_192_130
    assert memory["total"] == 16 * 86_192_130 + memory["activations"]
    # A step of 8,000 tokens in four cells was measured at 2.09 GB beside weights and gradients, its process at 2.10.
    assert memory["activations"] == pytest.approx(2.09e9 * 8170 / 8000, rel=0.02)  # ten cells are not four
    assert memory["activations_every_layer_checkpointed"] < 0.6 * memory["activations"]
    # Of two layers' arithmetic the embedder does half of the first and an eighth of the last.
    assert said["utilisation"] == {"embedding": 0.5 / (0.625 / 2), "training": 0.5}
    for name, factor in (("embedding", 1), ("training", 3)):
        per_cell = 820 * factor * 75_890_688
        assert said["cells_per_second"][name] == pytest.approx(said["utilisation"][name] * 0.1e12 / per_cell)


def test_usual_utilisation() -> None:
    deep, flat = (CellFMConfig(n, dim=64, num_heads=2, num_genes=3) for n in (40, 1))
    assert usual_utilisation(deep, "cpu")["embedding"] == pytest.approx(1.6 * 40 / 38.625)
    assert usual_utilisation(flat, "cpu")["embedding"] == pytest.approx(1.6 * 8)
    assert usual_utilisation(deep, "cpu")["training"] > usual_utilisation(deep, "cuda")["training"]


def test_options(capsys: pytest.CaptureFixture[str]) -> None:
    plain = asked(capsys, "tiny", "--batch-cells", "10", "--genes", "500", "--utilisation", "0.5")
    assert plain["batch"]["gene_tokens"] == 5000 and plain["utilisation"] == {"embedding": 0.5, "training": 0.5}
    half = asked(capsys, "tiny", "--batch-cells", "10", "--genes", "500", "--dtype", "float16")
    assert half["training_memory"]["activations"] < plain["training_memory"]["activations"]
    assert half["training_memory"]["weights"] == plain["training_memory"]["weights"]
    wrapped = asked(
        capsys, "tiny", "--batch-cells", "10", "--genes", "500", "--checkpointing", "2", "--utilisation", "0.5"
    )
    memory = wrapped["training_memory"]
    assert memory["activations_every_layer_checkpointed"] < memory["activations"]
    assert memory["activations"] < memory["activations_no_layer_checkpointed"]
    # Two of four layers run forward again: 3.5 instead of 3, and useful arithmetic stays what it was.
    assert wrapped["cells_per_second"]["training"] == pytest.approx(plain["cells_per_second"]["training"] * 3 / 3.5)
    assert wrapped["operations_per_cell"] == plain["operations_per_cell"]
    deeper = asked(capsys, "tiny", "num_layers=8", "read_depth=true", "--batch-cells", "10", "--genes", "500")
    assert deeper["network"]["num_layers"] == 8 and deeper["batch"]["tokens_per_cell"] == 503


def test_a_model_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = CellFM(CellFMConfig(2, dim=64, num_heads=2, num_genes=3), genes=["A", "B", "C"])
    network.save_pretrained(tmp_path / "model")
    said = asked(capsys, str(tmp_path / "model"))
    assert said["parameters"]["total"] == sum(p.numel() for p in network.parameters())


def test_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellfm_torch.commands.estimate.measured_rate", lambda device, dtype: 1e11)
    assert cli.main(["estimate", "tiny", "--device", "cpu", "--checkpointing", "1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("3.74 M", "16,384 tokens", "20.1 cells of 817 genes", "with 1 of 4 layers", "100 GFLOP/s"):
        assert words in shown, shown
    assert "measured on cpu" in shown and "training fits" in shown


def test_rate_is_of_the_product_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    times = iter([0.0, 9.0, 10.0, 12.0, 20.0, 21.0])
    monkeypatch.setattr("cellfm_torch.commands.estimate.time.perf_counter", lambda: next(times))
    monkeypatch.setattr("cellfm_torch.commands.estimate.MATMUL", (4, 8, 2))
    assert measured_rate("cpu", torch.float32, repeats=2) == 2 * 4 * 8 * 2 / 1.0  # the best of 9, 2 and 1 s
    assert MATMUL == (4096, 1536, 6144)


def test_estimate_of_this_machine_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellfm_torch.commands.estimate.MATMUL", (256, 256, 256))
    said = estimate(CellFMConfig(1, dim=32, num_heads=1, num_genes=5), tokens=100, rate=None)
    assert said["rate"]["measured_on"] == "cpu" and said["available_memory"] > 0
    assert said["rate"]["operations_per_second"] > 1e8


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["80"], "there is no preset '80' and no model folder of that name; did you mean '80m'?"),
        (["tiny", "layers=3"], "layers=3: give FIELD=VALUE; did you mean 'num_layers'?"),
        (["tiny", "dim"], "dim: give FIELD=VALUE"),
        (["tiny", "dim=wide"], "dim=wide: must be a number"),
        (["tiny", "dim=130"], "not a multiple of num_heads"),
        (["tiny", "--tokens", "0"], "--tokens 0: must be a number above 0"),
        (["tiny", "--tokens", "5", "--batch-cells", "5"], "give one of them"),
        (["tiny", "--rate", "nan"], "--rate nan"),
        (["tiny", "--utilisation", "-1"], "--utilisation -1.0"),
        (["tiny", "--checkpointing", "some"], "none, all or a number of layers"),
        (["tiny", "--dtype", "float16", "--device", "cpu"], "give --rate"),
        (["tiny", "--token", "5"], "did you mean '--tokens'?"),
        ([], "model"),
        (["{folder}"], "is not the configuration of a model"),
        (["{other}"], "describes a ScFoundation"),
    ],
)
def test_refused(typed: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("folder", '{"dim": "x"}'), ("other", '{"model": "ScFoundation", "layers": 3}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    given = [word.format(folder=tmp_path / "folder", other=tmp_path / "other") for word in typed]
    try:
        code = cli.main(["estimate", *given])
    except SystemExit as exit:
        code = int(exit.code or 0)
    message = capsys.readouterr().err.strip()
    assert code == 2 and says in message and "\n" not in message, message


def test_no_cuda_device(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.main(["estimate", "tiny", "--device", "cuda"]) == 2
    assert "there is no CUDA device here" in capsys.readouterr().err


def test_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["estimate", "80m", "--gpus", "8,64", "--cells", "1e6", "--epochs", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(one["gpus"], one["strategy"]) for one in said["plans"]] == [
        (gpus, strategy) for gpus in (8, 64) for strategy in ("ddp", "fsdp", "hybrid")
    ]
    first = said["plans"][0]
    assert first["seconds"] == pytest.approx(2e6 / first["cells_per_second"] / (1 - first["wasted"]))
    assert cli.main(["estimate", "80m", "--gpus", "8", "--gpu", "h200", "--gpus-per-node", "4", "--price", "2"]) == 0
    shown = capsys.readouterr().out
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines()[:5])  # fits a terminal
    for words in ("80m on H200", "hybrid", "$2 per GPU and hour", "a checkpoint of 1.03 GB"):
        assert words in shown, shown
    for typed, message in (
        (["--gpus", "0"], "--gpus 0: give whole numbers from 1"),
        (["--gpus", "8,x"], "--gpus x: give whole numbers from 1"),
        (["--gpus", "8", "--gpu", "h10"], "did you mean 'h100'"),
        (["--gpus", "8", "--cells", "-1"], "--cells -1.0: must be a number above 0"),
        (["--gpus", "8", "--gpus-per-node", "0"], "--gpus-per-node 0: must be a number above 0"),
    ):
        assert cli.main(["estimate", "80m", *typed]) == 2
        assert message in capsys.readouterr().err
