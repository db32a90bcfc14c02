"""What concerns this machine, and the command line itself."""

from __future__ import annotations

from cellfm_torch.verb import Group, Verb

VERBS: dict[str, Verb | Group] = {
    "doctor": Verb(
        "cellfm_torch.commands.doctor",
        "what this machine has, what is wrong and what to do",
        None,
        "cellfm doctor --model models/80m",
    ),
    "estimate": Verb(
        "cellfm_torch.commands.estimate",
        "memory, arithmetic and expected speed of a model",
        None,
        "cellfm estimate 800m --tokens 65536 --dtype bfloat16 --rate 600",
    ),
    "help": Verb(
        "cellfm_torch.commands.help_pages",
        "a page on what went wrong, or the help of a verb",
        None,
        "cellfm help files",
    ),
    "completion": Verb(
        "cellfm_torch.commands.completion",
        "a script by which your shell completes commands",
        None,
        "cellfm completion bash",
    ),
}
