"""A script by which a shell completes verbs, options and file names: ``eval "$(cellfm completion bash)"``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cellfm_torch.command_line import OneLineParser
from cellfm_torch.pages import PAGES
from cellfm_torch.verb import Group, Verb
from cellfm_torch.verbs import VERBS, flat

SHELLS = ("bash", "zsh", "fish")
WORDS: dict[str, dict[str, str]] = {"completion": dict.fromkeys(SHELLS, ""), "help": PAGES}
"""Words of a closed list that a verb takes; others take file names."""

GENERAL = {"--help": "show options and an example", "--json": "one JSON object at the end, for machines"}


class Choice(NamedTuple):
    """What may stand behind some words: options, and plain words; without the latter a file name. With their help."""

    options: dict[str, str]
    words: dict[str, str]


def choices() -> dict[str, Choice]:
    """Return what may stand behind ``cellfm`` (the key ``""``), behind a group and behind each verb."""
    found = {"": Choice({"--help": "table of contents", "--version": "version"}, _helps(VERBS))}
    for name, group in VERBS.items():
        if isinstance(group, Group):
            found[name] = Choice({"--help": "table of contents"}, _helps(group.verbs))
    for name, verb in flat(VERBS).items():
        found[name] = Choice(_options(verb) | GENERAL, WORDS.get(name, {}))
    return found


def _helps(verbs: Mapping[str, Verb | Group]) -> dict[str, str]:
    return {name: verb.help for name, verb in verbs.items()}


def _options(verb: Verb) -> dict[str, str]:
    if verb.options is not None:
        return {option.flag: option.help for option in verb.options}
    actions = [action for parser in importlib.import_module(verb.module).parsers() for action in parser._actions]
    return {flag: action.help or "" for action in actions for flag in action.option_strings if flag.startswith("--")}


def groups() -> str:
    """Return the names of groups, whose verb is the second word."""
    return " ".join(name for name, verb in VERBS.items() if isinstance(verb, Group))


def bash() -> str:
    """Return the script for bash."""
    cases = "\n".join(
        f'        "{key}") options="{" ".join(choice.options)}" words="{" ".join(choice.words)}" ;;'
        for key, choice in choices().items()
    )
    return f"""# completion of cellfm in bash: eval "$(cellfm completion bash)"
_cellfm() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} key="" options="" words=""
    if ((COMP_CWORD > 1)); then key=${{COMP_WORDS[1]}}; fi
    if [[ " {groups()} " == *" $key "* ]] && ((COMP_CWORD > 2)); then key="$key ${{COMP_WORDS[2]}}"; fi
    case $key in
{cases}
    esac
    if [[ $word == -* ]]; then words=$options; fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _cellfm cellfm
"""


def zsh() -> str:
    """Return the script for zsh."""
    cases = "\n".join(
        f'        "{key}") options=({" ".join(choice.options)}) plain=({" ".join(choice.words)}) ;;'
        for key, choice in choices().items()
    )
    return f"""#compdef cellfm
# completion of cellfm in zsh: eval "$(cellfm completion zsh)" after compinit
_cellfm() {{
    local key="" word=${{words[CURRENT]}}
    local -a options plain
    if ((CURRENT > 2)); then key=${{words[2]}}; fi
    if [[ " {groups()} " == *" $key "* ]] && ((CURRENT > 3)); then key="$key ${{words[3]}}"; fi
    case $key in
{cases}
    esac
    if [[ $word == -* ]]; then
        compadd -- $options
    elif ((${{#plain}})); then
        compadd -- $plain
    else
        _files
    fi
}}
compdef _cellfm cellfm
"""


def fish() -> str:
    """Return the script for fish."""

    def said(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    lines = []
    for key, choice in choices().items():
        start = f"complete -c cellfm -n '__cellfm_behind \"{key}\"'"
        lines += [f"{start} -f -a {word} -d {said(about)}" for word, about in choice.words.items()]
        lines += [f"{start} -l {flag[2:]} -d {said(about)}" for flag, about in choice.options.items()]
    listed = "\n".join(lines)
    return f"""# completion of cellfm in fish: cellfm completion fish | source
function __cellfm_behind
    set -l typed (commandline -opc)
    set -l key "$typed[2]"
    if contains -- "$key" {groups()}; and test (count $typed) -gt 2
        set key "$typed[2] $typed[3]"
    end
    test "$key" = "$argv[1]"
end
{listed}
"""


def parsers() -> list[argparse.ArgumentParser]:
    """Return the options."""
    parser = OneLineParser(
        prog="cellfm completion",
        description="Print a script by which your shell completes verbs, options and file names. For every new shell: "
        'put eval "$(cellfm completion bash)" into ~/.bashrc, the same with zsh into ~/.zshrc, or cellfm completion '
        "fish | source into ~/.config/fish/config.fish.",
        epilog='example: eval "$(cellfm completion bash)"',
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=SHELLS)
    return [parser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    shell = parsers()[0].parse_args(sys.argv[1:] if arguments is None else list(arguments)).shell
    print({"bash": bash, "zsh": zsh, "fish": fish}[shell](), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
