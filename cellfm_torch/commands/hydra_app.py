"""Hydra behind every command: where conf/ is, what its resolvers mean, and errors that help."""

from __future__ import annotations

import inspect
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cellfm_torch import command_line, paths, processes
from cellfm_torch.command_line import complain
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.files import not_written
from cellfm_torch.lost import lost
from cellfm_torch.pages import page_of
from cellfm_torch.verbs import verb_of


def register_resolvers() -> None:
    """Make ``${cellfm.bundled:NAME}``, ``${cellfm.precision:WANTED,...}`` and others known to OmegaConf."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("cellfm.bundled", _bundled, replace=True)
    OmegaConf.register_new_resolver("cellfm.precision", _precision, replace=True)
    OmegaConf.register_new_resolver("cellfm.devices", processes.here, replace=True)
    OmegaConf.register_new_resolver("cellfm.nodes", processes.nodes, replace=True)


def _bundled(name: str) -> str:
    """Return the path of a data set that travels with the package."""
    return str({"pbmc3k": paths.PBMC3K, "cropseq_28genes": paths.CROPSEQ}[name])


def _precision(wanted: str, accelerator: str = "auto", strategy: Any = None) -> str:
    """Return `wanted` where the device gains from it: weights stay in float32, products are taken in half precision.

    On CPUs, most of which are several times slower with it, everything stays in float32. GPUs that only emulate
    bfloat16 get float16 with loss scaling. Sharded weights are not trained with that by Lightning: bfloat16 there.
    """
    import torch

    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    if isinstance(strategy, Mapping) and str(strategy.get("_target_")).endswith(".ShardedStrategy"):
        return "bf16-mixed" if wanted == "16-mixed" else wanted
    emulated = wanted == "bf16-mixed" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return "16-mixed" if emulated else wanted


def run(job: Callable[[Any], int], *, config: str, overrides: Sequence[str]) -> int:
    """Compose a configuration and run a job on it.

    Parameters
    ----------
    job
        Called with the composed configuration; returns the exit code.
    config
        Name of the primary configuration in conf/.
    overrides
        What stood on the command line: ``key=value``, ``+experiment=NAME``, or one of Hydra's own flags.

    Returns
    -------
    Exit code: that of the job, or 2 with one line on stderr for a mistake of the user's.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register_resolvers()
    result = 0

    def task(cfg: Any) -> None:
        nonlocal result
        try:
            _check_values(cfg, config=config, overrides=overrides)
            result = job(cfg)
        except (UserError, HydraException, OmegaConfBaseException) as problem:  # here, or Hydra prints lines of its own
            result = complain(explain(problem, config=config), page=page_of(problem))
        except KeyboardInterrupt:
            result = command_line.interrupted()
        except SystemExit as stop:
            if type(stop).__name__ != "SIGTERMException":  # of Lightning, which would end with exit code 0
                raise
            result = command_line.interrupted(by="stopped by SIGTERM", code=128 + signal.SIGTERM)
        except Exception as problem:
            if type(problem).__name__ == "MisconfigurationException":  # Lightning's word for options that cannot be
                result = complain(problem, page="install" if "ccelerator" in str(problem) else "training")
                return
            said = not_written(problem) or lost(problem)
            if said is None:
                raise
            result = complain(said, page="files")

    # Read when torch loads its OpenMP. Waiting threads that spin for long make training several times slower as soon
    # as another program wants a core; a short spin costs 7 % on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # oneDNN keeps what it makes for each shape of a product, up to 1,024 of them, and batches differ in tokens: sixty
    # steps of fine-tuning the tiny network took 1.66 GB with that and 1.40 GB with as many as a step needs.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    # Hydra's own reporting prints a stack and exits with 1; with this variable it raises instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    saved, sys.argv = sys.argv, [sys.argv[0], *overrides]
    formatted = warnings.formatwarning
    # A user is told what, not the line of code that said so.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        hydra.main(version_base="1.3", config_path=str(paths.CONF), config_name=config)(task)()
    except (HydraException, OmegaConfBaseException) as problem:
        return complain(explain(problem, config=config), page=page_of(problem))
    finally:
        sys.argv, warnings.formatwarning = saved, formatted
    return result


def _check_values(cfg: Any, *, config: str, overrides: Sequence[str]) -> None:
    """Refuse a word where the configuration has a number or a switch, and a value that was never given.

    Raises
    ------
    UserError
        Naming the first such option.
    """
    from hydra import compose
    from omegaconf import OmegaConf

    values = [o for o in overrides if re.match(r"[\w.]+=", o) and not (paths.CONF / o.split("=")[0]).is_dir()]
    before = compose(config, overrides=[o for o in overrides if o not in values and not o.startswith("-")])
    for key in (o.split("=")[0] for o in values):
        old, new = (OmegaConf.select(tree, key, throw_on_missing=False) for tree in (before, cfg))
        if isinstance(old, bool) and not isinstance(new, bool | None):
            raise UserError(f"{key}={new}: must be true or false (default {str(old).lower()})")
        if isinstance(old, int | float) and isinstance(new, str) and new not in (words := _words(cfg, key)):
            choices = " or ".join(["a number", *words])
            raise UserError(f"{key}={new}: must be {choices} (default {old})")
    for key in sorted(OmegaConf.missing_keys(cfg)):
        if not key.startswith("hydra."):
            raise UserError(f"the option {key} must be given: {_flag(config, key)}{key}=...")


def _flag(config: str, key: str) -> str:
    """Return how the console script sets a key of a command, where it has an option or takes words for it."""
    verb = verb_of(config)
    if verb is None:
        return ""
    if verb.words and verb.words[0] == key:
        return f"cellfm {config.replace('_', ' ')} {verb.words[1]}, or "
    flags = [option.flag for option in verb.options or () if option.template == f"{key}={{}}"]
    return f"{flags[0]} {flags[0].lstrip('-').upper()}, or " if flags else ""


def _words(cfg: Any, key: str) -> list[str]:
    """List the words that an option takes, by the type of the parameter it is passed to (``Literal["auto"]``)."""
    from hydra.utils import get_object
    from omegaconf import OmegaConf

    def literals(hint: Any) -> list[str]:
        if get_origin(hint) is Literal:
            return [word for word in get_args(hint) if isinstance(word, str)]
        return [word for part in get_args(hint) for word in literals(part)]

    group, _, name = key.rpartition(".")
    target = OmegaConf.select(cfg, f"{group}._target_") if group else None
    if target is None:
        return []
    called: Any = get_object(target)
    is_class = isinstance(called, type)
    try:
        hints = get_type_hints(called.__init__ if is_class else called)
    except NameError:  # types that are known to type checkers only
        return []
    return literals(hints.get(name))


def interrupted(keep: Path | None = None) -> int:
    """Say that a job was interrupted and what is left of it; returns the exit code.

    Parameters
    ----------
    keep
        Folder of what is done, where the job has one.
    """
    kept = f"what is done is kept in {keep}; the same command goes on"
    return command_line.interrupted(kept if keep is not None and keep.exists() else "nothing was written")


def explain(problem: Exception, *, config: str) -> str:
    """Turn an error of Hydra's into one line that names the mistake and the nearest right word.

    Parameters
    ----------
    problem
        What Hydra raised.
    config
        Name of the primary configuration, whose keys are the possible options.
    """
    cause: BaseException | None = problem
    while cause is not None:  # a UserError inside instantiate() arrives wrapped
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__
    text = str(problem)
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'.*?Available options in '[^']+':(.*)", text, re.DOTALL):
        group, name, options = match[1], match[2], re.findall(r"^\t([\w-]+)$", match[3], re.MULTILINE)
        return f"there is no {group} '{name}'{nearest(name, options)} There are: {', '.join(options)}"
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].split("@")[0]
        if key == "experiment":
            return "experiments are added with a plus: +experiment=NAME"
        names = _option_names(config)
        if key in names:
            return f"'{key}' is set and taken out (~{key}) at once: leave one of the two out"
        return f"there is no option '{key}'{nearest(key, names)}"
    if match := re.search(r"Error in call to target '([^']+)':\s*(\w+)\((.*?)\)\s*full_key: (\S+)", text, re.DOTALL):
        said = match[3].strip(match[3][0])  # a repr of the message
        if unknown := re.search(r"unexpected keyword argument '(\w+)'", said):
            options = [f"{match[4]}.{name}" for name in _parameters(match[1])]
            return f"there is no option '{match[4]}.{unknown[1]}'{nearest(f'{match[4]}.{unknown[1]}', options)}"
        return f"the option group '{match[4]}' cannot be used: {said}"
    if type(problem).__name__ == "OverrideParseException":
        return f"{problem.override} is not of the form key=value; quote values with brackets, commas or spaces"  # type: ignore[attr-defined]
    return text.split("\n\n")[0]


def _parameters(target: str) -> list[str]:
    """Names that the object of a configuration is made with: of a class method, those of its class."""
    from hydra.utils import get_object

    called: Any = get_object(target)
    return list(inspect.signature(getattr(called, "__self__", called)).parameters)


def _option_names(config: str) -> list[str]:
    """List every option of a configuration, dotted."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(paths.CONF), version_base="1.3"):
        tree = OmegaConf.to_container(compose(config), resolve=False)

    def names(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        below = [name for key, child in node.items() for name in names(child, f"{prefix}{key}.")]
        return [f"{prefix}{key}" for key in node] + below

    return names(tree, "")
