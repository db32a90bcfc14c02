"""Functions run in several processes that find each other as under torchrun, and that never outlive their test."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

SECONDS = 300.0
"""After which the processes are killed; they take a tenth of it on a machine with other work."""

# A server that has imported everything once forks the processes: imports take longer than the tests.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lightning.pytorch", "cellfm_torch.data.module", "cellfm_torch.model.cellfm", "ranks"])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells a process on a machine by itself."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "OMP_NUM_THREADS": "1",
    }


def _run(
    connection: Connection, function: Callable[..., Any], variables: dict[str, str], arguments: tuple, options: dict
) -> None:
    os.environ.update(variables)
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    faulthandler.enable()
    torch.set_num_threads(1)
    rank_zero_only.rank = int(variables["RANK"])
    try:
        connection.send(("ok", function(*arguments, **options)))
    except BaseException:
        connection.send(("error", traceback.format_exc()))


def launch(function: Callable[..., Any], processes: int, *arguments: Any, **options: Any) -> list[Any]:
    """Run a function of an importable module in several processes, and return what each has returned, by rank."""
    port = free_port()
    started: list[tuple[Any, Connection]] = []
    try:
        for rank in range(processes):
            ours, theirs = CONTEXT.Pipe(duplex=False)
            variables = environment(rank, processes, port)
            process = CONTEXT.Process(target=_run, args=(theirs, function, variables, arguments, options), daemon=True)
            process.start()
            theirs.close()
            started.append((process, ours))
        results: dict[int, Any] = {}
        deadline = time.monotonic() + SECONDS
        while len(results) < processes:
            waiting = {connection: rank for rank, (_, connection) in enumerate(started) if rank not in results}
            ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            assert ready, f"after {SECONDS:.0f} s ranks {sorted(waiting.values())} of {processes} are not done"
            for connection in ready:
                try:
                    kind, value = connection.recv()  # type: ignore[union-attr]
                except EOFError:
                    process = started[waiting[connection]][0]  # type: ignore[index]
                    process.join(5)
                    kind, value = "error", f"the process ended without a word, with {process.exitcode}"
                assert kind == "ok", f"rank {waiting[connection]} of {processes}:\n{value}"  # type: ignore[index]
                results[waiting[connection]] = value  # type: ignore[index]
        return [results[rank] for rank in range(processes)]
    finally:
        for process, connection in started:
            process.kill()
            process.join()
            connection.close()
