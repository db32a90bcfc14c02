"""What pretraining takes on a cluster, by arithmetic: time, memory, traffic, checkpoints, cost.

Compute and traffic are those of a step; what of the traffic does not hide behind compute is added to it. Links are
taken as bandwidth and latency (Hockney's model), collectives as rings within a machine and over machines in turn
(Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 117, 2009). docs/scaling.md says how far this was from what was
measured.

Units: bytes, seconds. Shapes: W GPUs, M machines of g GPUs, P parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cellfm_torch.model import cost
from cellfm_torch.model.config import CellFMConfig

STRATEGIES = ("ddp", "fsdp", "hybrid")
HALF = 2
"""Bytes of bfloat16, in which weights and gradients of sharded training travel."""

BACKWARD = 2 / 3
"""Share of a step's arithmetic that is the backward pass, behind which traffic can hide."""

HIDDEN = 0.8
"""Share of that time, or of the whole step where weights are gathered ahead, that does hide it: an assumption."""


@dataclass(frozen=True)
class Machine:
    """GPUs and what joins them.

    Attributes
    ----------
    rate : float
        Operations per second of dense bfloat16 products, as its maker states them.
    memory : float
        Bytes of a GPU.
    inside, outside : float
        Bytes per second that a GPU sends within its machine, and to other machines.
    latency : float
        Seconds of a message to another machine.
    gpus : int
        Per machine.
    price : float
        US dollars for a GPU and hour: an assumption.
    """

    rate: float
    memory: float
    inside: float
    outside: float
    latency: float = 1e-5
    gpus: int = 8
    price: float = 3.0


MACHINES = {
    # NVLink 4: 900 GB/s in both directions together; a 400 Gbit/s adapter for each GPU.
    "h100": Machine(rate=989e12, memory=80e9, inside=450e9, outside=50e9, price=3.0),
    "h200": Machine(rate=989e12, memory=141e9, inside=450e9, outside=50e9, price=3.5),
}
"""Data sheets of NVIDIA H100 SXM and H200 SXM; links as in their reference machines."""


@dataclass(frozen=True)
class Storage:
    """Where cells come from and checkpoints go.

    Attributes
    ----------
    write : float
        Bytes per second that all processes write together.
    cell : float
        Bytes of a cell in a prepared store, on average: 596 for PBMC3k, whose cells have 850 genes.
    """

    write: float = 5e9
    cell: float = 600.0


FAILURES = 50_000.0
"""Hours of a GPU between two failures: 419 unexpected stops of 16,384 GPUs in 54 days (Llama 3, arXiv 2407.21783)."""

RESTART = 600.0
"""Seconds until a job that has failed trains again: an assumption."""


@dataclass(frozen=True)
class Plan:
    """A pretraining run on a cluster.

    Attributes
    ----------
    strategy : str
    gpus : int
    memory : float
        Bytes per GPU.
    fits : bool
    compute, traffic, exposed : float
        Seconds of a step: arithmetic, all communication, and that part of it which nothing hides.
    sent : float
        Bytes that a GPU sends in a step.
    cells_per_second : float
        Of all GPUs together, failures aside.
    loading : float
        Bytes per second that all processes read.
    checkpoint : float
        Bytes.
    interval : float
        Seconds between checkpoints that waste least (Daly).
    wasted : float
        Share of the time that goes to checkpoints, to what failures undo, and to starting again.
    seconds : float
        Of the whole run.
    price : float
        US dollars.
    """

    strategy: str
    gpus: int
    memory: float
    fits: bool
    compute: float
    traffic: float
    exposed: float
    sent: float
    cells_per_second: float
    loading: float
    checkpoint: float
    interval: float
    wasted: float
    seconds: float
    price: float

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.compute + self.exposed

    @property
    def efficiency(self) -> float:
        """Speed of a GPU over that of one alone."""
        return self.compute / self.step


def ring(amount: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Return the seconds of gathering, or of scattering sums of, `amount` bytes over ranks in a ring.

    Each rank sends all but its own share; summing up and giving back (all-reduce) takes twice as long.
    """
    return (ranks - 1) * (amount / ranks / bandwidth + latency) if ranks > 1 else 0.0


def traffic(strategy: str, parameters: float, gpus: int, machine: Machine) -> tuple[float, float]:
    """Return the seconds of a step's communication, and the bytes that a GPU sends.

    ddp adds up float32 gradients. fsdp gathers bfloat16 weights for forward and for backward and scatters gradients,
    over all GPUs. hybrid does so within a machine, and adds up each shard's gradients over machines.
    """
    inside = min(gpus, machine.gpus)
    machines = math.ceil(gpus / machine.gpus)
    near = lambda amount: ring(amount, inside, machine.inside, 1e-6)  # noqa: E731
    # Over machines, each GPU handles its share of what its machine sends, through its own adapter.
    far = lambda amount: ring(amount / inside, machines, machine.outside, machine.latency)  # noqa: E731
    share_near, share_far = (inside - 1) / inside, (machines - 1) / machines / inside
    if strategy == "ddp":
        amount = cost.FLOAT32 * parameters
        return 2 * (near(amount) + far(amount)), 2 * amount * (share_near + share_far)
    amount = HALF * parameters
    if strategy == "fsdp":
        return 3 * (near(amount) + far(amount)), 3 * amount * (share_near + share_far)
    return 3 * near(amount) + 2 * far(amount), amount * (3 * share_near + 2 * share_far)


def memory(strategy: str, config: CellFMConfig, gpus: int, machine: Machine, activations: float) -> float:
    """Return the bytes that training takes on a GPU."""
    state = cost.training_state(config).total
    if strategy == "ddp":
        return state + activations + state / 4  # gradients in the buckets that travel
    counts = cost.parameter_counts(config)
    gathered = max(2 * counts["layers"] / config.num_layers, counts["gene embedding"])  # one layer and the next
    shards = gpus if strategy == "fsdp" else min(gpus, machine.gpus)
    return state / shards + (HALF + cost.FLOAT32) * gathered + activations


def interval(write: float, failures: float) -> float:
    """Return the seconds of work between checkpoints that waste least time.

    Parameters
    ----------
    write
        Seconds that a checkpoint holds up training.
    failures
        Seconds between failures of the job.

    Notes
    -----
    Young's first order (Commun. ACM 17, 530, 1974) is ``sqrt(2 write failures)``; this is Daly's higher order (Future
    Gener. Comput. Syst. 22, 303, 2006).
    """
    if write >= 2 * failures:
        return failures
    ratio = write / (2 * failures)
    return math.sqrt(2 * write * failures) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - write


def plan(
    config: CellFMConfig,
    strategy: str,
    gpus: int,
    *,
    cells: float,
    tokens: int,
    activations: float,
    machine: Machine,
    utilisation: float,
    genes: float,
    epochs: float = 1.0,
    storage: Storage | None = None,
    failures: float = FAILURES,
    checkpointed: int = 0,
) -> Plan:
    """Work out a run.

    Parameters
    ----------
    config
        The network.
    strategy
        ``"ddp"``, ``"fsdp"`` or ``"hybrid"``.
    gpus
        W.
    cells, epochs
        Of the corpus, and passes over it.
    tokens, genes
        Gene tokens per GPU and step, and per cell on average.
    activations
        Bytes of a GPU for these tokens.
    machine, storage
        What it runs on.
    utilisation
        Share of the machine's rate that useful arithmetic reaches.
    failures
        Hours of a GPU between two.
    checkpointed
        Layers that compute forward twice.
    """
    storage = storage or Storage()
    parameters = sum(cost.parameter_counts(config).values())
    per_cell = cost.tokens_per_cell(config, genes)
    per_step = tokens / genes
    operations = cost.training_operations_per_token(config, checkpointed=checkpointed)
    compute = operations * per_cell * per_step / (utilisation * machine.rate)
    seconds, sent = traffic(strategy, parameters, gpus, machine)
    cover = HIDDEN * compute * (BACKWARD if strategy == "ddp" else 1.0)
    exposed = max(0.0, seconds - cover)
    speed = gpus * per_step / (compute + exposed)
    saved = 3 * cost.FLOAT32 * parameters  # weights and two moments
    between = failures * 3600 / gpus
    write = saved / storage.write
    every = interval(write, between)
    wasted = min(0.99, write / (every + write) + (every + write) / (2 * between) + RESTART / between)
    total = cells * epochs / speed / (1 - wasted)
    used = memory(strategy, config, gpus, machine, activations)
    return Plan(
        strategy=strategy,
        gpus=gpus,
        memory=used,
        fits=used <= 0.92 * machine.memory,
        compute=compute,
        traffic=seconds,
        exposed=exposed,
        sent=sent,
        cells_per_second=speed,
        loading=speed * storage.cell,
        checkpoint=saved,
        interval=every,
        wasted=wasted,
        seconds=total,
        price=total / 3600 * gpus * machine.price,
    )
