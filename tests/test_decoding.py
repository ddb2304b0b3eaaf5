"""Beam search against transformers and all texts there are; speculative decoding: greedy, and by a chi-square test."""

import itertools
import math

import pytest
import torch
import transformers
from scipy.stats import chisquare
from torch import nn

from plm_tutorial import decoding, load_model
from plm_tutorial.decoding import beam_search, speculate, verify
from plm_tutorial.generation import generate, process_logits
from plm_tutorial.layers import KVCache
from plm_tutorial.models import Bert, BertConfig, Decoder, DecoderConfig, Transformer, TransformerConfig

V, PAD = 24, 23
PROMPTS = torch.tensor([[3, 1, 4, 1, 5], [0, 0, 2, 7, 18]])
STOPS = [[4], [11, 16], [*range(1, 9)], [*range(8, 16)]]
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])


def _decoder(seed, **options):
    torch.manual_seed(seed)
    shape = {"vocab_size": V, "context_length": 32, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_hidden": 24}
    return Decoder(DecoderConfig(**shape | {"init_std": 0.4, "tied": False} | options)).eval()


def _seq2seq(seed=0, vocab_size=V):
    torch.manual_seed(seed)
    shape = {"context_length": 16, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_hidden": 24}
    model = Transformer(TransformerConfig(vocab_size=vocab_size, **shape)).eval()
    # The output layer is the embedding: without this each token would predict itself.
    torch.nn.init.normal_(model.decoder.layers[-1].feed_forward_norm.weight)
    return model


def _shaken(model, folder):
    """Random weights far from uniform predictions, so that texts do not repeat one token; ours and the reference."""
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    model.eval().save_pretrained(folder)
    return load_model(folder, device="cpu"), model


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    reference = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=V, **shape, **heads))
    return _shaken(reference, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    torch.manual_seed(3)
    shape = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(vocab_size=V, decoder_start_token_id=0, tie_word_embeddings=False, **shape)
    reference = transformers.T5ForConditionalGeneration(config)
    reference.lm_head.weight = nn.Parameter(torch.randn(V, 16))
    return _shaken(reference, tmp_path_factory.mktemp("t5"))


def _reference(model, ids, mask, stop=None, **options):
    """What transformers generates, without the prompt or the start; and the scores."""
    options = {"do_sample": False, "max_new_tokens": 9, "pad_token_id": PAD, "eos_token_id": stop} | options
    options |= {"return_dict_in_generate": True, "output_scores": True}
    out = model.generate(ids, attention_mask=mask, **options)
    return out.sequences[:, 1 if model.config.is_encoder_decoder else ids.size(1) :], out


# ---- one interface to decoders and encoder–decoders


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.5}, {"repetition_penalty": 0.7}])
def test_greedy_equals_transformers(request, family, options):
    ours, reference = request.getfixturevalue(family)
    for mask, use_cache in itertools.product((MASK, torch.ones_like(MASK)), (True, False)):
        expected, _ = _reference(reference, PROMPTS, mask, **options)
        out = generate(ours, PROMPTS, 9, attention_mask=mask, use_cache=use_cache, **options)
        assert torch.equal(out, expected)
        if options != {"repetition_penalty": 0.7}:
            assert out.unique().numel() > 4, "a model that repeats one token would prove little"


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_draws_equal_those_of_transformers(request, family):
    """The same options and the same seed give the same tokens: filters, their order, and what counts as repeated."""
    ours, reference = request.getfixturevalue(family)
    options = {"temperature": 1.3, "top_k": 12, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2}
    for seed in range(5):
        torch.manual_seed(seed)
        expected, _ = _reference(reference, PROMPTS, MASK, do_sample=True, **options)
        torch.manual_seed(seed)
        assert torch.equal(generate(ours, PROMPTS, 9, attention_mask=MASK, **options), expected)


def test_the_transformer_of_2017_generates_as_the_literal_loop():
    model, start = _seq2seq(), 2
    written = torch.full((2, 1), start)
    for _ in range(9):
        with torch.no_grad():
            logits = model(PROMPTS, MASK, decoder_input_ids=written)
        written = torch.cat((written, logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    for use_cache in (True, False):
        out = generate(model, PROMPTS, 9, attention_mask=MASK, start_id=start, use_cache=use_cache)
        assert torch.equal(out, written[:, 1:])
    assert not torch.equal(generate(model, PROMPTS, 9, attention_mask=MASK, start_id=3), out)
    assert not torch.equal(generate(model, PROMPTS, 9, start_id=start), out), "the padding is read"


def test_starts_that_are_refused(t5):
    for model, start, message in (
        (_seq2seq(), None, "start_id is None, and the configuration of this Transformer has no decoder_start_id"),
        (_decoder(0), 1, "start_id is 1, but a Decoder goes on from its prompt; leave it out"),
        (t5[0], V, f"decoder: input_ids holds ids from {V} to {V}"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, PROMPTS, 3, start_id=start)
    with pytest.raises(ValueError, match="the start is 1 token long and 16 more .* is 16 tokens: ask for at most 15"):
        generate(_seq2seq(), PROMPTS, 16, start_id=1)
    assert generate(_seq2seq(), PROMPTS, 15, start_id=1).shape == (2, 15)
    assert generate(t5[0], PROMPTS, 600).shape == (2, 600), "T5 has no limit"
    with pytest.raises(ValueError, match="looks both ways"):
        generate(_decoder(0, causal=False), PROMPTS, 1, use_cache=False)


# ---- beam search


def _same(ours, reference, ids, mask, n_beams, stop, use_cache=True, **options):
    """Check that ours equals transformers; return how long the hypotheses are."""
    found = beam_search(
        ours, ids, 9, n_beams, n_best=n_beams, stop_ids=stop, attention_mask=mask, use_cache=use_cache, **options
    )
    sequences, out = _reference(reference, ids, mask, stop, num_beams=n_beams, num_return_sequences=n_beams, **options)
    flat = [hypothesis for each in found for hypothesis in each]
    assert len(flat) == len(sequences)
    for hypothesis, tokens, score in zip(flat, sequences, out.sequences_scores.tolist(), strict=True):
        n = len(hypothesis.tokens)
        assert torch.equal(hypothesis.tokens, tokens[:n]) and (tokens[n:] == PAD).all()
        assert math.isclose(hypothesis.score, score, rel_tol=1e-5)
    return [len(hypothesis.tokens) for hypothesis in flat]


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.6, 1.0, 2.0])
def test_beams_equal_transformers(request, family, early_stopping, length_penalty):
    ours, reference = request.getfixturevalue(family)
    lengths = set()
    for n_beams, stop in itertools.product((2, 3, 5), STOPS):
        options = {"length_penalty": length_penalty, "early_stopping": early_stopping}
        lengths |= set(_same(ours, reference, PROMPTS, MASK, n_beams, stop, n_beams != 3, **options))
    if length_penalty < 2:
        assert len(lengths) > 2, "answers of one length would not show what the penalty does"


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_each_stopping_rule_and_penalty_matters(request, family):
    """Each is another search: the parity above would fail if one were taken for another."""
    (model, _), found = request.getfixturevalue(family), {}
    for rule, penalty in itertools.product((False, True, "never"), (0.0, 1.0)):
        options = {"length_penalty": penalty, "early_stopping": rule, "n_best": 3, "attention_mask": MASK}
        answers = [beam_search(model, PROMPTS, 9, 3, stop_ids=stop, **options) for stop in STOPS]
        found[rule, penalty] = [h.tokens.tolist() for one in answers for each in one for h in each]
    for rule in (False, True, "never"):
        assert found[rule, 0.0] != found[rule, 1.0]
    assert found[False, 1.0] != found[True, 1.0] != found["never", 1.0] != found[False, 1.0]


def test_one_beam_is_greedy_and_all_beams_are_exhaustive():
    small = _decoder(3, vocab_size=4)
    ids = torch.tensor([[1, 2, 3], [3, 0, 0]])
    best = beam_search(small, ids, 6, 1)
    assert torch.equal(torch.stack([one[0].tokens for one in best]), generate(small, ids, 6))
    # As many beams as there are texts of three tokens: nothing is lost, and there are no more than these.
    found = beam_search(small, ids, 3, 80, n_best=80, length_penalty=0.0)
    for b, prompt in enumerate(ids):
        scores = {}
        for tokens in itertools.product(range(4), repeat=3):
            text = torch.cat((prompt, torch.tensor(tokens)))[None]
            with torch.no_grad():
                log_p = small(text).log_softmax(-1)[0, 2:5]
            scores[tokens] = log_p[torch.arange(3), list(tokens)].sum().item()
        expected = sorted(scores, key=lambda t: -scores[t])
        assert [tuple(h.tokens.tolist()) for h in found[b]] == expected
        for h in found[b]:
            assert math.isclose(h.score, scores[tuple(h.tokens.tolist())], abs_tol=1e-5)
    likeliest = [one[0] for one in beam_search(small, ids, 3, 80)]
    greedy = beam_search(small, ids, 3, 1)
    assert any(h.score > one[0].score + 1e-3 for h, one in zip(likeliest, greedy, strict=True))


def test_beams_of_the_transformer_of_2017_are_exhaustive_with_stops():
    """All texts of at most three tokens, which end with token 0 or are cut; the cache and its memory are reordered."""
    model, source = _seq2seq(3, vocab_size=4), torch.tensor([[1, 2, 3, 1], [3, 2, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    texts = [t for n in (1, 2, 3) for t in itertools.product(range(4), repeat=n)]
    texts = [t for t in texts if 0 not in t[:-1] and (t[-1] == 0 or len(t) == 3)]
    for use_cache in (True, False):
        options = {"attention_mask": mask, "start_id": 1, "use_cache": use_cache, "early_stopping": "never"}
        found = beam_search(model, source, 3, 60, n_best=60, stop_ids=[0], length_penalty=0.5, **options)
        for b in range(2):
            scores = {}
            for tokens in texts:
                written = torch.tensor([[1, *tokens[:-1]]])
                with torch.no_grad():
                    logits = model(source[b : b + 1], mask[b : b + 1], decoder_input_ids=written)
                log_p = logits.log_softmax(-1)[0, torch.arange(len(tokens)), list(tokens)].sum().item()
                scores[tokens] = log_p / len(tokens) ** 0.5
            assert [tuple(h.tokens.tolist()) for h in found[b]] == sorted(scores, key=lambda t: -scores[t])
            assert all(math.isclose(h.score, scores[tuple(h.tokens.tolist())], abs_tol=1e-5) for h in found[b])


def test_each_prompt_is_searched_by_itself(llama):
    together = beam_search(llama[0], PROMPTS, 9, 4, n_best=4, stop_ids=[9], attention_mask=MASK)
    for b, alone in enumerate((PROMPTS[:1], PROMPTS[1:, 2:])):
        (expected,) = beam_search(llama[0], alone, 9, 4, n_best=4, stop_ids=[9])
        assert [h.tokens.tolist() for h in together[b]] == [h.tokens.tolist() for h in expected]
    assert torch.is_grad_enabled() and not together[0][0].tokens.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_beams": 0}, "n_beams is 0; expected at least 1"),
        ({"n_best": 4}, "n_best is 4; expected 1 to n_beams, which is 3"),
        ({"n_best": 0}, "n_best is 0; expected 1 to n_beams"),
        ({"length_penalty": float("inf")}, "length_penalty is inf; expected a finite number"),
        ({"early_stopping": "always"}, "early_stopping is 'always'; expected True, False or 'never'"),
        ({"early_stopping": 1}, "early_stopping is 1; expected True, False or 'never'"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"input_ids": PROMPTS[0]}, r"input_ids has shape \(5,\) .* expected whole numbers of shape \(B, T\)"),
        ({"input_ids": PROMPTS[:, :0]}, "the prompt is empty; pass at least one token"),
        ({"max_new_tokens": 28}, "5 tokens long and 28 more .* is 32 tokens: cut the prompt, or ask for at most 27"),
        ({"input_ids": PROMPTS.repeat(1, 8)}, "40 tokens long and 3 more .* is 32 tokens: cut the prompt$"),
    ],
)
def test_searches_that_are_refused(options, message):
    options = {"input_ids": PROMPTS, "max_new_tokens": 3, "n_beams": 3} | options
    with pytest.raises(ValueError, match=message):
        beam_search(_decoder(0), **options)


# ---- speculative decoding


class Markov(nn.Module):
    """A model whose next token depends on the last one alone: its distribution can be written down."""

    def __init__(self, seed, vocab_size=4):
        super().__init__()
        self.config = type("Config", (), {"vocab_size": vocab_size})()
        self.table = 1.5 * torch.randn(vocab_size, vocab_size, generator=torch.Generator().manual_seed(seed))

    def new_cache(self):
        return KVCache(1)

    def forward(self, input_ids, attention_mask=None, cache=None, last_only=False):
        return self.table[input_ids]


def _expected(target, n_new, options):
    """The exact probability of each text of n_new tokens after token 0."""
    probs = {}
    for tokens in itertools.product(range(4), repeat=n_new):
        p, ids = 1.0, [0]
        for token in tokens:
            row = process_logits(target.table[ids[-1:]], **options, ids=torch.tensor([ids])).softmax(-1)
            p, ids = p * row[0, token].item(), [*ids, token]
        probs[tokens] = p
    return probs


def _p_value(options, n=3000):
    """Of the hypothesis that speculative decoding draws from the target's distribution."""
    target, draft, rng = Markov(0), Markov(1), torch.Generator().manual_seed(0)
    options = {"temperature": 1.0} | options
    counts = dict.fromkeys(itertools.product(range(4), repeat=3), 0)
    for _ in range(n):
        out = speculate(target, draft, torch.tensor([[0]]), 3, n_draft=2, generator=rng, use_cache=False, **options)
        counts[tuple(out.tokens.tolist())] += 1
    expected = {tokens: n * p for tokens, p in _expected(target, 3, options).items()}
    assert all(counts[tokens] == 0 for tokens, e in expected.items() if e == 0), "an impossible text"
    often = [tokens for tokens, e in expected.items() if e >= 5]
    seen, thought = [counts[t] for t in often], [expected[t] for t in often]
    rest = n - sum(thought)  # the rare ones together
    if rest >= 5:
        seen, thought = [*seen, n - sum(seen)], [*thought, rest]
    else:
        thought = [x * sum(seen) / sum(thought) for x in thought]
    return chisquare(seen, thought).pvalue


FILTERS = {"temperature": 0.8, "top_k": 3, "min_p": 0.05, "repetition_penalty": 1.3}


@pytest.mark.parametrize("options", [{}, FILTERS], ids=["plain", "filters"])
def test_speculative_draws_have_the_targets_distribution(options):
    assert _p_value(options) > 0.01


def _resample_from_the_target(proposed, q, p, generator):
    kept, token = verify(proposed, q, p, generator)
    return kept, token if kept == len(proposed) else torch.multinomial(p[kept], 1, generator=generator)[0]


def _accept_all(proposed, q, p, generator):
    return len(proposed), torch.multinomial(p[-1], 1, generator=generator)[0]


def _accept_by_the_target_alone(proposed, q, p, generator):
    return verify(proposed, torch.ones_like(q), p, generator)


WRONG = [_resample_from_the_target, _accept_all, _accept_by_the_target_alone]


@pytest.mark.parametrize("rule", WRONG)
def test_a_wrong_rule_fails_the_same_test(monkeypatch, rule):
    monkeypatch.setattr(decoding, "verify", rule)
    assert _p_value({}, n=1500) < 1e-6


def test_verify_accepts_as_often_as_the_distributions_overlap():
    """Leviathan et al.: α = Σ min(p, q); what follows a rejection has the rest's distribution."""
    q, p = torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.tensor([[0.4, 0.3, 0.3, 0.0], [0.0, 0.0, 0.0, 1.0]])
    rng, n = torch.Generator().manual_seed(0), 4000
    kept, replaced = 0, [0, 0, 0, 0]
    for guess in torch.multinomial(q[0], n, replacement=True, generator=rng):
        accepted, token = verify(guess[None], q, p, rng)
        kept += accepted
        if accepted:
            assert token == 3 and guess != 3
        else:
            replaced[token] += 1
    assert abs(kept / n - 0.6) <= 5 * math.sqrt(0.6 * 0.4 / n)
    assert replaced[2] == replaced[3] == 0 and abs(replaced[0] / (n - kept) - 0.75) < 0.05
    assert verify(torch.tensor([2]), p[:1], p, rng)[0] == 1, "equal distributions accept all"
    same = torch.tensor([[0.5, 0.5]])
    nothing_left = verify(torch.tensor([0]), same + 1e-7, torch.zeros(2, 2) + same, rng)
    assert nothing_left[1] in (0, 1)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("n_draft", [1, 3, 20])
def test_at_temperature_0_it_is_the_targets_greedy(use_cache, n_draft):
    target, ids = _decoder(0), PROMPTS[:1]
    expected = generate(target, ids, 20)[0]
    near, rng = _decoder(0), torch.Generator().manual_seed(1)
    for parameter in near.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=rng)
    rates = {}
    for name, draft in {"same": target, "near": near, "other": _decoder(5, n_layers=1)}.items():
        out = speculate(target, draft, ids, 20, n_draft, use_cache=use_cache)
        assert torch.equal(out.tokens, expected)
        assert sum(out.accepted) + len(out.accepted) == 20 and len(out.accepted) == len(out.proposed)
        assert all(0 <= kept <= n <= n_draft for kept, n in zip(out.accepted, out.proposed, strict=True))
        rates[name] = out.acceptance_rate
    assert rates["same"] == 1 > rates["near"] > rates["other"]
    assert math.isnan(speculate(target, near, ids, 1, n_draft).acceptance_rate)


def test_greedy_speculation_equals_transformers(llama, tmp_path):
    """Padding, a penalty and stop ids included; the draft is a Llama of one layer."""
    torch.manual_seed(5)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "max_position_embeddings": 64}
    config = transformers.LlamaConfig(vocab_size=V, num_attention_heads=2, **shape)
    draft, _ = _shaken(transformers.LlamaForCausalLM(config), tmp_path)
    ids, mask = PROMPTS[1:].clone(), MASK[1:]
    ids[:, :2] = generate(llama[0], ids, 2, attention_mask=mask)  # padding that a penalty must not count
    for penalty in (None, 1.4):
        free, _ = _reference(llama[1], ids, mask, repetition_penalty=penalty or 1.0)
        for stop in (None, free[0, 4].item()):
            expected, _ = _reference(llama[1], ids, mask, stop, repetition_penalty=penalty or 1.0)
            stops = () if stop is None else (stop,)
            options = {"attention_mask": mask, "stop_ids": stops, "repetition_penalty": penalty}
            for n_draft in (2, 6):
                out = speculate(llama[0], draft, ids, 9, n_draft, **options)
                assert torch.equal(out.tokens, expected[0])
            assert len(expected[0]) < 9 or stop is None


def test_a_seed_gives_the_same_draws_with_and_without_cache():
    target, draft = _decoder(0), _decoder(5, n_layers=1)

    def tokens(seed, **options):
        options |= {"temperature": 1.5, "top_p": 0.95, "generator": torch.Generator().manual_seed(seed)}
        return speculate(target, draft, PROMPTS[:1], 20, 3, **options).tokens.tolist()

    assert tokens(0) == tokens(0) == tokens(0, use_cache=False) != tokens(1)
    assert torch.is_grad_enabled()


def test_encoder_decoders_speculate_too(t5):
    target, draft = _seq2seq(0), _seq2seq(7)
    for source in (PROMPTS[:1], PROMPTS[1:]):
        expected = generate(target, source, 12, start_id=2)[0]
        assert torch.equal(speculate(target, draft, source, 12, start_id=2).tokens, expected)
    expected = generate(t5[0], PROMPTS[1:], 12, attention_mask=MASK[1:])[0]
    for mixed in (t5[0], draft):
        out = speculate(t5[0], mixed, PROMPTS[1:], 12, attention_mask=MASK[1:], start_id=0)
        assert torch.equal(out.tokens, expected)


def test_speculations_that_are_refused():
    target, one = _decoder(0), PROMPTS[:1]
    for draft, ids, options, message in (
        (
            _decoder(0, vocab_size=9),
            one,
            {},
            f"target has a vocabulary of {V} tokens, the draft of 9; expected the same",
        ),
        (target, PROMPTS, {}, r"input_ids has shape \(2, 5\); expected \(1, T\)"),
        (target, one[:, :0], {}, "the prompt is empty"),
        (target, one, {"n_draft": 0}, "n_draft is 0; expected at least 1"),
        (target, one, {"max_new_tokens": 0}, "max_new_tokens is 0"),
        (target, one, {"max_new_tokens": 28}, "target: the prompt is 5 tokens long and 28 more .* at most 27"),
        (_decoder(0, context_length=8), one, {}, "draft: the prompt is 5 tokens long and 4 more .* at most 3"),
        (_seq2seq(), one, {}, "draft: start_id is None"),
        (target, one, {"temperature": -1}, "temperature is -1"),
        (target, one, {"min_p": 2}, "min_p is 2"),
        (target, one, {"repetition_penalty": 0}, "repetition_penalty is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            speculate(target, draft, ids, **{"max_new_tokens": 4} | options)
    bert = Bert(BertConfig(vocab_size=V, d_model=8, n_layers=1, n_heads=2, d_hidden=8)).eval()
    with pytest.raises(ValueError, match="draft: a Bert does not predict the next token"):
        speculate(target, bert, one, 4)
