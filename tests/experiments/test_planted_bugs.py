"""The bench of the debugging lab: what is right reaches the limit, and each planted bug shows its symptom."""

import math

import numpy as np
import pytest
import torch

from plm_tutorial.experiments import planted_bugs as lab

STEPS = 120


@pytest.fixture(scope="module")
def bench():
    source = lab.symbol_source(0)
    return source.entropy_rate(), lab.symbol_batches(source, STEPS)


def end_of(data, *, model=None, **parts):
    torch.manual_seed(0)
    return float(np.mean(lab.train(model or lab.TinyModel(), data, **parts)[-30:]))


def test_what_is_right_ends_near_the_entropy_and_not_below(bench):
    entropy, symbols = bench
    assert entropy - 0.05 < end_of(symbols) < entropy + 0.25


def test_what_is_too_good_is_below_the_entropy(bench):
    entropy, symbols = bench
    assert end_of(symbols, loss=lab.token_loss) < 0.1 * entropy
    assert end_of(symbols, model=lab.TinyModel(lab.lower_triangle)) < 0.3 * entropy
    assert end_of(lab.padded_batches(symbols), loss=lab.mean_loss) < 0.9 * entropy


def test_what_is_not_good_enough_stays_above(bench):
    entropy, symbols = bench
    pairs = lambda model, ids: lab.pairs_loss(model, *lab.make_pairs(ids))  # noqa: E731
    assert end_of(symbols, loss=pairs) > entropy + 0.3
    assert end_of(symbols, loss=lab.probability_loss) > math.log(math.e + lab.VOCABULARY - 1) - 1
    assert end_of(symbols, step=lab.plain_step) > entropy + 0.3
    assert end_of(symbols, prepare=lab.adam_for_head) > entropy + 0.5


def test_padded_rows_keep_their_beginning():
    rows = lab.symbol_batches(lab.symbol_source(1), 3, size=5)
    padded = lab.padded_batches(rows, shortest=4)
    real = padded != lab.PAD
    assert (padded[real] == rows[real]).all() and real[..., :4].all() and not real.all()
    assert (real.int().diff(dim=-1) <= 0).all()  # once padding, always padding


def test_variants_miss_one_word_each():
    variants, origin = lab.augment(["a b c", "d e"], copies=4)
    assert origin.tolist() == [0] * 4 + [1] * 4
    assert {len(one.split()) for one in variants[:4]} == {2} and set(variants[4:]) <= {"d", "e"}


def test_a_wrong_number_of_tokens_is_refused(tmp_path):
    from plm_tutorial.records import artifact_file
    from plm_tutorial.tokenizers import train_fast_bpe

    train_fast_bpe(["some text"], 260).save(str(tmp_path / "other.json"))
    with pytest.raises(ValueError, match="does not belong"):
        lab.open_model(artifact_file("reviews_causal", "config.json").parent, tmp_path / "other.json")
