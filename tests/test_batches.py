"""The file of tokens, the order of batches, masking and span corruption."""

import json
from collections import Counter

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_tutorial.batches import Batches, Masking, PackedRows, SpanCorruption, TextRows, TokenFile, write_tokens
from plm_tutorial.objectives import IGNORED

END = 9


@pytest.fixture(scope="module")
def tokenizer():
    words = {str(i): i for i in range(END)} | {"<end>": END}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return made


DOCUMENTS = ["1 2 3", "4", "5 6 7 8 1 2 3 4 5 6 7", "", "8 8"]
IDS = [1, 2, 3, END, 4, END, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, END, END, 8, 8, END]


@pytest.fixture
def file(tokenizer, tmp_path):
    return write_tokens(iter(DOCUMENTS), tokenizer, tmp_path / "tokens", end_id=END, at_once=2)


# ---- the file


def test_documents_lie_end_to_end(file):
    assert file.tokens.tolist() == IDS and file.tokens.dtype == np.uint16
    assert file.starts.tolist() == [0, 4, 6, 18, 19, 22]
    assert isinstance(file.tokens, np.memmap)
    again = TokenFile.open(file.path)
    assert again.tokens.tolist() == IDS and again.sha256 == file.sha256 and again.vocab_size == 10


def test_an_interruption_leaves_nothing_behind_and_the_old_file_intact(file, tokenizer):
    def broken():
        yield "1 2"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(broken(), tokenizer, file.path, end_id=END, at_once=1)
    assert TokenFile.open(file.path).tokens.tolist() == IDS
    assert [p.name for p in file.path.parent.iterdir()] == ["tokens"]


def test_what_the_file_of_tokens_refuses(tokenizer, tmp_path, file):
    with pytest.raises(ValueError, match="there are no texts to tokenize"):
        write_tokens([], tokenizer, tmp_path / "none", end_id=END)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="end_id is 10; the tokenizer's ids go from 0 to 9"):
        write_tokens(["1"], tokenizer, tmp_path / "none", end_id=10)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="exists and is no file of tokens"):
        write_tokens(["1"], tokenizer, tmp_path / "other", end_id=END)
    with pytest.raises(ValueError, match="is no file of tokens"):
        TokenFile.open(tmp_path / "nowhere")
    with open(file.path / "tokens.bin", "ab") as stream:
        stream.write(b"\0\0")
    with pytest.raises(ValueError, match="should hold 22 tokens of 5 documents and has 23 of 5: it is damaged"):
        TokenFile.open(file.path)
    (file.path / "tokens.json").write_text(json.dumps({"dtype": "uint16"}))
    with pytest.raises(ValueError, match="is no file of tokens"):
        TokenFile.open(file.path)


# ---- rows


def test_rows_hold_tokens_and_their_successors(file):
    rows = PackedRows(file, 5)
    assert len(rows) == 4
    batch = rows.batch(np.array([0, 3]))
    assert batch["input_ids"].tolist() == [IDS[0:5], IDS[15:20]]
    assert batch["labels"].tolist() == [IDS[1:6], IDS[16:21]]
    assert batch.keys() == {"input_ids", "labels"}


def test_separate_documents_see_and_predict_nothing_of_each_other(file):
    batch = PackedRows(file, 5, separate=True).batch(np.array([0]))
    assert batch["input_ids"].tolist() == [[1, 2, 3, END, 4]]
    assert batch["labels"].tolist() == [[2, 3, END, IGNORED, END]]
    assert batch["attention_mask"][0].tolist() == [[1, 1, 1, 1, 0]] * 4 + [[0, 0, 0, 0, 1]]


def test_rows_need_enough_tokens(file):
    with pytest.raises(ValueError, match="rows of 22 tokens cannot be cut from 22"):
        PackedRows(file, 22)
    assert len(PackedRows(file, 21)) == 1


# ---- the order of batches


def _seen(batches, steps):
    return [tuple(batches[step]["input_ids"].flatten().tolist()) for step in steps]


def test_an_epoch_holds_each_row_once_and_the_next_has_another_order(tmp_path, tokenizer):
    words = [" ".join(str(c) for c in np.random.default_rng(i).integers(1, 9, 7)) for i in range(50)]
    rows = PackedRows(write_tokens(words, tokenizer, tmp_path / "t", end_id=END), 4)
    batches = Batches(rows, 3, seed=1)
    n = len(rows)
    flat = [tuple(r) for step in range(n) for r in batches[step]["input_ids"].tolist()]  # 3 epochs
    whole = Counter(tuple(rows.batch(np.array([i]))["input_ids"][0].tolist()) for i in range(n))
    epochs = [flat[i * n : (i + 1) * n] for i in range(3)]
    assert all(Counter(epoch) == whole for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert _seen(Batches(rows, 3, seed=2), range(5)) != _seen(batches, range(5))


def test_a_batch_depends_on_seed_and_step_alone(file):
    masking = Masking(mask_id=0, vocab_size=10, rate=0.5)
    straight = Batches(PackedRows(file, 3), 2, seed=3, change=masking)
    all_in_order = [straight[step] for step in range(9)]
    fresh = Batches(PackedRows(file, 3), 2, seed=3, change=masking)
    for step in (7, 2, 8, 0):
        for name, value in fresh[step].items():
            assert torch.equal(value, all_in_order[step][name])


def test_processes_share_each_batch_between_them(file):
    masking = Masking(mask_id=0, vocab_size=10, rate=0.5)
    whole = Batches(PackedRows(file, 3), 4, change=masking)
    parts = [Batches(PackedRows(file, 3), 4, change=masking, rank=rank, world=2) for rank in range(2)]
    for step in range(5):
        for name, value in whole[step].items():
            assert torch.equal(torch.cat([part[step][name] for part in parts]), value)
    with pytest.raises(ValueError, match="a batch of 3 rows cannot be split evenly over 2 processes"):
        Batches(PackedRows(file, 3), 3, world=2)


# ---- masking


def test_masking_hides_the_share_that_it_says_in_three_ways():
    ids = torch.randint(5, 1000, (200, 100), generator=torch.Generator().manual_seed(0))
    out = Masking(mask_id=4, vocab_size=1000, special_ids=range(5))({"input_ids": ids}, torch.Generator())
    chosen = out["labels"] != IGNORED
    assert torch.equal(out["labels"][chosen], ids[chosen])
    assert torch.equal(out["input_ids"][~chosen], ids[~chosen])
    assert float(chosen.float().mean()) == pytest.approx(0.15, abs=0.01)
    hidden = out["input_ids"][chosen]
    masked, kept = (hidden == 4).float().mean(), (hidden == ids[chosen]).float().mean()
    assert float(masked) == pytest.approx(0.8, abs=0.03)
    assert float(kept) == pytest.approx(0.1, abs=0.02)
    assert not torch.isin(hidden[hidden != 4], torch.arange(5)).any()


def test_special_tokens_and_padding_are_never_hidden():
    ids = torch.tensor([[1, 7, 8, 2, 0, 0]]).repeat(200, 1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]]).repeat(200, 1)
    masking = Masking(mask_id=3, vocab_size=10, special_ids=(1, 2), rate=0.9)
    labels = masking({"input_ids": ids, "attention_mask": mask}, torch.Generator().manual_seed(0))["labels"]
    assert (labels[:, 1:3] != IGNORED).any() and (labels[:, [0, 3, 4, 5]] == IGNORED).all()


def test_whole_words_are_hidden_together():
    continues = torch.zeros(10, dtype=torch.bool)
    continues[7:] = True
    ids = torch.tensor([[1, 7, 8, 2, 3, 9, 4, 5, 6, 7]]).repeat(300, 1)
    masking = Masking(mask_id=0, vocab_size=10, continues=continues, rate=0.3)
    chosen = masking({"input_ids": ids}, torch.Generator().manual_seed(0))["labels"] != IGNORED
    for word in ((0, 1, 2), (4, 5), (8, 9)):
        assert (chosen[:, word].all(1) | ~chosen[:, word].any(1)).all()
    assert float(chosen[:, 0].float().mean()) == pytest.approx(0.3, abs=0.08)


def test_masking_refuses_senseless_shares():
    for wrong in ({"rate": 0}, {"rate": 1.5}, {"keep": 0.6, "random": 0.6}, {"keep": -0.1}):
        with pytest.raises(ValueError, match="expected a rate above 0 and at most 1"):
            Masking(mask_id=0, vocab_size=10, **wrong)
    with pytest.raises(ValueError, match=r"continues has shape \(3,\); expected \(10,\)"):
        Masking(mask_id=0, vocab_size=10, continues=torch.zeros(3, dtype=torch.bool))


# ---- span corruption


@settings(deadline=None, max_examples=60)
@given(length=st.integers(2, 60), rate=st.floats(0.05, 0.6), mean=st.floats(1, 5), seed=st.integers(0, 2**31))
def test_input_and_target_together_give_the_text_back(length, rate, mean, seed):
    sentinels = tuple(range(1000, 1060))
    ids = torch.randint(2, 900, (3, length), generator=torch.Generator().manual_seed(seed))
    corrupt = SpanCorruption(sentinels, end_id=1, start_id=0, rate=rate, mean_length=mean)
    batch = corrupt({"input_ids": ids}, torch.Generator().manual_seed(seed))
    for row, inputs, labels in zip(ids.tolist(), batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        assert inputs[-1] == labels[-1] == 1
        spans, current = {}, None
        for token in labels[:-1]:
            if token >= 1000:
                spans[current := token] = []
            else:
                spans[current].append(token)
        restored = []
        for token in inputs[:-1]:
            restored += spans[token] if token >= 1000 else [token]
        assert restored == row
        assert list(spans) == list(sentinels[: len(spans)]) and all(spans.values())
        noise = sum(map(len, spans.values()))
        assert noise == min(max(round(length * rate), 1), length - 1)
    assert batch["decoder_input_ids"].tolist() == [[0, *labels[:-1]] for labels in batch["labels"].tolist()]


def test_too_few_sentinels_are_refused():
    corrupt = SpanCorruption((50, 51), end_id=1, start_id=0)
    with pytest.raises(ValueError, match="a row of 100 tokens needs 5 sentinels, 2 are there"):
        corrupt({"input_ids": torch.ones(1, 100, dtype=torch.int64)}, torch.Generator())


# ---- texts with labels

TEXTS = ["1 2 3", "4", "5 6 7 8 1 2 3 4 5 6", "", "8 8"]
CLASSES = [0, 1, 2, 0, 1]


@pytest.fixture(scope="module")
def classifier_tokenizer(tokenizer):
    """The same words between two special tokens."""
    made = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    made.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])  # 10, 11, 12
    made.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $0 [SEP]", None, [("[CLS]", 10), ("[SEP]", 11)]
    )
    return made


def test_texts_stand_in_the_tokenizers_template_and_are_padded_on_the_right(classifier_tokenizer):
    rows = TextRows(TEXTS, CLASSES, classifier_tokenizer, 20)
    assert len(rows) == 5 and rows.lengths.tolist() == [5, 3, 12, 2, 4] and rows.n_cut == 0
    batch = rows.batch(np.array([0, 3, 1]))
    assert batch["input_ids"].tolist() == [[10, 1, 2, 3, 11], [10, 11, 12, 12, 12], [10, 4, 11, 12, 12]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [0, 0, 1] and all(value.dtype == torch.int64 for value in batch.values())
    expected = [classifier_tokenizer.encode(text).ids for text in TEXTS]
    for i, ids in enumerate(expected):
        assert rows.batch(np.array([i]))["input_ids"].tolist() == [ids]
    assert TextRows(TEXTS, None, classifier_tokenizer, 20).batch(np.array([0])).keys() == {
        "input_ids",
        "attention_mask",
    }
    assert TextRows(["1"], [0], classifier_tokenizer, 9, pad_id=7).pad_id == 7


@pytest.mark.parametrize(
    ("cut", "kept"),
    [("head", [5, 6, 7, 8, 1, 2, 3, 4]), ("tail", [7, 8, 1, 2, 3, 4, 5, 6]), ("both", [5, 6, 1, 2, 3, 4, 5, 6])],
)
def test_a_long_text_is_cut_before_the_template(classifier_tokenizer, cut, kept):
    rows = TextRows(TEXTS, CLASSES, classifier_tokenizer, 10, cut=cut)
    assert rows.batch(np.array([2]))["input_ids"].tolist() == [[10, *kept, 11]]
    assert rows.n_cut == 1 and rows.lengths.max() == 10
    assert rows.batch(np.array([0]))["input_ids"].tolist() == [[10, 1, 2, 3, 11]]


def test_heads_are_cut_as_the_tokenizers_library_and_embed_cut_them():
    from plm_tutorial import load_tokenizer, text

    tokenizer, reviews = load_tokenizer("minilm"), list(text.reviews("rotten_tomatoes", "test")["text"][:50])
    rows = TextRows(reviews, None, tokenizer, 16)
    tokenizer.enable_truncation(16)
    expected = [encoding.ids for encoding in tokenizer.encode_batch(reviews)]
    assert [rows.batch(np.array([i]))["input_ids"][0].tolist() for i in range(50)] == expected
    assert rows.pad_id == 0 and 0 < rows.n_cut < 50


def test_all_rows_come_once_by_length(classifier_tokenizer):
    rows = TextRows(TEXTS, CLASSES, classifier_tokenizer, 20)
    found = list(rows.by_length(2))
    assert [chosen.tolist() for chosen, _ in found] == [[2, 0], [4, 1], [3]]
    assert [batch["input_ids"].shape for _, batch in found] == [(2, 12), (2, 4), (1, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": "1 2"}, "texts is a single str, or empty; expected a list"),
        ({"texts": []}, "texts is a single str, or empty"),
        ({"cut": "middle"}, "cut is 'middle'; implemented here: head, tail, both"),
        ({"length": 2}, "length is 2; expected more than the 2 of the template"),
        ({"labels": [0, 1]}, r"labels have shape \(2,\) and type int64; expected 5 whole numbers"),
        ({"labels": [0.5] * 5}, r"labels have shape \(5,\) and type float64"),
        ({"labels": [0, 1, -1, 0, 0]}, "label 2 is -1; expected a class, 0 or more, or -100"),
    ],
)
def test_texts_that_are_refused(classifier_tokenizer, options, message):
    given = {"texts": TEXTS, "labels": CLASSES, "tokenizer": classifier_tokenizer, "length": 20} | options
    with pytest.raises(ValueError, match=message):
        TextRows(**given)


def test_tokenizers_that_text_rows_refuse(tokenizer, classifier_tokenizer):
    with pytest.raises(ValueError, match="text 3 has no tokens, and the tokenizer adds none: leave it out"):
        TextRows(TEXTS, CLASSES, tokenizer, 20)
    assert TextRows(TEXTS[:3], CLASSES[:3], tokenizer, 20).lengths.tolist() == [3, 1, 10]  # without a template
    cutting = tokenizers.Tokenizer.from_str(classifier_tokenizer.to_str())
    cutting.enable_truncation(4)
    with pytest.raises(ValueError, match=r"cuts or pads by itself; first tokenizer.no_truncation\(\)"):
        TextRows(TEXTS, CLASSES, cutting, 20)


# ---- buckets


def _text_rows(tokenizer, n=101, seed=0):
    rng = np.random.default_rng(seed)
    texts = [" ".join(str(c) for c in rng.integers(1, 9, rng.integers(1, 40))) for _ in range(n)]
    return TextRows(texts, list(range(n)), tokenizer, 64)


def _padding(batches, steps):
    masks = [batches[step]["attention_mask"] for step in range(steps)]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


@pytest.mark.parametrize("bucket", [0, 1, 4, 100])
@pytest.mark.parametrize(("n", "size"), [(101, 8), (96, 8), (5, 8), (3, 2)])
def test_an_epoch_of_buckets_holds_each_row_once(classifier_tokenizer, bucket, n, size):
    batches = Batches(_text_rows(classifier_tokenizer, n), size, seed=1, bucket=bucket)
    seen = [label for step in range(n) for label in batches[step]["labels"].tolist()]  # `size` epochs
    epochs = [seen[i * n : (i + 1) * n] for i in range(size)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert n < 5 or epochs[0] != epochs[1]


def test_buckets_are_a_function_of_seed_and_step(classifier_tokenizer):
    rows = _text_rows(classifier_tokenizer)
    straight = Batches(rows, 8, seed=3, bucket=4)
    in_order = [straight[step]["labels"].tolist() for step in range(40)]
    fresh = Batches(rows, 8, seed=3, bucket=4)
    assert [fresh[step]["labels"].tolist() for step in (33, 7, 0, 39, 12)] == [in_order[s] for s in (33, 7, 0, 39, 12)]
    assert [Batches(rows, 8, seed=4, bucket=4)[s]["labels"].tolist() for s in range(5)] != in_order[:5]
    parts = [Batches(rows, 8, seed=3, bucket=4, rank=rank, world=2) for rank in range(2)]
    assert [*parts[0][9]["labels"].tolist(), *parts[1][9]["labels"].tolist()] == in_order[9]


def test_buckets_save_padding_also_in_later_epochs(classifier_tokenizer):
    rows = _text_rows(classifier_tokenizer, 1003)
    plain, few, many = (_padding(Batches(rows, 16, bucket=bucket), 250) for bucket in (0, 8, 100))
    assert plain > 0.4 and few < 0.15 and many < few
    lengths = [batch["input_ids"].size(1) for batch in (Batches(rows, 16, bucket=8)[step] for step in range(20))]
    assert lengths != sorted(lengths)  # short and long batches are mixed


def test_buckets_that_are_refused(classifier_tokenizer, file):
    with pytest.raises(ValueError, match="bucket is -1; expected 0 or more"):
        Batches(_text_rows(classifier_tokenizer), 8, bucket=-1)
    with pytest.raises(ValueError, match="bucket is 4; expected 0 or more, and 0 for rows that are all equally long"):
        Batches(PackedRows(file, 3), 2, bucket=4)
