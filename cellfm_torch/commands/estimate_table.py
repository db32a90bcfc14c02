"""The table of ``cellfm estimate``."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def amount(number: float) -> str:
    """Return a number with a decimal prefix and three digits: 75.5 M."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number:.3g} "


def table_of(result: dict[str, Any], *, title: str) -> Table:
    """Lay out what :func:`~cellfm_torch.commands.estimate.estimate` returned."""
    network, batch, memory = result["network"], result["batch"], result["training_memory"]
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")

    def row(name: str, value: str, note: str = "") -> None:
        table.add_row(name, value, note)

    size = f"{network['num_layers']} layers, width {network['dim']}, {network['num_heads']} heads"
    row("parameters", amount(result["parameters"]["total"]).strip(), size)
    table.add_section()
    row("batch", f"{batch['gene_tokens']:,} tokens", f"{batch['cells']:.1f} cells of {batch['genes_per_cell']:,} genes")
    row("weights", amount(memory["weights"]) + "B", "float32")
    row("gradients", amount(memory["gradients"]) + "B", "float32")
    row("optimiser", amount(memory["optimizer"]) + "B", "Adam's two moments")
    row("activations", amount(memory["activations_no_layer_checkpointed"]) + "B", f"products in {result['dtype']}")
    saved = amount(memory["activations_every_layer_checkpointed"]) + "B"
    row("", saved, "with every layer checkpointed")
    number = memory["checkpointed_layers"]
    chosen = f"{number} of {network['num_layers']} layers checkpointed"
    if 0 < number < network["num_layers"]:
        row("", amount(memory["activations"]) + "B", f"with {chosen}")
    row("training", amount(memory["total"]) + "B", chosen if number else "")
    row("embedding", amount(result["embedding_memory"]["total"]) + "B", "weights and activations")
    if result["available_memory"] is not None:
        needed = memory["total"] * result["process_memory_factor"]
        note = "training fits" if needed <= result["available_memory"] else "too little for training"
        if result["process_memory_factor"] > 1:
            note += f", if its process takes {result['process_memory_factor']} times as much at worst"
        row("available", amount(result["available_memory"]) + "B", note)
    table.add_section()
    for name in ("embedding", "training"):
        per_token, per_cell = result["operations_per_token"][name], result["operations_per_cell"][name]
        row(f"arithmetic, {name}", amount(per_cell) + "FLOP", f"per cell; {amount(per_token)}FLOP per token")
    where = result["rate"]["measured_on"]
    rate = amount(result["rate"]["operations_per_second"]) + "FLOP/s"
    row("rate of products", rate, f"measured on {where}" if where else "as given")
    for name in ("embedding", "training"):
        speed = float(f"{result['cells_per_second'][name]:.3g}")
        row(f"expected, {name}", f"{speed:,g} cells/s", f"at a useful utilisation of {result['utilisation'][name]:.3g}")
    return table


def show(result: dict[str, Any], *, title: str) -> None:
    """Print the table."""
    Console(highlight=False).print(table_of(result, title=title))
