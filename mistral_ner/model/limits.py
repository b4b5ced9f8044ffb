"""How many subwords a model has positions for, and for which of them it has an embedding."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import ConfigError, Fault, UserError
from mistral_ner.model.source import explain_loading_errors, hub_options, locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

AUTO = 512  # the windows of ``data.max_length=auto``, or as many positions as the model has

# Their position ids begin behind the padding id (transformers, create_position_ids_from_input_ids), so that as many
# rows of the table less serve a text.
_FROM_PADDING = {
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod", "data2vec-text"),
    *("longformer", "mpnet", "ibert", "luke", "lilt", "markuplm", "layoutlmv3"),
}


def find_limit(config: Any) -> int | None:
    """Return how many subwords a model of this transformers config can read, None if no table of positions ends.

    Rotary and relative positions do not end; beyond the length of their training they only get worse.
    """
    positions = getattr(config, "max_position_embeddings", None)
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    if not isinstance(positions, int) or positions <= 0 or rotary or not getattr(config, "position_biased_input", True):
        return None
    return positions - (int(config.pad_token_id) + 1 if config.model_type in _FROM_PADDING else 0)


def choose_max_length(model: ModelConfig, wanted: int | str) -> int:
    """Return ``data.max_length`` as a number that the model can read; the weights are not loaded.

    Args:
        model: whose positions count.
        wanted: subwords a window, or ``auto``.

    Raises:
        ConfigError: the model has fewer positions; the fix names the largest number.
        UserError: there is no such model.
    """
    limit = find_limit(read_model_config(model))
    if isinstance(wanted, str):
        return min(AUTO, limit or AUTO)
    if limit is not None and wanted > limit:
        rule = f"must be at most {limit}, as many positions as {model.model_name} has, found {wanted}"
        raise ConfigError([Fault("data.max_length", rule, f"data.max_length={limit}, or data.max_length=auto")])
    return wanted


def check_vocabulary(model: ModelConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Check that the model has an embedding for every token; a pad token without one is replaced, and that is said.

    Padding is masked, so any token will do for it. A lookup without an embedding would fail in the first step, on a
    GPU with an assertion that breaks the process.

    With ``model.resize_embeddings`` every token gets an embedding when the model is loaded.

    Raises:
        UserError: names the tokens without an embedding.
    """
    if model.random_init is not None:  # built for its tokenizer
        return
    rows = getattr(read_model_config(model), "vocab_size", None)
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if rows and number >= rows}
    if model.resize_embeddings and max(beyond.values(), default=0) < len(tokenizer):
        if beyond:
            log.warning("%d tokens without an embedding get one, trained with the adapter: %s", *_some(beyond))
        return
    if tokenizer.pad_token in beyond:
        pad = tokenizer.eos_token or tokenizer.unk_token
        if pad is not None and pad not in beyond:
            log.warning("padding is %s: the pad token %s has no embedding in this model", pad, tokenizer.pad_token)
            beyond.pop(str(tokenizer.pad_token))
            tokenizer.pad_token = pad
    used = set(tokenizer("a").input_ids)
    wrong = [token for token in beyond if beyond[token] in used or token not in tokenizer.all_special_tokens]
    if wrong:
        first = min(wrong, key=lambda token: beyond[token])
        raise UserError(
            f"model.model_name: {model.model_name} has {rows} embeddings, and its tokenizer {len(wrong)} tokens "
            f"without one, first {first!r} with the id {beyond[first]}\n  fix: the tokenizer files that the model came "
            f"with; or model.resize_embeddings=true, which trains an embedding for each of them"
        )


def _some(beyond: dict[str, int]) -> tuple[int, str]:
    names = sorted(beyond, key=lambda token: beyond[token])
    return len(names), ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def read_model_config(model: ModelConfig) -> Any:
    """Return the transformers config of a model; of one with random weights what decides which windows it reads."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if model.random_init is None:
        with explain_loading_errors(model):
            return AutoConfig.from_pretrained(locate(model), **hub_options(model))
    kind = str(model.random_init["model_type"])
    if kind not in CONFIG_MAPPING:  # said when the model is built
        return None
    config = CONFIG_MAPPING[kind]()
    for name in ("max_position_embeddings", "position_biased_input", "sliding_window"):
        if name in model.random_init:
            setattr(config, name, model.random_init[name])
    config.pad_token_id = 0  # as the model is built
    return config
