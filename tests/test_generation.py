"""Choosing tokens, and the loop around a decoder: on logits by hand, against transformers, small models, SmolLM2."""

import math

import pytest
import torch
import transformers

from plm_tutorial import load_model, load_tokenizer
from plm_tutorial.generation import (
    choose,
    generate,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repeats,
    process_logits,
    stream,
)
from plm_tutorial.models import Bert, BertConfig, Llama, LlamaConfig

INF = float("inf")
LOGITS = torch.tensor(
    [[0.1, 0.4, 0.2, 0.3], [0.7, 0.05, 0.05, 0.2]]
).log()  # probabilities that can be added in the head


@pytest.fixture(scope="module")
def model() -> Llama:
    torch.manual_seed(0)
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_head": 8, "d_hidden": 48}
    return Llama(LlamaConfig(vocab_size=40, context_length=32, init_std=0.5, **shape)).eval()


def _kept(logits):
    return [[i for i, x in enumerate(row) if x > -INF] for row in logits.tolist()]


def _frequencies(**options):
    draw = torch.Generator().manual_seed(0)
    tokens = choose(LOGITS[:1].expand(20000, 4), generator=draw, **options)
    return (torch.bincount(tokens, minlength=4) / 20000).tolist()


# ---- filters and choice


def test_top_k():
    assert _kept(keep_top_k(LOGITS, 2)) == [[1, 3], [0, 3]]
    assert _kept(keep_top_k(LOGITS, 1)) == [[1], [0]]
    assert torch.equal(keep_top_k(LOGITS, 9), LOGITS)
    assert _kept(keep_top_k(LOGITS, 3))[1] == [0, 1, 2, 3]  # two are equal: neither is preferred


def test_top_p_keeps_the_fewest_that_reach_p():
    for p, kept in ((0.3, [[1], [0]]), (0.65, [[1, 3], [0]]), (0.75, [[1, 2, 3], [0, 3]]), (1.0, [[0, 1, 2, 3]] * 2)):
        assert _kept(keep_top_p(LOGITS, p)) == kept


def test_min_p_keeps_what_is_near_the_likeliest():
    for p, kept in ((0.6, [[1, 3], [0]]), (0.2, [[0, 1, 2, 3], [0, 3]]), (0.01, [[0, 1, 2, 3]] * 2), (1.0, [[1], [0]])):
        assert _kept(keep_min_p(LOGITS, p)) == kept


def test_a_penalty_makes_what_has_occurred_less_likely_once():
    logits, ids = torch.tensor([[2.0, -2.0, 0.0, 3.0, -1.0]]), torch.tensor([[0, 1, 1, 2]])
    assert penalize_repeats(logits, ids, 2.0).tolist() == [[1.0, -4.0, 0.0, 3.0, -1.0]]
    assert penalize_repeats(logits, ids, 0.5).tolist() == [[4.0, -1.0, 0.0, 3.0, -1.0]]
    assert torch.equal(penalize_repeats(logits, ids, 1.0), logits)
    counted = torch.tensor([[0, 1, 0, 1]])
    assert penalize_repeats(logits, ids, 2.0, counted).tolist() == [[2.0, -4.0, 0.0, 3.0, -1.0]]


def test_filters_leave_their_input_and_what_they_keep_alone():
    before = LOGITS.clone()
    for out in (keep_top_k(LOGITS, 2), keep_top_p(LOGITS, 0.65), keep_min_p(LOGITS, 0.6)):
        assert torch.equal(out[out > -INF], LOGITS[out > -INF])
    assert torch.equal(LOGITS, before)


ALL = {"repetition_penalty": 1.3, "temperature": 0.7, "top_k": 12, "top_p": 0.8, "min_p": 0.1}
TOGETHER = [{name: value} for name, value in ALL.items()] + [{name: ALL[name] for name in pair} for pair in (
    ("temperature", "top_k"), ("temperature", "top_p"), ("temperature", "min_p"), ("top_k", "top_p"),
    ("top_p", "min_p"), ("repetition_penalty", "temperature"), ("repetition_penalty", "min_p"), tuple(ALL),
)]  # fmt: skip


def _processors(**options):
    """The processors of transformers, in the order in which its ``generate`` puts them."""
    config = transformers.GenerationConfig(do_sample=True, **{"top_k": 0} | options)
    config._eos_token_tensor = None
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    return model._get_logits_processor(config, input_ids_seq_length=6, device="cpu", model_kwargs={})


@pytest.mark.parametrize("options", TOGETHER, ids=lambda options: "+".join(options))
def test_processed_logits_equal_transformers(options):
    draw = torch.Generator().manual_seed(0)
    logits, ids = 2 * torch.randn(50, 30, generator=draw), torch.randint(30, (50, 6), generator=draw)
    expected = _processors(**options)(ids, logits.clone())
    out = process_logits(logits, **options, ids=ids)
    assert torch.equal(out.isfinite(), expected.isfinite()) and not torch.equal(out, logits)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(out.softmax(-1), expected.softmax(-1))


def test_each_option_and_their_order_matter():
    """Without any one of them, or with the temperature last, the parity above would fail."""
    draw = torch.Generator().manual_seed(0)
    logits, ids = 2 * torch.randn(50, 30, generator=draw), torch.randint(30, (50, 6), generator=draw)
    together = process_logits(logits, **ALL, ids=ids)
    for name in ALL:
        rest = {other: value for other, value in ALL.items() if other != name}
        assert not torch.equal(process_logits(logits, **rest, ids=ids), together), name
    late = process_logits(logits, **ALL | {"temperature": 1.0}, ids=ids) / ALL["temperature"]
    assert not torch.equal(late.isfinite(), together.isfinite())
    swapped = keep_top_p(keep_min_p(process_logits(logits, 0.7, 12, repetition_penalty=1.3, ids=ids), 0.1), 0.8)
    assert not torch.equal(swapped.isfinite(), together.isfinite())


def test_padding_does_not_count_as_repeated():
    draw = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(2, 30, generator=draw), torch.tensor([[5, 6, 7], [0, 0, 8]])
    mask = torch.tensor([[1, 1, 1], [0, 0, 1]])
    reference = transformers.RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=torch.tensor([0, 2]))
    out = process_logits(logits, repetition_penalty=1.5, ids=ids, counted=mask)
    torch.testing.assert_close(out, reference(ids, logits.clone()))
    assert not torch.equal(out, process_logits(logits, repetition_penalty=1.5, ids=ids))


def test_temperature_0_leaves_the_likeliest_whatever_the_filters():
    filters = {"top_k": 2, "top_p": 0.5, "min_p": 0.5}
    for options in ({}, filters):
        assert process_logits(LOGITS, 0, **options).softmax(-1).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    equal = torch.zeros(1, 3)
    assert process_logits(equal, 0).softmax(-1).tolist() == [[1, 0, 0]], "of equal ones the first, as argmax"
    assert choose(LOGITS, 0, repetition_penalty=9.0, ids=torch.tensor([[1], [0]])).tolist() != [1, 0]


def test_half_precision_is_processed_in_float32():
    logits = torch.randn(4, 200, generator=torch.Generator().manual_seed(0))
    out = process_logits(logits.bfloat16(), 0.7, top_p=0.9)
    assert out.dtype == torch.float32 and torch.equal(out, process_logits(logits.bfloat16().float(), 0.7, top_p=0.9))
    assert process_logits(logits.double()).dtype == torch.float64


def test_greedy_takes_the_likeliest_whatever_the_filters():
    assert choose(LOGITS).tolist() == choose(LOGITS, 0.0, top_k=1, top_p=0.1).tolist() == [1, 0]


def test_draws_follow_the_probabilities():
    probabilities = LOGITS[0].exp()
    for options, expected in (
        ({"temperature": 1.0}, probabilities),
        ({"temperature": 0.5}, probabilities**2),
        ({"temperature": 2.0}, probabilities**0.5),
        ({"temperature": 1.0, "top_k": 2}, probabilities * torch.tensor([0, 1, 0, 1])),
        ({"temperature": 1.0, "top_p": 0.75}, probabilities * torch.tensor([0, 1, 1, 1])),
        ({"temperature": 1.0, "min_p": 0.6}, probabilities * torch.tensor([0, 1, 0, 1])),
        # After the temperature: squared, the first two have 0.83 of the probability, so 0.8 is reached by them.
        ({"temperature": 0.5, "top_p": 0.8}, probabilities**2 * torch.tensor([0, 1, 0, 1])),
    ):
        for seen, p in zip(_frequencies(**options), (expected / expected.sum()).tolist(), strict=True):
            assert abs(seen - p) <= 5 * math.sqrt(p * (1 - p) / 20000), (options, seen, p)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, r"temperature is -1; expected 0 \(greedy\) or a positive number"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 1, "top_k": 0}, "top_k is 0; expected at least 1"),
        ({"temperature": 1, "top_p": 0}, "top_p is 0; expected a probability above 0"),
        ({"temperature": 1, "top_p": 1.5}, "top_p is 1.5; expected a probability"),
        ({"temperature": 0, "top_k": -1}, "top_k is -1; expected at least 1"),
        ({"temperature": 1, "min_p": 0}, "min_p is 0; expected a share above 0 and at most 1, such as 0.1, or None"),
        ({"temperature": 1, "min_p": 1.1}, "min_p is 1.1; expected a share"),
        ({"repetition_penalty": 0, "ids": torch.ones(2, 1).long()}, "repetition_penalty is 0; expected a positive"),
        ({"repetition_penalty": float("inf"), "ids": torch.ones(2, 1).long()}, "repetition_penalty is inf"),
        ({"repetition_penalty": 1.2}, "repetition_penalty is 1.2, but ids is None; pass the tokens so far"),
        ({"repetition_penalty": 1.2, "ids": torch.ones(3, 1).long()}, r"ids have shape \(3, 1\), logits \(2, 4\)"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        choose(LOGITS, **options)


# ---- the loop


def test_greedy_is_the_literal_loop(model):
    ids = torch.tensor([[1, 2, 3], [7, 8, 9]])
    expected = ids
    for _ in range(20):
        with torch.no_grad():
            expected = torch.cat((expected, model(expected)[:, -1].argmax(-1, keepdim=True)), dim=1)
    for use_cache in (True, False):
        out = generate(model, ids, 20, use_cache=use_cache)
        assert torch.equal(out, expected[:, 3:])
    assert out.unique().numel() > 5, "a model that repeats one token would prove little"
    assert not out.requires_grad


def test_a_seed_gives_the_same_draws_with_and_without_cache(model):
    ids = torch.tensor([[1, 2, 3]])

    def draw(seed, **options):
        options |= {"temperature": 1.5, "top_k": 20, "top_p": 0.95, "generator": torch.Generator().manual_seed(seed)}
        return generate(model, ids, 25, **options).tolist()

    assert draw(0) == draw(0) == draw(0, use_cache=False)
    assert draw(0) != draw(1)


def test_stream_yields_as_it_goes(model):
    ids = torch.tensor([[1, 2, 3]])
    tokens = stream(model, ids, 10)
    first = next(tokens)
    assert first.shape == (1,) and torch.equal(torch.stack([first, *tokens], dim=1), generate(model, ids, 10))
    assert torch.is_grad_enabled()  # nothing of the loop's settings leaks between two tokens
    next(stream(model, ids, 10))
    assert torch.is_grad_enabled()


def test_stop_ids_end_each_sequence_by_itself(model):
    ids = torch.tensor([[1, 2, 3], [7, 8, 9]])
    free = generate(model, ids, 20)
    stop = free[0, 4].item()
    ends = [row.index(stop) if stop in row else 19 for row in free.tolist()]
    assert ends[0] <= 4 and ends[0] != ends[1]
    out = generate(model, ids, 20, stop_ids=[stop])
    assert out.shape == (2, max(ends) + 1)
    for row, whole, end in zip(out.tolist(), free.tolist(), ends, strict=True):
        assert row == whole[: end + 1] + [stop] * (max(ends) - end)


def test_prompts_padded_on_the_left_give_what_each_gives_alone(model):
    ids = torch.tensor([[1, 2, 3, 4, 5], [0, 0, 0, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    for use_cache in (True, False):
        out = generate(model, ids, 12, attention_mask=mask, use_cache=use_cache)
        assert torch.equal(out[:1], generate(model, ids[:1], 12)) and torch.equal(
            out[1:], generate(model, ids[1:, 3:], 12)
        )
    assert not torch.equal(out[1:], generate(model, ids[1:], 12)), "without the mask the padding is read as text"


def test_calls_that_are_refused(model):
    one = torch.ones(1, 1, dtype=torch.int64)
    for ids, new, message in (
        (one[:, :0], 5, "the prompt is empty; pass at least one token"),
        (
            one.expand(1, 40),
            5,
            "the prompt is 40 tokens long and 5 more are asked for; the context .* is 32 tokens: cut",
        ),
        (one.expand(1, 30), 5, "30 tokens long and 5 more .* is 32 tokens: cut the prompt, or ask for at most 2"),
        (one, 0, "max_new_tokens is 0; expected at least 1"),
        (one[:0], 1, "the prompt is empty"),
        (one[0], 1, r"input_ids has shape \(1,\) .* expected whole numbers of shape \(B, T\)"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, ids, new)
    assert generate(model, one.expand(1, 30), 2).shape == (1, 2)  # the whole context can be used
    bert = Bert(BertConfig(vocab_size=10, d_model=8, n_layers=1, n_heads=2, d_hidden=8)).eval()
    with pytest.raises(ValueError, match="a Bert does not predict the next token"):
        generate(bert, one, 1)


def test_smollm2_answers():
    """Greedy, from a chat prompt, until the model itself ends its turn; the same without the cache."""
    model, tokenizer = load_model("smollm2", device="cpu"), load_tokenizer("smollm2")
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    end = tokenizer.token_to_id("<|im_end|>")
    out = generate(model, ids, 30, stop_ids=[end])
    assert "Paris" in tokenizer.decode(out[0].tolist())
    assert out[0, -1] == end and end not in out[0, :-1]
    assert torch.equal(out, generate(model, ids, 30, stop_ids=[end], use_cache=False))
