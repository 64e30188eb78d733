import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import END, END_OF_TEXT, make_model

from gptft.models.logits import supervised_logits
from gptft.tasks import TASKS
from gptft.tasks.pretraining import document_ids, pack_rows
from gptft.training.batching import Collator


def documents_of(lengths: list[int]) -> list[dict[str, list[int]]]:
    """Documents whose tokens are all different, so that each can be told by its id alone."""
    numbers = iter(range(1_000_000))
    return [{"ids": [next(numbers) for _ in range(length)]} for length in lengths]


@given(st.lists(st.integers(1, 60), max_size=25), st.integers(2, 40))
@settings(deadline=None, max_examples=200)
def test_every_token_but_a_documents_first_is_a_target_exactly_once(lengths, max_length):
    documents = documents_of(lengths)
    rows = list(pack_rows(documents, max_length))  # pyright: ignore
    targets = [label for row in rows for label in row["labels"] if label != -100]
    assert targets == [token for document in documents for token in document["ids"][1:]]
    for row in rows:
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["position_ids"]) == row["length"] <= max_length
        assert row["supervised"] == sum(label != -100 for label in row["labels"])
        starts = [index for index, position in enumerate(row["position_ids"]) if position == 0]
        assert starts[0] == 0
        for start, stop in zip(starts, [*starts[1:], row["length"]], strict=True):
            piece = row["input_ids"][start:stop]
            # One document's neighbouring tokens, counted from 0, its first no target.
            assert row["position_ids"][start:stop] == list(range(len(piece)))
            assert piece == list(range(piece[0], piece[0] + len(piece)))
            assert row["labels"][start:stop] == [-100, *piece[1:]]
    # Full, but for the place where only a document's first token would stand; the tail is kept.
    assert all(row["length"] >= max_length - 1 for row in rows[:-1])


def test_packed_logits_equal_unpacked(tokenizer):
    model = make_model()
    documents = [document_ids(tokenizer, text, None) for text in ("a first one", "the second", "third", "4")]
    row = next(pack_rows([{"ids": ids} for ids in documents], 128))  # pyright: ignore
    other = {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "position_ids": [0, 1, 2]}
    # A second, shorter row: its padding must not matter either.
    logits, targets, _ = supervised_logits(model, Collator(END)([row, other]))
    alone = [model(input_ids=torch.tensor([ids])).logits[0, :-1] for ids in [*documents, [1, 2, 3]]]
    torch.testing.assert_close(logits, torch.cat(alone), rtol=0, atol=1e-5)
    assert targets.tolist() == [token for ids in [*documents, [1, 2, 3]] for token in ids[1:]]
    without_positions = {name: row[name] for name in ("input_ids", "labels")}
    leaking, _, _ = supervised_logits(model, Collator(END)([without_positions]))
    assert (leaking - torch.cat(alone[:-1])).abs().max() > 1e-3


def test_a_document_does_not_change_its_neighbours_logits(tokenizer):
    model = make_model().train()  # where a cache and masks are made differently
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    second = document_ids(tokenizer, "the second document", None)
    logits = []
    for first in ("one beginning", "another start"):
        row = next(pack_rows([{"ids": document_ids(tokenizer, first, None)}, {"ids": second}], 64))  # pyright: ignore
        logits.append(supervised_logits(model, Collator(END)([row]))[0][-len(second) + 1 :])
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-6)


def test_documents_end_once_and_only_at_their_end(tokenizer):
    assert document_ids(tokenizer, "ab", None)[-1] == END
    assert document_ids(tokenizer, "ab", None).count(END) == 1
    smuggled = document_ids(tokenizer, f"a{END_OF_TEXT}b", None)
    assert smuggled.count(END) == 1
    assert tokenizer.decode(smuggled) == f"a{END_OF_TEXT}b{END_OF_TEXT}"
    dialogue = document_ids(
        tokenizer, None, [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    )
    assert tokenizer.decode(dialogue) == f"User:\nhi\nAssistant:\nyes{END_OF_TEXT}"


def test_a_split_becomes_rows_and_counts(tokenizer, own_cache):
    texts = ["some text", "é日本", "", "x" * 100]
    dataset = Dataset.from_dict({"text": texts, "messages": [None] * 4, "origin": [f"t:{n}" for n in range(4)]})
    rows, preparation = TASKS["pretraining"]().prepare(dataset, tokenizer, 32, "train", "fingerprint")
    size = [len(text.encode()) + 1 for text in texts]
    assert preparation.rows == 4 and preparation.dropped == 0
    assert preparation.supervised_tokens == sum(size) - len(size) == sum(rows["supervised"])
    assert preparation.tokens == sum(rows["length"]) == sum(len(row["input_ids"]) for row in rows)
    assert preparation.examples == len(rows)
