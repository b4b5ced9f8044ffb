"""Which rows make a batch, in which order."""

import numpy as np
import torch
from accelerate import skip_first_batches
from torch.utils.data import BatchSampler
from transformers import TrainingArguments

from mistral_ner.training.inputs.batches import ByLength, batches_by_tokens, buffers, choose_width, collate
from mistral_ner.training.trainer import NerTrainer

LENGTHS = np.random.default_rng(0).integers(3, 90, size=1003).tolist()


def row(length):
    return {"input_ids": list(range(length)), "labels": [1] * length}


def epoch(number, seed=1, lengths=LENGTHS, size=8):
    sampler = ByLength(lengths, size, seed)
    sampler.set_epoch(number)
    return list(BatchSampler(sampler, size, drop_last=False))


def padded(batches):
    return sum(len(batch) * max(LENGTHS[index] for index in batch) for batch in batches)


class Rows:
    lengths = np.array(LENGTHS[:21])

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        return {**row(self.lengths[index]), "input_ids": [index] * self.lengths[index]}


def test_trainer_goes_through_the_batches_of_the_epoch_it_names(tmp_path):
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, data_seed=1, report_to=[], dataloader_pin_memory=False
    )
    trainer = NerTrainer(
        evaluation=None, pad_id=0, model=torch.nn.Linear(1, 1), args=arguments, train_dataset=Rows(), callbacks=[]
    )
    loader = trainer.get_train_dataloader()
    for number in (0, 2):
        loader.set_epoch(number)
        seen = [batch["input_ids"][:, 0].tolist() for batch in loader]
        assert seen == epoch(number, lengths=Rows.lengths)
    loader.set_epoch(2)
    assert [batch["input_ids"][:, 0].tolist() for batch in skip_first_batches(loader, 2)] == seen[2:]


def test_every_row_once_an_epoch():
    batches = epoch(0)
    assert sorted(index for batch in batches for index in batch) == list(range(len(LENGTHS)))
    assert [len(batch) for batch in batches] == [8] * 125 + [3]


def test_little_is_padded():
    shuffled = np.random.default_rng(1).permutation(len(LENGTHS))
    plain = [shuffled[at : at + 8].tolist() for at in range(0, len(LENGTHS), 8)]
    assert padded(epoch(0)) < 1.12 * sum(LENGTHS) < 1.5 * sum(LENGTHS) < padded(plain)


def test_order_follows_from_seed_and_epoch_alone():
    torch.manual_seed(0)
    first = epoch(3)
    torch.manual_seed(99)
    np.random.seed(5)
    assert epoch(3) == first
    assert epoch(4) != first
    assert epoch(3, seed=2) != first


def test_epochs_mix_rows_also_in_a_small_data_set():
    mates = [{frozenset(batch) for batch in epoch(number, lengths=LENGTHS[:100])} for number in range(5)]
    assert len(set.union(*mates)) > 4 * 13, "the same rows meet in every epoch"


def test_lengths_do_not_come_in_order():
    longest = [max(LENGTHS[index] for index in batch) for batch in epoch(0)]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.4


def test_fewer_rows_than_a_batch():
    assert sorted(epoch(0, lengths=[5, 6, 7])[0]) == [0, 1, 2]


def test_batches_by_tokens_hold_no_more_than_that():
    rows = [row(length) for length in [*LENGTHS[:200], 700]]
    batches = list(batches_by_tokens(rows, 512))
    assert sorted(index for batch in batches for index in batch) == list(range(201))
    assert batches[0] == [200], "a row longer than a batch is one of its own"
    assert all(len(batch) * len(rows[batch[0]]["input_ids"]) <= 512 for batch in batches[1:])
    assert sum(len(batch) * len(rows[batch[0]]["input_ids"]) for batch in batches) < 1.1 * sum(LENGTHS[:200]) + 700


def test_a_buffer_depends_on_the_rows_before_it_alone():
    rows = [row(length) for length in LENGTHS]
    whole = list(buffers(iter(rows), 500))
    assert [one for buffer in whole for one in buffer] == rows
    tokens = [sum(len(one["input_ids"]) for one in buffer) for buffer in whole]
    assert all(500 <= count < 590 for count in tokens[:-1])
    for count in (1, 100, 777):
        some = list(buffers(rows[:count], 500))
        assert some[:-1] == whole[: len(some) - 1]
    assert list(buffers([], 500)) == []


def test_activations_are_padded_like_ids():
    rows = [{**row(2), "hidden": torch.ones(2, 4)}, {**row(3), "hidden": torch.ones(3, 4)}]
    batch = collate(rows, pad_id=0)
    assert set(batch) == {"inputs_embeds", "attention_mask", "labels"}
    assert batch["inputs_embeds"].shape == (2, 3, 4)
    assert batch["inputs_embeds"][0, 2].abs().sum() == 0
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_a_batch_is_as_wide_as_a_multiple_of_eight_within_the_model_s_positions():
    assert [choose_width(longest, None) for longest in (1, 8, 9, 500)] == [8, 8, 16, 504]
    assert [choose_width(longest, 500) for longest in (9, 495, 497, 500)] == [16, 496, 500, 500]
    assert choose_width(13, 0) == 13, "no room for padding"
    batch = collate([row(2), row(3)], pad_id=7, limit=None)
    assert {name: tuple(values.shape) for name, values in batch.items()} == dict.fromkeys(batch, (2, 8))
    assert batch["input_ids"][1].tolist() == [0, 1, 2, 7, 7, 7, 7, 7]
    assert batch["labels"][1].tolist() == [1, 1, 1, *[-100] * 5]
    assert batch["attention_mask"].sum(1).tolist() == [2, 3]
