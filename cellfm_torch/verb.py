"""What a command is: a verb with its options, or a group of verbs."""

from __future__ import annotations

from typing import NamedTuple


class Option(NamedTuple):
    """An alias of a configuration key.

    Attributes
    ----------
    flag
        As typed, ``--data``.
    template
        The override it stands for, ``data.path={}``. Without a slot the flag takes no value.
    help
        One line, with the unit.
    default
        Value used when the flag is not given; None leaves the key alone.
    """

    flag: str
    template: str
    help: str
    default: str | None = None

    @property
    def key(self) -> str:
        """Name of the parsed value."""
        return self.flag.lstrip("-").replace("-", "_")


class Verb(NamedTuple):
    """One command: the module whose ``main(arguments)`` runs it, and its options.

    `arguments` are overrides of the configuration; with `options` None they are what was typed, for a command that
    has no configuration and reads options of its own, those of the module's ``parsers()``. Words that are no
    ``key=value`` become the list `words`, a key of the configuration and its name in the help, where the verb takes
    any. `help` fits into the table of contents; `about`, where there is more to say, stands in the verb's own help.
    """

    module: str
    help: str
    options: tuple[Option, ...] | None
    example: str
    words: tuple[str, str] | None = None
    about: str = ""


class Group(NamedTuple):
    """Verbs of one subject, ``cellfm NAME VERB``; the configuration of one is conf/NAME_VERB.yaml."""

    help: str
    verbs: dict[str, Verb]
