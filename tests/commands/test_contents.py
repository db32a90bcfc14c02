"""The help reads like a table of contents, and every example in it is a command that parses."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from cellfm_torch import cli, paths
from cellfm_torch.commands import hydra_app
from cellfm_torch.commands.overview import contents, group_contents
from cellfm_torch.verb import Group, Verb
from cellfm_torch.verbs import CHAPTERS, VERBS, flat

ALL = flat(VERBS)
CONFIGURED = [name for name, verb in ALL.items() if verb.options is not None]


def test_contents_name_every_verb_once_in_eighty_columns() -> None:
    lines = contents().splitlines()
    for name, verb in ALL.items():
        assert sum(line.startswith(f"  {name} ") and line.endswith(f" {verb.help}") for line in lines) == 1, name
    assert all(title in lines for title in CHAPTERS)
    assert not [line for line in lines if len(line) > 80]
    assert sum(len(chapter) for chapter in CHAPTERS.values()) == len(VERBS), "a name stands in two chapters"


def test_groups_show_an_example_of_each_verb() -> None:
    for name, group in VERBS.items():
        if isinstance(group, Group):
            shown = group_contents(name, group)
            assert all(f"\n  {verb.example}\n" in shown for verb in group.verbs.values())


def typed(name: str, verb: Verb) -> list[str]:
    """What stands behind the verb in its example."""
    program, *words = shlex.split(verb.example)
    assert program == "cellfm" and " ".join(words).startswith(name), verb.example
    return words[len(name.split()) :]


@pytest.mark.parametrize("name", CONFIGURED)
def test_example_of_a_configured_verb(name: str) -> None:
    verb = ALL[name]
    assert verb.options is not None
    overrides = cli._overrides(name, verb, verb.options, typed(name, verb))
    hydra_app.register_resolvers()
    with initialize_config_dir(str(paths.CONF), version_base="1.3"):
        compose(name.replace(" ", "_"), overrides=overrides)


@pytest.mark.parametrize("name", CONFIGURED)
def test_every_option_sets_a_key_that_there_is(name: str) -> None:
    values = {"+experiment={}": "pretrain", "trainer={}": "ddp", "model={}": "tiny"}
    overrides = []
    for option in ALL[name].options or ():
        group = option.template.lstrip("+").split("=")[0]
        overrides.append(option.template.format(values[option.template] if (paths.CONF / group).is_dir() else "1"))
        assert OverridesParser.create().parse_override(overrides[-1]).key_or_group == group
    with initialize_config_dir(str(paths.CONF), version_base="1.3"):
        compose(name.replace(" ", "_"), overrides=overrides)  # a key that the configuration lacks is refused


@pytest.mark.parametrize("name", [name for name in ALL if name not in CONFIGURED])
def test_example_of_a_verb_with_options_of_its_own(name: str) -> None:
    parsers = importlib.import_module(ALL[name].module).parsers()
    assert parsers[0].parse_intermixed_args(typed(name, ALL[name])) is not None


def test_help_imports_nothing_heavy() -> None:
    code = """if True:
        import contextlib, io, sys
        from cellfm_torch import cli
        heavy = {"torch", "numpy", "lightning", "hydra", "omegaconf", "anndata", "pandas", "scipy", "rich", "h5py"}
        for line in sys.argv[1:]:
            with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
                cli.main(line.split())
            assert said.getvalue() or line == "trian", line
            assert not heavy & set(sys.modules), f"cellfm {line}: {heavy & set(sys.modules)}"
    """
    lines = ["--version", "--help", "trian", "genes", *(f"{name} --help" for name in ALL)]
    done = subprocess.run([sys.executable, "-c", code, *lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
