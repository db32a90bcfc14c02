"""The same option means the same in every verb, and its help says what the configuration says."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
import yaml

from cellfm_torch import paths
from cellfm_torch.verb import Option, Verb
from cellfm_torch.verbs import VERBS, flat

WITH_OPTIONS = {name: verb for name, verb in flat(VERBS).items() if verb.options is not None}

OTHER_KEY = {
    # What is built or trained has groups of its own; the flag is what a user knows it by.
    ("train", "--model"): "a network to build, not a folder",
    ("train", "--accelerator"): "Lightning's",
    ("annotate", "--accelerator"): "Lightning's",
    ("perturb train", "--accelerator"): "Lightning's",
    ("perturb train", "--method"): "of fitting",
    ("genes function", "--key"): "takes several",
    ("report", "--layer"): "reads no cells for a model",
}
"""Options of another configuration key than in other verbs, and why."""

EVERYWHERE = {
    "overwrite": "--overwrite",
    "output": "--output",
    "results": "--results",
    "seed": "--seed",
    "seeds": "--seeds",
    "accelerator": "--accelerator",
    "data.layer": "--layer",
    "trainer.max_epochs": "--epochs",
    "model_folder": "--model",
}
"""Keys that have an option in every verb whose configuration has them."""


def settings(name: str) -> dict[str, object]:
    """Return the configuration of a verb by dotted keys, as the file has it."""
    found: dict[str, object] = {}

    def walk(node: dict[str, object], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = value

    walk(yaml.safe_load((paths.CONF / f"{name.replace(' ', '_')}.yaml").read_text(encoding="utf-8")), "")
    return found


def test_one_flag_is_one_key() -> None:
    keys: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, verb in WITH_OPTIONS.items():
        for option in verb.options or ():
            if (name, option.flag) not in OTHER_KEY:
                keys[option.flag][option.template].append(name)
    assert {flag: dict(found) for flag, found in keys.items() if len(found) > 1} == {}
    for name, flag in OTHER_KEY:
        option = next(o for o in WITH_OPTIONS[name].options or () if o.flag == flag)
        assert option.template not in keys[flag], f"{name} {flag} is no exception any more"


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_what_most_verbs_have_none_lacks(name: str) -> None:
    there = {option.template.removesuffix("={}").removesuffix("=true") for option in WITH_OPTIONS[name].options or ()}
    # Where what was learned lies says which model it needs; it may have been moved.
    moved = {"model_folder"} if "predictor" in settings(name) else set()
    lacking = [flag for key, flag in EVERYWHERE.items() if key in settings(name) and key not in there | moved]
    assert lacking == []


def defaults() -> list[tuple[str, Option, str]]:
    """Return what the helps say of defaults that stand in a configuration as they are."""
    found = []
    for name, verb in WITH_OPTIONS.items():
        for option in verb.options or ():
            said = re.search(r"\(default: ([^ )]+)\)$", option.help)
            if said and option.template.split("=")[0] in settings(name):
                found.append((name, option, said[1]))
    return found


@pytest.mark.parametrize(("name", "option", "said"), defaults(), ids=lambda x: x.flag if isinstance(x, Option) else x)
def test_defaults_are_those_of_the_configuration(name: str, option: Option, said: str) -> None:
    value = settings(name)[option.template.split("=")[0]]
    if value is None or "${name}" in str(value):  # worked out from other options
        assert said in ("X", "X_cellfm", "runs/EXPERIMENT") or said.startswith("CELLS")
        return
    assert re.sub(r"[\[\] ]", "", str(value)) in (said, f"${{cellfm.devices:{said}}}")


@pytest.mark.parametrize("name", flat(VERBS))
def test_every_verb_has_an_example_of_its_own_options(name: str) -> None:
    verb: Verb = flat(VERBS)[name]
    assert verb.example.startswith(f"cellfm {name}")
    if verb.options is not None:
        assert set(re.findall(r"--[\w-]+", verb.example)) <= {option.flag for option in verb.options}
