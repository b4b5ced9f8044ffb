"""The one scoring loop, from rows to the words' logits, and the scores of a split during and after training."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mistral_ner.config.schema import Config, ModelConfig
from mistral_ner.data.encoded.encode import Encoded
from mistral_ner.data.encoded.rows import Row
from mistral_ner.decoding import decode
from mistral_ner.metrics import IntArray, Score, entity_scores, sentence_counts
from mistral_ner.model.cpu.attention import quick_attention
from mistral_ner.model.cpu.merged import merged_weights
from mistral_ner.model.cpu.products import wide_products
from mistral_ner.model.hardware import autocast, place_of_inputs, product_dtype, usable_precision
from mistral_ner.model.limits import find_limit
from mistral_ner.model.padding import reads_padding
from mistral_ner.model.stored import lend_trained
from mistral_ner.training.inputs.batches import batches_by_tokens, buffers, collate
from mistral_ner.training.inputs.prepare import prepare
from mistral_ner.training.memory import OutOfMemoryError, free_memory, name_memory_errors


@dataclass
class MeanLoss:
    """The network's own loss, as a mean over all labelled tokens."""

    total: float = 0.0
    tokens: int = 0

    def add(self, loss: float, tokens: int) -> None:
        """Count a batch by its mean loss and its labelled tokens."""
        self.total += loss * tokens
        self.tokens += tokens

    @property
    def value(self) -> float:
        """The mean; 0 without a labelled token."""
        return self.total / max(1, self.tokens)


@dataclass(frozen=True)
class Forward:
    """How rows go through a model: the same batches in the same number format wherever the same rows are tagged.

    A batch depends on the rows of its buffer alone, and a buffer on the rows before it. On a CPU each batch is computed
    by one thread, several at a time, so that no sum depends on the number of threads. The bits of the logits follow
    from the rows, their order, ``batch_tokens`` and the device. Batches that do not fit into memory are halved, which
    changes rounding only.
    """

    pad_id: int  # fills rows up to the longest of their batch
    batch_tokens: int  # of a batch, padding included
    precision: str = "auto"  # as training.precision

    def word_logits(
        self, model: Any, rows: Iterable[Row], loss: MeanLoss | None = None
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the logits of each row's words, shape (words, labels), in the order of the rows.

        Args:
            model: a token classifier in eval mode.
            rows: ``input_ids``, ``labels`` and ``first_subwords`` of windows; they are read a buffer at a time. A
                buffer of rows that are all ``DONE`` does not go through the model, and its logits are empty.
            loss: collects the loss of each batch; None: no loss is computed.

        Raises:
            OutOfMemoryError: one row does not fit into memory.
        """
        device = place_of_inputs(model)
        forward = functools.partial(self._compute, model, device, loss is not None)
        tokens, positions = self.batch_tokens, find_limit(model.config)
        with merged_weights(model, product_dtype(self.precision)), _single_threads(device) as each:
            for buffer in buffers(rows, _BATCHES * self.batch_tokens):
                if all(row.get(DONE) for row in buffer):
                    yield from (_NOTHING for _ in buffer)
                    continue
                # activations instead of tokens are used with networks only that are known not to read padding
                one_length = "hidden" not in buffer[0] and reads_padding(model, self.precision, self.pad_id)
                compute = functools.partial(each, functools.partial(forward, 0 if one_length else positions))
                batches, results, tokens = _within_memory(compute, buffer, tokens, one_length)
                found: list[Any] = [None] * len(buffer)
                for batch, (logits, mean, labelled) in zip(batches, results, strict=True):
                    if loss is not None:
                        loss.add(mean, labelled)
                    for index, of_row in zip(batch, logits, strict=True):
                        found[index] = of_row
                yield from found

    def _compute(
        self, model: Any, device: torch.device, with_loss: bool, positions: int | None, rows: Sequence[Row]
    ) -> _Computed:
        """Return the words' logits of the rows of a batch, their mean loss, and the count of labelled tokens."""
        batch = collate(rows, self.pad_id, positions)
        labels = batch["labels"] if with_loss else batch.pop("labels")
        with torch.inference_mode(), autocast(self.precision):  # both hold for the thread that enters them
            output = model(**{name: value.to(device) for name, value in batch.items()})
        logits = output.logits.float().cpu().numpy()
        found = [
            of_row[np.asarray(row["first_subwords"], dtype=np.int64)] for row, of_row in zip(rows, logits, strict=True)
        ]
        return found, float(output.loss) if with_loss else 0.0, int((labels != -100).sum())


DONE = "done"  # a key of rows whose logits nobody needs
_NOTHING: npt.NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
_Computed = tuple[list[npt.NDArray[np.float32]], float, int]  # the logits of each row, the loss, the labelled tokens


def _within_memory(
    compute: Callable[[list[list[Row]]], Iterable[_Computed]], buffer: Sequence[Row], tokens: int, one_length: bool
) -> tuple[list[list[int]], list[_Computed], int]:
    """Return the batches of a buffer, what ``compute`` finds for them, and how many tokens of a batch fitted.

    Raises:
        OutOfMemoryError: a batch of one row does not fit.
    """
    while True:
        batches = list(batches_by_tokens(buffer, tokens, one_length))
        try:
            what = f"{tokens} tokens of an evaluation batch"
            with name_memory_errors(what, "free memory on the device"), wide_products():
                return batches, list(compute([[buffer[index] for index in batch] for batch in batches])), tokens
        except OutOfMemoryError:
            if tokens <= max(len(row["input_ids"]) for row in buffer):
                raise
        free_memory()  # after the exception is gone, which refers to the activations
        tokens //= 2


_BATCHES = 16  # a buffer: more of them would pad less, but come later, and a killed prediction would lose more


@contextlib.contextmanager
def _single_threads(device: torch.device) -> Iterator[Callable[..., Iterable[Any]]]:
    """Lend a ``map`` whose calls run side by side on a CPU, each in one thread, and one after the other on a GPU."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield map
        return
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # also the number for threads to come


@dataclass
class Evaluation:
    """One split to score: its rows (windows) and the word-level truth."""

    rows: Sequence[Row]
    gold: IntArray  # tag ids of all words, (words,)
    lengths: IntArray  # words of each sentence, (sentences,)
    labels: list[str]
    batch_tokens: int  # of a batch, padding included
    precision: str = "auto"
    decoding: str = ModelConfig.decoding

    @classmethod
    def of(
        cls,
        data: Encoded,
        split: str,
        batch_tokens: int,
        rows: Any = None,
        precision: str = "auto",
        decoding: str = ModelConfig.decoding,
    ) -> Evaluation:
        """Return the evaluation of a split of encoded data; ``rows`` replace its own."""
        gold, lengths = data.gold(split)
        rows = data.rows(split) if rows is None else rows
        return cls(rows, gold, lengths, data.labels, batch_tokens, precision, decoding)

    def predict(self, model: Any, pad_id: int, loss: MeanLoss | None = None) -> IntArray:
        """Return the tag id that the model, in eval mode, gives to every word, shape (words,)."""
        windows = Forward(pad_id, self.batch_tokens, self.precision).word_logits(model, self.rows, loss)
        tags = [
            decode(logits, lengths, self.labels, self.decoding)
            for logits, lengths in _in_sentences(windows, self.lengths)
        ]
        return np.concatenate([np.empty(0, dtype=np.int64), *tags])

    def score(self, tags: IntArray) -> dict[str, float]:
        """Return the entity scores of predicted tags."""
        return entity_scores(self.gold, tags, self.lengths, self.labels)


def _in_sentences(
    windows: Iterable[npt.NDArray[np.float32]], lengths: IntArray
) -> Iterator[tuple[npt.NDArray[np.float32], IntArray]]:
    """Yield the logits of many whole sentences at a time, shape (words, labels), with the words of each.

    Args:
        windows: the logits of the words of each window, in order.
        lengths: words of each sentence.
    """
    ends = np.cumsum(lengths)
    kept: list[npt.NDArray[np.float32]] = []
    words = since = first = 0  # words read; those that were yielded, and the sentence after them
    for logits in windows:
        kept.append(logits)
        words += len(logits)
        if words - since >= _DECODED and ends[(after := int(np.searchsorted(ends, words, "right"))) - 1] == words:
            yield np.concatenate(kept), lengths[first:after]
            kept, since, first = [], words, after
    if kept:
        yield np.concatenate(kept), lengths[first:]


_DECODED = 50_000  # words whose logits are kept until they are decoded: a few megabytes


def score(config: Config, folder: str | Path, split: str) -> Score | None:
    """Score the adapter in ``folder`` on ``split`` (train, dev or test); None if the split has no sentences.

    An adapter is scored on the base model that this process keeps.

    Raises:
        OutOfMemoryError: the model or one sentence does not fit into memory.
        UserError: the data or the adapter cannot be loaded.
    """
    _, data = prepare(config)
    training = config.training
    evaluation = Evaluation.of(data, split, training.eval_batch_tokens, decoding=config.model.decoding)
    if len(evaluation.lengths) == 0:
        return None
    with (
        name_memory_errors("the model", "free memory on the device"),
        lend_trained(folder) as trained,
        quick_attention(trained.model, config),
    ):
        evaluation = replace(evaluation, precision=usable_precision(trained.model, training.precision))
        tags = evaluation.predict(trained.model, int(trained.tokenizer.pad_token_id or 0))
    counts = sentence_counts(evaluation.gold, tags, evaluation.lengths, evaluation.labels)
    return Score(evaluation.score(tags), counts, tags)
