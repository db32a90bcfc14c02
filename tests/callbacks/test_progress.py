"""RunProgress on a recorded console: a terminal, a log file, a resumed run."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import foreign, loader, saver, trainer
from rich.console import Console

from cellfm_torch.callbacks import Throughput, progress
from cellfm_torch.callbacks.progress import RunProgress, clock, short

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.0)


def console(terminal: bool, width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)


def frames(out: Console) -> list[str]:
    """Return the lines that were drawn, without control codes."""
    text = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "\n", out.file.getvalue())  # type: ignore[attr-defined]
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def run(folder: Path, out: Console, module: Any = None, ckpt: Any = None, **options: Any) -> Any:
    bar = RunProgress(out)
    fit = trainer(folder, [bar, Throughput()], enable_progress_bar=True, **options)
    fit.fit(module or foreign(), loader(), loader(), ckpt_path=ckpt)
    return fit


def test_words() -> None:
    assert [clock(s) for s in (None, 5, 65.4, 3661, float("inf"))] == ["-:--", "0:05", "1:05", "1:01:01", "-:--"]
    assert [short(x) for x in (0.25, 7.34, 99.6, 812.4, 999.7, 1234, 401_000, 2.5e6)] == [
        *("0.2", "7.3", "100", "812", "1.0k", "1.2k", "401k", "2.5M")
    ]


def test_bar_on_a_terminal(tmp_path: Path) -> None:
    run(tmp_path, out := console(terminal=True))
    lines = frames(out)
    assert lines[0].startswith("Training") and lines[0].endswith("0/10")
    last = lines[-1]
    assert re.search(r"━{20,} 10/10 loss \d\.\d{4} val \d\.\d{4} \S+ cells/s +in 0:0\d$", last), last
    assert any(line.startswith("Validation") and line.endswith("5/5") for line in lines)
    assert max(map(len, lines)) <= 100
    assert any(re.search(r" 4/10 loss .* 0:00 left$", line) for line in lines)
    narrow = console(terminal=True, width=60)
    run(tmp_path, narrow)
    assert re.search(r"━{10,} 10/10 loss \d\.\d{4} in 0:0\d$", frames(narrow)[-1])


def test_plain_lines_in_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, out := console(terminal=False), max_epochs=4)
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split()[1] for line in lines] == [f"{n}/20" for n in range(0, 21, 2)]
    assert re.match(r"Training 10/20 \(50%\)  loss \d\.\d{4}  val \d\.\d{4}  \S+ cells/s  0:00 left$", lines[5])
    assert re.search("in 0:0.$", lines[-1]) and "\x1b" not in "".join(lines)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 1000.0)
    run(tmp_path, out := console(terminal=False), max_epochs=4)
    assert [line.split()[1] for line in frames(out)] == ["0/20", "20/20"], "10 % and 15 s must both have passed"


@pytest.mark.parametrize("options", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 20}])
@pytest.mark.parametrize("step", [10, 13])
def test_resumed_run_starts_at_its_step(step: int, options: dict[str, Any], tmp_path: Path) -> None:
    trainer(tmp_path, [saved := saver(tmp_path, step)], enable_checkpointing=True, **options).fit(foreign(), loader())
    fit = run(tmp_path, out := console(terminal=False), ckpt=saved.best_model_path, **options)
    assert frames(out)[0] == f"Training {step}/20" and frames(out)[-1].startswith("Training 20/20 (100%)")
    assert fit.progress_bar_callback._start_done == step, "time left must come from the steps of this session"


def test_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bar = RunProgress(console(terminal=False))
    bar._start("Training", 100, 60)
    bar._done = 70
    monkeypatch.setattr("cellfm_torch.callbacks.progress.time.monotonic", lambda: bar._started + 20)
    assert bar._time_left() == pytest.approx(60)


def test_batches_count_where_several_steps_make_one(tmp_path: Path) -> None:
    run(tmp_path, out := console(terminal=False), accumulate_grad_batches=2)
    assert frames(out)[-1].split()[1] == "10/10"
    run(tmp_path, out := console(terminal=False), accumulate_grad_batches=5, max_steps=1)
    assert frames(out)[-1].split()[1] == "1/1"


@pytest.mark.parametrize("terminal", [True, False])
def test_prints_go_above_and_evaluation_has_a_bar(terminal: bool, tmp_path: Path) -> None:
    module = foreign()
    module.on_train_epoch_end = lambda: module.print("[b]epoch", module.current_epoch)
    fit = run(tmp_path, out := console(terminal), module)
    assert [line for line in frames(out) if line.startswith("[b]")] == ["[b]epoch 0", "[b]epoch 1"]
    out.file.truncate(0)
    fit.predict(module, loader())
    assert re.search(r"Predicting .*5/5 .*in 0:0\d$", frames(out)[-1]) and "loss" not in frames(out)[-1]


def test_crash_and_silence_leave_the_terminal_in_order(tmp_path: Path) -> None:
    module = foreign()
    module.on_train_epoch_end = lambda: torch.zeros(2)[5]
    with pytest.raises(IndexError):
        run(tmp_path, out := console(terminal=True), module)
    assert out.file.getvalue().rstrip().endswith("\x1b[?25h"), "cursor shown again"  # type: ignore[attr-defined]
    bar = RunProgress(out := console(terminal=False))
    bar.disable()
    trainer(tmp_path, [bar], enable_progress_bar=True).fit(foreign(), loader())
    assert frames(out) == []


def test_bar_in_the_other_package(tmp_path: Path) -> None:
    bar = RunProgress(out := console(terminal=False))
    fit = trainer(tmp_path, [bar], "pytorch_lightning", enable_progress_bar=False)
    fit.fit(foreign("pytorch_lightning"), loader(), loader())
    assert frames(out)[-1].startswith("Training 10/10 (100%)  loss")
