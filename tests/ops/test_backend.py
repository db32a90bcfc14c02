"""Which backend runs, how it is chosen, and what happens where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import kernels
import pytest
import torch
from torch import Tensor

from cellfm_torch.errors import UserError
from cellfm_torch.ops import backend
from cellfm_torch.ops.backend import CompiledOrEager, runs_on, set_backend, use_backend

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the choice and the warning of other tests."""
    monkeypatch.setattr(backend, "_chosen", None)
    monkeypatch.setattr(backend, "_warned", False)
    monkeypatch.delenv(backend.VARIABLE, raising=False)


def double(x: Tensor) -> Tensor:
    return 2 * x


def in_a_new_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_a_cpu_takes_eager() -> None:
    assert backend.backend() == "auto" and runs_on(torch.zeros(1)) == "eager"


def test_variable_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "compiled")
    assert runs_on(torch.zeros(1)) == "compiled"
    monkeypatch.setenv(backend.VARIABLE, "eager")
    assert runs_on(torch.zeros(1)) == "compiled"


def test_choice_lasts_as_long_as_its_block() -> None:
    with use_backend("compiled"):
        assert runs_on(torch.zeros(1)) == "compiled"
        with pytest.raises(RuntimeError), use_backend("eager"):
            raise RuntimeError
        assert backend.backend() == "compiled"
    assert backend.backend() == "auto"
    set_backend("eager")
    assert backend.backend() == "eager"


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="backend is 'tritn'.*did you mean 'triton'"):
        set_backend("tritn")
    monkeypatch.setenv(backend.VARIABLE, "fast")
    with pytest.raises(UserError, match="CELLFM_BACKEND is 'fast', it must be one of auto, eager"):
        backend.backend()


def test_triton_takes_what_its_kernels_take() -> None:
    with use_backend("triton"):
        here = [runs_on(torch.zeros(1, dtype=dtype, device=kernels.DEVICE)) for dtype in backend.KERNEL_DTYPES]
        assert here == ["triton"] * 3
        assert runs_on(torch.zeros(1, dtype=torch.float64, device=kernels.DEVICE)) == "eager"


def test_triton_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "kernels_interpreted", lambda: False)
    with use_backend("triton"), pytest.raises(UserError, match="tensors are on cpu: Triton .* needs a GPU"):
        runs_on(torch.zeros(1))
    monkeypatch.setattr(backend, "kernels_interpreted", lambda: None)
    with pytest.raises(UserError, match="'triton', which is not installed"):
        set_backend("triton")
    monkeypatch.setenv(backend.VARIABLE, "triton")
    monkeypatch.setattr(backend, "_chosen", None)
    with pytest.raises(UserError, match="Triton must be installed"):
        runs_on(torch.zeros(1))


def test_operators_are_imported_without_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"  # what makes an import fail
        "import torch, cellfm_torch.ops\n"
        "from cellfm_torch.ops import backend\n"
        "assert backend.kernels_interpreted() is None and backend.runs_on(torch.zeros(1)) == 'eager'"
    )
    done = in_a_new_process(code)
    assert done.returncode == 0, done.stderr


def test_other_sizes_are_not_compiled_again() -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    function = CompiledOrEager(double, backend=count)
    for tokens in (7, 50, 1000, 8):
        assert torch.equal(function(torch.ones(tokens, 3)), torch.full((tokens, 3), 2.0))
    assert len(graphs) == 1


def test_failing_compiler_warns_once() -> None:
    tries = []

    def fail(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        tries.append(graph)
        raise RuntimeError("no compiler here")

    x = torch.ones(4)
    functions = [CompiledOrEager(double, backend=fail), CompiledOrEager(double, backend=fail)]
    with pytest.warns(RuntimeWarning, match="eager path is used instead.*no compiler here") as seen:
        results = [function(x) for function in functions * 2]
    assert len(tries) == 1 and sum("eager path" in str(w.message) for w in seen) == 1
    assert all(torch.equal(result, 2 * x) for result in results)


def test_mistakes_of_the_caller_stay_mistakes() -> None:
    def refuse(x: Tensor) -> Tensor:
        raise ValueError("wrong shape")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="wrong shape"):
            CompiledOrEager(refuse, backend="eager")(torch.ones(1))


def test_machine_without_a_compiler(tmp_path: Path) -> None:
    code = (
        "import torch, warnings\n"
        "from cellfm_torch.ops.backend import use_backend\n"
        "from cellfm_torch.ops.gate import norm_gate\n"
        "o, u = torch.randn(5, 2, 4, requires_grad=True), torch.randn(5, 8)\n"
        "with warnings.catch_warnings(record=True) as seen, use_backend('compiled'):\n"
        "    warnings.simplefilter('always')\n"
        "    twice = norm_gate(o, u), norm_gate(o, u)\n"
        "twice[0].sum().backward()\n"
        "assert torch.equal(twice[0], norm_gate(o, u)) and torch.equal(*twice)\n"
        "messages = [str(w.message) for w in seen if w.category is RuntimeWarning]\n"
        "assert len(messages) == 1 and 'eager path' in messages[0], messages"
    )
    done = in_a_new_process(code, CXX="/no/such/compiler", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_kernels_compile_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    """The interpreter forgives what the compiler does not: shapes of tiles, types, shared memory."""
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = in_a_new_process(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["outer", "apply", "add", "forward", "backward"] * 2
