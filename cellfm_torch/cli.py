"""The console script: ``cellfm VERB [options] [key=value ...]``, for verbs of a group ``cellfm GROUP VERB ...``.

Options are what a user usually sets, each an alias of a configuration key; trailing ``key=value`` reaches everything
else. The table of verbs is :mod:`cellfm_torch.verbs`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
import textwrap
from collections.abc import Mapping, Sequence

from cellfm_torch import __version__, paths
from cellfm_torch.answers import answered
from cellfm_torch.command_line import OneLineParser, complain, interrupted
from cellfm_torch.errors import nearest
from cellfm_torch.verb import Group, Option, Verb
from cellfm_torch.verbs import VERBS

JSON = "--json"
WIDTH = 78  # columns of the text above the options of a verb


def _quoted(value: str) -> str:
    """Quote a value for Hydra, whose grammar gives meaning to commas, brackets and spaces."""
    return value if re.fullmatch(r"[\w./+-]+", value) else "'" + value.replace("'", "\\'") + "'"


def _verb_parser(name: str, verb: Verb, options: tuple[Option, ...]) -> OneLineParser:
    description = verb.about or f"{verb.help[0].upper()}{verb.help[1:]}"
    words = f" {verb.words[1]} ..." if verb.words else ""
    parser = OneLineParser(
        prog=f"cellfm {name}",
        usage=f"cellfm {name}{words} [options] [key=value ...]",
        description=textwrap.fill(f"{description}.", WIDTH),
        epilog=f"example:\n  {verb.example}",  # as it is, to be copied
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option in options:
        if "{}" in option.template:
            metavar = option.key.upper()
            text = f"{option.help} [{option.template.format(metavar)}]"
            parser.add_argument(option.flag, dest=option.key, default=option.default, metavar=metavar, help=text)
        else:
            text = f"{option.help} [{option.template}]"
            parser.add_argument(option.flag, dest=option.key, action="store_true", help=text)
    text = "end with one line of JSON: exit_code, what was written, numbers; all else goes to stderr"
    parser.add_argument(JSON, action="store_true", help=text)
    file = paths.CONF / f"{name.replace(' ', '_')}.yaml"
    text = f"any other key of the configuration, listed with its meaning in {file}"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=text)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the console script; returns the exit code (2 for a mistake on the command line)."""
    try:
        code = _answer(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has enough: cellfm help cells | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python says so once more at its end
        return 128 + signal.SIGPIPE
    return code


def _answer(typed: list[str]) -> int:
    """Run what was typed."""
    if not typed or typed[0] in ("-h", "--help"):
        from cellfm_torch.commands.overview import contents

        print(contents())
        return 0
    if typed[0] == "--version":
        print(f"cellfm_torch {__version__}")
        return 0
    if JSON in typed:
        words = [word for word in typed if word != JSON]
        depth = 2 if isinstance(VERBS.get(words[0] if words else ""), Group) else 1
        return answered(" ".join(words[:depth]), lambda: _run(words))
    return _run(typed)


def _run(typed: list[str]) -> int:
    """Run a verb."""
    name, rest = typed[0] if typed else "", typed[1:]
    verb = VERBS.get(name)
    if verb is None:
        return _unknown(name, VERBS, "cellfm")
    if isinstance(verb, Group):
        if not rest or rest[0] in ("-h", "--help"):
            from cellfm_torch.commands.overview import group_contents

            print(group_contents(name, verb))
            return 0
        if rest[0] not in verb.verbs:
            return _unknown(rest[0], verb.verbs, f"cellfm {name}")
        name, verb, rest = f"{name} {rest[0]}", verb.verbs[rest[0]], rest[1:]
    try:
        given = rest if verb.options is None else _overrides(name, verb, verb.options, rest)
        code: int = importlib.import_module(verb.module).main(given)
    except KeyboardInterrupt:  # where the command itself has nothing to say about it
        return interrupted()
    return code


def _unknown(word: str, verbs: Mapping[str, Verb | Group], command: str) -> int:
    what = f"{command.removeprefix('cellfm')} {word}".strip()
    return complain(f"there is no verb '{what}'{nearest(word, verbs)} See {command} --help")


def _overrides(name: str, verb: Verb, known: tuple[Option, ...], typed: Sequence[str]) -> list[str]:
    """Turn what was typed into overrides of the configuration."""
    options = _verb_parser(name, verb, known).parse_intermixed_args(typed)
    overrides = []
    for option in known:
        value = getattr(options, option.key)
        if value is True:
            overrides.append(option.template)
        elif value not in (None, False):
            overrides.append(option.template.format(_quoted(value)))
    words = [word for word in options.overrides if not re.match(r"[+~]?[\w.@/]+=", word)] if verb.words else []
    if verb.words and words:
        overrides.append(f"{verb.words[0]}=[{','.join(_quoted(word) for word in words)}]")
    return [*overrides, *(word for word in options.overrides if word not in words)]


if __name__ == "__main__":
    sys.exit(main())
