"""From text to token ids and back: byte-level BPE, written to be read; WordPiece and Unigram stand beside it.

In: strings. Out: lists of ids, and tokenizers that make them. :func:`train_fast_bpe` trains with the ``tokenizers``
library, for real work; :func:`train_bpe` does the same in plain Python and yields the same merges and ids. Published
tokenizers come from :func:`plm_tutorial.pretrained.load_tokenizer`.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import regex
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

Word = tuple[bytes, ...]  # a piece of text, cut into the symbols it currently consists of
Pair = tuple[bytes, bytes]

# The alternatives, in order: an English contraction; letters, digits, or other signs, each with at most one space
# before; spaces except the last one before a word; the spaces that are left. Source: gpt-2, src/encoder.py (OpenAI).
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2_PATTERN = regex.compile(GPT2_PATTERN)


def pretokenize(text: str) -> list[str]:
    """Cut text into the pieces that merges never cross; joined together, they are the text again.

    Without this step the most frequent merges would glue words to their neighbours and to punctuation. The space
    belongs to the word that follows it, so a word at the start of a text and one after a space differ.
    """
    return _GPT2_PATTERN.findall(text)


def bytes_to_unicode() -> dict[int, str]:
    """Return the printable character that stands for each of the 256 bytes in vocabulary files.

    A token is a byte string, often not valid UTF-8, and a JSON file or a merge list holds text whose parts are
    separated by spaces. So GPT-2 writes each printable Latin-1 byte as itself and each of the others (space, control
    codes, ...) as one of the characters from U+0100 on: a space is shown as ``Ġ``, a newline as ``Ċ``.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_PRINTABLE = bytes_to_unicode()
_BYTE_OF = {character: byte for byte, character in _PRINTABLE.items()}


def printable(token: bytes) -> str:
    """Return a token as vocabulary files write it, one character a byte; see :func:`bytes_to_unicode`."""
    return "".join(_PRINTABLE[byte] for byte in token)


# ---- Byte-level BPE: training ----------------------------------------------------------------------------------------


def count_words(texts: Iterable[str]) -> Counter[Word]:
    """Count the pieces of all texts, each written as its single bytes.

    Training needs no more of a text than this: the merges inside a piece do not depend on its neighbours.

    Raises:
        ValueError: ``texts`` is one string, holds something else than strings, or holds no text at all.
    """
    pieces: Counter[str] = Counter()
    for text in _checked(texts):
        pieces.update(pretokenize(text))
    return Counter({_single_bytes(piece.encode()): count for piece, count in pieces.items()})


def count_pairs(words: Mapping[Word, int]) -> Counter[Pair]:
    """Count every pair of neighbouring symbols, weighted by how often its word occurs."""
    pairs: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def merge_pair(word: Word, pair: Pair) -> Word:
    """Replace each occurrence of ``pair`` in ``word``, from left to right, by the two symbols joined."""
    merged, i = [], 0
    while i < len(word):
        if word[i : i + 2] == pair:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return tuple(merged)


def train_bpe_naive(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()) -> BPETokenizer:
    """Train byte-level BPE by the definition: count all pairs, merge the most frequent one everywhere, start again.

    The cost is one pass over all words for each merge; :func:`train_bpe` gives the same result, faster, and says what
    is raised. Of equally frequent pairs the one with the smaller ids wins.
    """
    vocab = _start_vocab(special_tokens, vocab_size)
    words: Mapping[Word, int] = count_words(texts)
    merges: list[Pair] = []
    while len(vocab) < vocab_size and (pairs := count_pairs(words)):
        best = min(pairs, key=lambda pair: (-pairs[pair], vocab[pair[0]], vocab[pair[1]]))
        words = {merge_pair(word, best): count for word, count in words.items()}
        merges.append(best)
        vocab.setdefault(best[0] + best[1], len(vocab))
    return BPETokenizer(merges, special_tokens)


def train_bpe(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()) -> BPETokenizer:
    """Train byte-level BPE (Sennrich et al. 2016, on bytes as in GPT-2); each merge visits only the words it changes.

    Pairs wait in a heap, most frequent first. A merge can only lower the counts of old pairs, so an old entry is
    corrected when it comes up, not before. Merges and ids equal those of the ``tokenizers`` library: special tokens
    first, then the bytes in the order of their printable characters, then the merges; ties go to the smaller pair of
    ids; a pair seen once may be merged; training ends early when no pair is left. Source for these rules:
    ``tokenizers/src/models/bpe/trainer.rs`` of huggingface/tokenizers, ``Merge::cmp`` and ``BpeTrainer::do_train``.

    Args:
        vocab_size: number of tokens wanted, special tokens and the 256 bytes included.

    Raises:
        ValueError: ``texts`` is one string or holds no text; ``vocab_size`` is too small; a special token is unusable.
    """
    vocab = _start_vocab(special_tokens, vocab_size)
    word_counts = count_words(texts)
    words, counts = list(word_counts), list(word_counts.values())
    pairs = count_pairs(word_counts)
    where: dict[Pair, set[int]] = defaultdict(set)  # pair -> numbers of the words it is, or was, in
    for i, word in enumerate(words):
        for pair in pairwise(word):
            where[pair].add(i)

    def entry(pair: Pair):  # the smallest entry of a heap comes first: highest count, then smallest ids
        return -pairs[pair], vocab[pair[0]], vocab[pair[1]], pair

    heap = [entry(pair) for pair in pairs]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while len(vocab) < vocab_size and heap:
        count, *_, pair = heapq.heappop(heap)
        if -count != pairs[pair]:  # the entry is out of date
            if pairs[pair]:
                heapq.heappush(heap, entry(pair))
            continue
        merges.append(pair)
        token = pair[0] + pair[1]
        vocab.setdefault(token, len(vocab))
        created = set()
        for i in where.pop(pair):
            for old in pairwise(words[i]):
                pairs[old] -= counts[i]
            words[i] = merge_pair(words[i], pair)
            for new in pairwise(words[i]):
                pairs[new] += counts[i]
                if token in new:
                    where[new].add(i)
                    created.add(new)
        for new in created:
            heapq.heappush(heap, entry(new))
    return BPETokenizer(merges, special_tokens)


def train_fast_bpe(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()) -> tokenizers.Tokenizer:
    """Train byte-level BPE with the ``tokenizers`` library: same merges and ids as :func:`train_bpe`, on all cores.

    The result finds special tokens in the text it encodes, which :meth:`BPETokenizer.encode` does only on request;
    set its attribute ``encode_special_tokens = True`` before it meets text from strangers.

    Raises:
        ValueError: as in :func:`train_bpe`.
    """
    _start_vocab(special_tokens, vocab_size)
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(_BYTE_OF),  # all 256 bytes, whether the texts have them or not
        show_progress=False,
    )
    tokenizer.train_from_iterator(_checked(texts), trainer)
    return tokenizer


def fast_characters(characters: Sequence[str], special_tokens: Sequence[str], unknown: str) -> tokenizers.Tokenizer:
    """Return the library's tokenizer whose tokens are characters: the special tokens come first, then these in order.

    Other characters become ``unknown``, which is one of the special tokens. A text that spells out a special token is
    still text.
    """
    vocab = {token: i for i, token in enumerate([*special_tokens, *characters])}
    made = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=unknown))
    made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(list(special_tokens))
    made.encode_special_tokens = True
    return made


def _start_vocab(special_tokens: Sequence[str], vocab_size: int | None = None) -> dict[bytes, int]:
    """Return the ids before the first merge: special tokens, then bytes in the order of their printable characters."""
    if isinstance(special_tokens, str):
        raise ValueError(f"special_tokens is the string {special_tokens!r}; pass a list: [{special_tokens!r}]")
    for token in special_tokens:
        # What fits into one piece could also come out of merges: then plain text would turn into a special token.
        # And the library decodes a character beyond ASCII as if it stood for a byte.
        if len(pretokenize(token)) < 2 or not token.isascii():
            raise ValueError(
                f"special token {token!r} could be confused with ordinary text; choose one that mixes ASCII letters "
                "and signs, such as '<|end|>'"
            )
    if len(set(special_tokens)) < len(special_tokens):
        raise ValueError(f"special_tokens has a token twice: {list(special_tokens)}; name each once")
    smallest = 256 + len(special_tokens)
    if vocab_size is not None and vocab_size < smallest:
        raise ValueError(
            f"vocab_size is {vocab_size}, but the 256 bytes and {len(special_tokens)} special tokens need {smallest}; "
            f"pass {smallest} or more"
        )
    tokens = [token.encode() for token in special_tokens] + [bytes([_BYTE_OF[c]]) for c in sorted(_BYTE_OF)]
    return {token: i for i, token in enumerate(tokens)}


def _checked(texts: Iterable[str]) -> Iterator[str]:
    if isinstance(texts, str):
        raise ValueError(f"texts is one string, {texts[:40]!r}; pass an iterable of strings, such as [text]")
    empty = True
    for i, text in enumerate(texts):
        _check_text(text, f"text number {i}")
        empty = empty and not text
        yield text
    if empty:
        raise ValueError("texts holds no text: no string, or only empty ones; pass at least one that is not empty")


def _check_text(text: str, name: str = "text") -> None:
    if not isinstance(text, str):
        raise ValueError(f"{name} is of type {type(text).__name__}; pass a str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds half of a surrogate pair, U+{ord(text[error.start]):04X}, at position {error.start}, which "
            "has no UTF-8 bytes; replace it first, for instance by text.encode('utf-8', 'replace').decode()"
        ) from error


def _single_bytes(piece: bytes) -> Word:
    return tuple(piece[i : i + 1] for i in range(len(piece)))


# ---- Byte-level BPE: use ---------------------------------------------------------------------------------------------


def apply_merges(piece: bytes, ranks: Mapping[Pair, int]) -> Word:
    """Cut a piece into tokens: of the pairs present, merge the one learned first, until none has been learned."""
    word = _single_bytes(piece)
    while len(word) > 1:
        pair = min(pairwise(word), key=lambda pair: ranks.get(pair, math.inf))
        if pair not in ranks:
            break
        word = merge_pair(word, pair)
    return word


class BPETokenizer:
    """A byte-level BPE tokenizer, defined by its merges in the order in which they were learned.

    Any text can be encoded, since each of the 256 bytes is a token, and ``decode(encode(text)) == text``.

    Attributes:
        merges: pairs of byte strings.
        special_tokens: strings with ids of their own, which no text is turned into unless allowed.
        vocab: byte string -> id.

    Raises:
        ValueError: a merge joins something that is no token yet; a special token is unusable.
    """

    def __init__(self, merges: Iterable[Pair], special_tokens: Sequence[str] = ()):
        self.merges: list[Pair] = [(bytes(left), bytes(right)) for left, right in merges]
        self.special_tokens = tuple(special_tokens)
        self.vocab = _start_vocab(special_tokens)
        for left, right in self.merges:
            if left not in self.vocab or right not in self.vocab:
                raise ValueError(
                    f"merge {left!r} + {right!r}: each part must be a byte or the result of an earlier merge"
                )
            self.vocab.setdefault(left + right, len(self.vocab))
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._token_of = {i: token for token, i in self.vocab.items()}
        self._cache: dict[str, Word] = {}  # words repeat, so most pieces are cut only once

    def __repr__(self) -> str:
        return f"BPETokenizer({self.vocab_size} tokens, {len(self.special_tokens)} of them special)"

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.vocab)

    def tokens(self, text: str, allow_special: bool = False) -> list[bytes]:
        """Cut text into tokens. Raises ValueError for text that has no UTF-8 form (half a surrogate pair)."""
        _check_text(text)
        tokens: list[bytes] = []
        for part in self._split_special(text) if allow_special else [text]:
            if allow_special and part in self.special_tokens:
                tokens.append(part.encode())
                continue
            for piece in pretokenize(part):
                tokens.extend(self._tokens_of_piece(piece))
        return tokens

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Turn text into ids.

        A special token that is spelled out in ``text`` stays ordinary text unless ``allow_special`` is set. Otherwise
        anyone who writes ``<|end|>`` in a message could end the document or speak in another role: only the program
        that lays out the input may set special tokens.
        """
        return [self.vocab[token] for token in self.tokens(text, allow_special)]

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text; bytes that are no valid UTF-8, such as half a character, become U+FFFD.

        Raises:
            ValueError: an id that no token has.
        """
        ids = [int(i) for i in ids]
        if unknown := [i for i in ids if i not in self._token_of]:
            raise ValueError(f"no token has id {unknown[0]}; ids go from 0 to {self.vocab_size - 1}")
        return b"".join(self._token_of[i] for i in ids).decode("utf-8", errors="replace")

    def to_library(self) -> tokenizers.Tokenizer:
        """Return the same tokenizer for the ``tokenizers`` library, which finds special tokens in any text."""
        special = {token.encode() for token in self.special_tokens}
        names = {token: token.decode() if token in special else printable(token) for token in self.vocab}
        tokenizer = _byte_level(
            models.BPE(
                vocab={names[token]: i for token, i in self.vocab.items()},
                merges=[(names[left], names[right]) for left, right in self.merges],
            )
        )
        tokenizer.add_special_tokens(list(self.special_tokens))
        return tokenizer

    def save(self, path: str | Path) -> None:
        """Write the tokenizer to ``path`` in the library's format, ``tokenizer.json``."""
        self.to_library().save(str(path))

    @classmethod
    def load(cls, path: str | Path) -> BPETokenizer:
        """Read a file of :meth:`save`, or one of a tokenizer made by :func:`train_fast_bpe`.

        Raises:
            ValueError: the file describes a tokenizer of another kind.
        """
        return cls.from_library(tokenizers.Tokenizer.from_file(str(path)))

    @classmethod
    def from_library(cls, tokenizer: tokenizers.Tokenizer) -> BPETokenizer:
        """Return the taught form of a tokenizer made by :func:`train_fast_bpe`; see :meth:`load`."""
        settings = json.loads(tokenizer.to_str())
        model, pre_tokenizer = settings["model"], settings["pre_tokenizer"]
        expected = json.loads(_byte_level(models.BPE()).to_str())["pre_tokenizer"]
        if model["type"] != "BPE" or pre_tokenizer != expected:
            raise ValueError(
                f"expected a BPE model after the pre-tokenizer {expected}, got a {model['type']} model after "
                f"{pre_tokenizer}; keep it as it is, a tokenizers.Tokenizer"
            )
        merges = [(_from_printable(left), _from_printable(right)) for left, right in model["merges"]]
        special = [token["content"] for token in settings["added_tokens"]]
        own = cls(merges, special)
        if own.to_library().get_vocab() != tokenizer.get_vocab():
            raise ValueError("the ids are not in the order: special tokens, bytes, merges; use the library's tokenizer")
        return own

    def _tokens_of_piece(self, piece: str) -> Word:
        tokens = self._cache.get(piece)
        if tokens is None:
            tokens = apply_merges(piece.encode(), self._ranks)
            if len(self._cache) < 2**17:  # bounds the memory, whatever the text
                self._cache[piece] = tokens
        return tokens

    def _split_special(self, text: str) -> list[str]:
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        return regex.split(f"({'|'.join(map(regex.escape, longest_first))})", text) if longest_first else [text]


def _byte_level(model: models.Model) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _from_printable(name: str) -> bytes:
    return bytes(_BYTE_OF[character] for character in name)
