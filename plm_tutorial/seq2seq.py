"""Pairs of texts as batches for an encoder–decoder, and translations back out of it.

In: English texts, their translations, and a language for each. Out: batches that ``fit`` takes, and translated texts.
One model serves all languages: a token such as ``<fr>`` before the source says which is wanted, as in Johnson et al.
2017, https://arxiv.org/abs/1611.04558, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from plm_tutorial.decoding import beam_search
from plm_tutorial.generation import generate, until
from plm_tutorial.objectives import IGNORED
from plm_tutorial.tokenizers import fast_characters

PAD, BEGIN, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"

Batch = dict[str, Tensor]


def language_token(language: str) -> str:
    """Return the token that asks for a language: ``<fr>``."""
    return f"<{language}>"


def character_tokenizer(texts: Iterable[str], languages: Iterable[str] = ()) -> tokenizers.Tokenizer:
    """Return a tokenizer whose tokens are the characters of some texts, the special tokens before them.

    A character that these texts do not have becomes ``<unk>``.
    """
    special = [PAD, BEGIN, END, UNKNOWN, *map(language_token, languages)]
    characters = sorted(set().union(*texts))
    return fast_characters(characters, special, UNKNOWN)


def piece_tokenizer(texts: Iterable[str], vocab_size: int, languages: Iterable[str] = ()) -> tokenizers.Tokenizer:
    """Return a tokenizer of byte-pair merges of the characters of some texts, the special tokens before them.

    Pieces do not cross the border of a word, which a space before it belongs to; each digit is a piece of its own, so
    that a number is always cut alike. A character that these texts do not have becomes ``<unk>``.
    """
    special = [PAD, BEGIN, END, UNKNOWN, *map(language_token, languages)]
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"\d| ?[^\d\s]+|\s"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


class PairRows:
    """A source and its target a row, for :class:`~plm_tutorial.batches.Batches`: what an encoder–decoder is trained on.

    The source is the language's token, the text and END. The decoder reads BEGIN and the target, and is to write the
    target and END: its labels are its input shifted by one.

    Args:
        sources, targets: N texts each.
        languages: N languages of the targets.
        tokenizer: has the tokens PAD, BEGIN, END and one for each language, as :func:`character_tokenizer` makes it.
        length: the most tokens of a row on either side, special ones included. Longer pairs are left out, not cut: a
            target without its end would teach to stop early. ``kept`` has the numbers of the others.

    Raises:
        ValueError: the numbers of texts differ, or are 0; a token is lacking; or no pair is short enough.
    """

    def __init__(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        languages: Sequence[str],
        tokenizer: tokenizers.Tokenizer,
        length: int,
    ):
        if isinstance(sources, str) or not 0 < len(sources) == len(targets) == len(languages):
            numbers = f"{len(sources)} sources, {len(targets)} targets, {len(languages)} languages"
            raise ValueError(f"got {numbers}; expected as many of each, in lists, and one at least")
        self.pad_id, self.begin_id, end = (_id(tokenizer, token) for token in (PAD, BEGIN, END))
        self.sources = _source_ids(sources, languages, tokenizer)
        self.targets = [[*one.ids, end] for one in tokenizer.encode_batch(list(targets), add_special_tokens=False)]
        longest = [max(len(s), len(t)) for s, t in zip(self.sources, self.targets, strict=True)]
        self.kept = np.flatnonzero(np.array(longest) <= length)  # (M,)
        if not len(self.kept):
            raise ValueError(f"length is {length}, and the shortest pair has {min(longest)} tokens: allow more")
        self.sources = [self.sources[i] for i in self.kept]
        self.targets = [self.targets[i] for i in self.kept]
        self.lengths = np.array([len(s) + len(t) for s, t in zip(self.sources, self.targets, strict=True)])  # (M,)

    def __len__(self) -> int:
        return len(self.sources)

    def batch(self, rows: np.ndarray) -> Batch:
        """Return rows (B,) as ``input_ids``, ``attention_mask`` (B, S), ``decoder_input_ids``, ``labels`` (B, T)."""
        source = _padded([self.sources[i] for i in rows], self.pad_id)  # (B, S)
        labels = _padded([self.targets[i] for i in rows], IGNORED)  # (B, T)
        given = _padded([[self.begin_id, *self.targets[i][:-1]] for i in rows], self.pad_id)  # (B, T)
        mask = _padded([[1] * len(self.sources[i]) for i in rows], 0)  # (B, S)
        return {"input_ids": source, "attention_mask": mask, "decoder_input_ids": given, "labels": labels}


def translate(
    model: nn.Module,
    tokenizer: tokenizers.Tokenizer,
    texts: Sequence[str],
    language: str,
    *,
    n_beams: int = 1,
    length_penalty: float = 1.0,
    max_new_tokens: int | None = None,
    batch: int = 128,
) -> list[str]:
    """Return the translations of texts into a language.

    Args:
        n_beams: 1 is greedy; more: see :func:`~plm_tutorial.decoding.beam_search`.
        length_penalty: of beam search.
        max_new_tokens: None: as many as the model's context allows, and at most twice the longest source plus 20.
        batch: texts that are translated together, of about equal length.

    Raises:
        ValueError: ``texts`` is a single str, a text is longer than the model's context, or the language has no token.
    """
    if isinstance(texts, str):
        raise ValueError("texts is a single str; expected a list of texts: translate(model, tokenizer, [text], …)")
    begin, end = _id(tokenizer, BEGIN), _id(tokenizer, END)
    sources = _source_ids(texts, [language] * len(texts), tokenizer)
    device = next(model.parameters()).device
    order = sorted(range(len(texts)), key=lambda i: len(sources[i]))
    found: dict[int, list[int]] = {}
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        ids = _padded([sources[i] for i in rows], _id(tokenizer, PAD)).to(device)  # (B, S)
        mask = _padded([[1] * len(sources[i]) for i in rows], 0).to(device)  # (B, S)
        most = max_new_tokens or min(2 * ids.size(1) + 20, model.config.context_length - 1)
        how = {"stop_ids": {end}, "attention_mask": mask, "start_id": begin}
        if n_beams == 1:
            answers = generate(model, ids, most, **how).tolist()
        else:
            best = beam_search(model, ids, most, n_beams, length_penalty=length_penalty, **how)
            answers = [one[0].tokens.tolist() for one in best]
        found |= dict(zip(rows, answers, strict=True))
    cut = [until(found[i], {end}) for i in range(len(texts))]
    return tokenizer.decode_batch(cut, skip_special_tokens=True)


def _source_ids(texts: Sequence[str], languages: Sequence[str], tokenizer: tokenizers.Tokenizer) -> list[list[int]]:
    token = {language: _id(tokenizer, language_token(language)) for language in dict.fromkeys(languages)}
    end = _id(tokenizer, END)
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [[token[language], *one.ids, end] for language, one in zip(languages, encoded, strict=True)]


def _id(tokenizer: tokenizers.Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        known = [one.content for one in tokenizer.get_added_tokens_decoder().values()]
        raise ValueError(f"the tokenizer has no token {token}; its special tokens are {', '.join(known) or 'none'}")
    return found


def _padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Return rows of different lengths as one tensor (B, longest) int64, padded on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
