"""Hydra's composition errors in this project's words: where, the rule, what was found, the fix.

Hydra tells its errors apart by their text only, so their text is matched here; an unknown one keeps Hydra's own words.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from mistral_ner.config.schema import known_keys
from mistral_ner.errors import UserError, composing, exit_with, full_errors, nearest

_ALL_KEYS = "python launch.py --cfg job shows every key"


@contextmanager
def show_composition_errors() -> Iterator[None]:
    """Print what Hydra cannot compose (an unknown key, a broken file) as one message of ours, and exit with 1.

    This ends when the job or the engine that gets the config enters :func:`mistral_ner.errors.show_user_errors`. With
    ``HYDRA_FULL_ERROR=1`` it does nothing.
    """
    if full_errors():
        yield
        return
    composing.begin()
    try:
        yield
    # Hydra passes on errors of YAML and the file system, and raises builtin errors itself
    except (
        HydraException,
        OmegaConfBaseException,
        yaml.YAMLError,
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
    ) as error:
        if not composing.active:
            raise
        exit_with(explain(error))
    finally:
        composing.end()


def refuse_secrets(hydra: Any) -> None:
    """Refuse a Hydra config that sets passwords, since it is saved beside the results.

    Raises:
        UserError: names the variable.
    """
    for name in hydra.job.env_set:
        if re.search(r"TOKEN|KEY|SECRET|PASSW", str(name).upper()):
            raise UserError(
                f"hydra.job.env_set.{name}: would be saved with the results, and looks like a secret\n"
                f"  fix: export {name}=… in the shell, and leave it out of the config"
            )


def explain(error: BaseException) -> str:
    """Return the message for an error that was raised while a config was composed."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable_override(error)
    if isinstance(error, yaml.YAMLError):
        return _broken_yaml(error)
    if isinstance(error, UnicodeDecodeError):
        return _message(_config_name(), f"a config file must be UTF-8, found other bytes ({text})", "save it as UTF-8")
    if isinstance(error, OSError) and error.filename is not None:
        fix = "hydra.run.dir=FOLDER, or hyperopt.results_dir=FOLDER for a search"
        return _message(str(error.filename), f"cannot be written or read ({error.strerror})", fix)
    if isinstance(error, FileNotFoundError) and not _is_somewhere():
        return _message("the folder in which this was typed", "is gone", "cd to a folder that there is")
    if isinstance(error, OmegaConfBaseException):
        return _message(
            str(error.full_key or "config"), text.splitlines()[0], "write a value there, or mend the ${...}"
        )
    for pattern, message in _CASES:
        if found := re.search(pattern, text, re.DOTALL):
            return message(found)
    return " ".join(text.split()) or type(error).__name__


def _is_somewhere() -> bool:
    """Return whether there is a working directory; it may have been removed."""
    try:
        return Path.cwd().is_dir()
    except FileNotFoundError:
        return False


def _message(where: str, rule: str, fix: str) -> str:
    return f"{where}: {rule}\n  fix: {fix}"


def _unknown_key(found: re.Match[str]) -> str:
    key = found[1]
    if key.startswith("hydra.sweeper."):
        return _explain_sweeper_key(key)
    if re.match(r"(hyperopt\.)?search_space(\.|$)", key):
        return _explain_space_key(key, found[0])
    value = re.search(rf"{re.escape(key)}=(.*)", found[0])
    similar = _nearest_key(key)
    fix = f"{similar}={value[1] if value else 'VALUE'}" if similar else _ALL_KEYS
    hint = f" (did you mean {similar!r}?)" if similar else ""
    return _message(key, f"unknown key{hint}", fix)


def _explain_space_key(key: str, text: str) -> str:
    """Return the message for a key that the search space does not have: a plus adds it, or another space is given."""
    found = re.search(rf"{re.escape(key)}=(.*)", text)
    value, inner = found[1] if found else "VALUE", key.removeprefix("hyperopt.")
    if inner == "search_space":
        rule = "adds parameters to a space, which hyperopt.search_space replaces"
        return _message(key, rule, f"'hyperopt.search_space={value}'")
    if inner != key:
        return _message(
            key, "there is no such key, and the space that it would change is search_space", f"'{inner}={value}'"
        )
    parameter = ".".join(key.split(".")[:2])
    example = f"'+{parameter}={{type: uniform, low: 0, high: 1}}'"
    if parameter == key:
        return _message(key, "the search space has no such parameter; a plus adds it", example)
    fix = f"'+{key}={value}' if {parameter} is searched, and {example} if it is not"
    return _message(key, "the search space has no such key; a plus adds it", fix)


def _nearest_key(key: str) -> str:
    """Return the config key nearest to ``key``: in its group, then of its name in another group, then of all."""
    group, _, name = key.rpartition(".")
    known = [*known_keys(), *{known.partition(".")[0] for known in known_keys() if "." in known}]
    beside = {known.rpartition(".")[2]: known for known in known if known.rpartition(".")[0] == group}
    elsewhere = [known for known in known if known.rpartition(".")[2] == name]
    found = (
        [beside[near] for near in difflib.get_close_matches(name, beside, n=1, cutoff=0.75)]
        or difflib.get_close_matches(key, elsewhere, n=1, cutoff=0)
        or difflib.get_close_matches(key, beside.values(), n=1, cutoff=0.5)
        or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    )
    # never its own group: setting or deleting that would be far more than was meant
    return found[0] if found and not key.startswith(f"{found[0]}.") else ""


# What hydra-optuna-sweeper is given, and where this project has it.
_OF_THE_SWEEPER = {
    "params": "hyperopt.search_space={learning_rate: {type: loguniform, low: 1e-4, high: 1e-2}}",
    "n_trials": "hyperopt.num_trials=20",
    "n_jobs": "hyperopt.max_concurrent=2",
    "sampler": "hyperopt.optuna_sampler=TPE",
    "direction": "hyperopt.mode=max",
    "study_name": "hyperopt.study_name=my_study",
    "storage": "hyperopt.storage_url=null",
    "max_failure_rate": "hyperopt.max_failure_rate=0.3333",
}


def _explain_sweeper_key(where: str) -> str:
    key = where.removeprefix("hydra.sweeper.").partition(".")[0]
    place = _OF_THE_SWEEPER.get(key)
    if place is None:
        return _message(f"hydra.sweeper.{key}", "a sweeper of this project takes no settings", f"~hydra.sweeper.{key}")
    rule = f"a sweeper of this project takes no settings; this one is {place.partition('=')[0]} here"
    return _message(f"hydra.sweeper.{key}", rule, f"'{place}'" if " " in place else place)


def _added_to_sweeper() -> str:
    """Return the first key of ``hydra.sweeper`` that the command line adds with a plus."""
    return next(iter(re.findall(r"\+(hydra\.sweeper\.\w+)", " ".join(sys.argv))), "hydra.sweeper.KEY")


def _unknown_choice(found: re.Match[str]) -> str:
    group, choice = found[1], found[2]
    options = found[3].split()
    if group == "hydra/launcher" and choice.startswith("submitit"):
        rule = f"{choice!r} comes with hydra-submitit-launcher, which is not installed"
        return _message(group, rule, "pip install -e '.[slurm]'")
    match = re.search(r"'(.*)'", nearest(choice, options))
    rule = f"must be one of {', '.join(options)}{nearest(choice, options)}, found {choice!r}"
    return _message(group, rule, f"{group}={match[1] if match else options[0]}")


def _unknown_config(found: re.Match[str]) -> str:
    folders = [Path(path) for path in re.findall(r"path=file://(\S+)", found[0])]
    names = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    where = " or ".join(map(str, folders))
    rule = f"there is no config {found[1]}.yaml in {where}{nearest(found[1], names)}, found {', '.join(names)}"
    match = re.search(r"'(.*)'", nearest(found[1], names))
    return _message(
        "--config-name", rule, f"--config-name {match[1]}" if match else "--config-dir FOLDER that holds it"
    )


def _unreadable_override(error: OverrideParseException) -> str:
    override = error.override
    if "=" not in override and not override.startswith("~"):
        return _message(override, "an override is KEY=VALUE, found no =", f"{override.strip() or 'KEY'}=VALUE")
    key = override.partition("=")[0]
    reason = next((line for line in str(error).splitlines()[1:] if " at " in line), "cannot be read")
    rule = f"the value must follow Hydra's grammar, found {override!r} ({reason.strip()})"
    return _message(key, rule, f"put text in quotes inside the shell's: '{key}=\"VALUE\"', and close every bracket")


def _broken_yaml(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{mark.name.strip(chr(34))}:{mark.line + 1}" if mark else _config_name()
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return _message(place, f"a config file must be valid YAML ({problem})", "mend that line, or write the file again")


def _config_name() -> str:
    """Return the name of the config that the command line asks for."""
    names = re.findall(r"--config-name[ =](\S+)|-cn[ =](\S+)", " ".join(sys.argv))
    return next((one or other for one, other in names), "config")


def _exists_already(found: re.Match[str]) -> str:
    return _message(f"+{found[1]}", "adds a key, but there is one already", f"{found[1]}=VALUE, without the +")


def _nothing_to_delete(found: re.Match[str]) -> str:
    similar = _nearest_key(found[1])
    hint = f" (did you mean {similar!r}?)" if similar else ""
    return _message(f"~{found[1]}", f"there is no such key{hint}", f"~{similar}" if similar else _ALL_KEYS)


def _no_such_folder(found: re.Match[str]) -> str:
    return _message("--config-dir", f"must be a folder that exists, found {found[1]}", "--config-dir FOLDER")


def _not_a_choice(found: re.Match[str]) -> str:
    return _message("config", f"a group (model, data, training, ...) takes a name, found {found[1]}", _ALL_KEYS)


def _not_runnable(found: re.Match[str]) -> str:
    rule = "a config may only name classes of Hydra and of this project, since they would be run"
    return _message(found[1], rule, "take it out of the config")


def _no_group_of_keys(found: re.Match[str]) -> str:
    return _message(found[1], "a config file must be a group of keys (KEY: VALUE), found a list", "write it again")


_CASES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"Key '([^']+)' not in '_SweeperConf'", lambda found: _explain_sweeper_key(found[1])),
    (r"\w+Sweeper\(\) takes no arguments", lambda _: _explain_sweeper_key(_added_to_sweeper())),
    (r"Could not override '([^']+)'.*", _unknown_key),
    (
        r"Could not find '([^']+)/([^'/]+)'\s+Available options in '[^']+':\n(.*?)(?:\nConfig search path|$)",
        _unknown_choice,
    ),
    (r"Cannot find primary config '([^']+)'.*", _unknown_config),
    (r"An item is already at '([^']+)'", _exists_already),
    (r"Could not delete from config\. '([^']+)' does not exist", _nothing_to_delete),
    (r"Additional config directory '([^']+)' not found", _no_such_folder),
    (r"Config group override must be a string or a list. Got (\w+)", _not_a_choice),
    (r"primary config '([^']+)' must be a DictConfig", _no_group_of_keys),
    (r"Unknown plugin class : '([^']+)'", _not_runnable),
    (r"Target '([^']+)' (?:cannot be authorized|is not|was not)", _not_runnable),
)
