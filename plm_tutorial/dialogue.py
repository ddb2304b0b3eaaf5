"""A conversation as one text that a decoder continues: the template, rows with a loss on the replies alone, a reply.

In: messages, dicts with ``role`` and ``content``. Out: text, token ids, rows for training, and text again, piece by
piece. The template is ChatML, in the form that SmolLM2 was trained with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import tokenizers
import torch
from torch import Tensor, nn

from plm_tutorial.batches import MarkedRows
from plm_tutorial.generation import generate, stream, until

Message = Mapping[str, str]

BEGIN, END = "<|im_start|>", "<|im_end|>"  # around each turn; one token each
ROLES = ("system", "user", "assistant")
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # where none is given

# ------------------------------------------------------------------------------------------------------- the template


def render_chat(
    messages: Sequence[Message], *, add_generation_prompt: bool = False, system: str | None = SYSTEM
) -> str:
    """Return a conversation as one text, each turn between two markers and headed by its role.

    Args:
        messages: the turns, in order.
        add_generation_prompt: end with the head of a reply, so that the text goes on with one.
        system: the system's message if the first is none; None: no such turn.

    Raises:
        ValueError: there are no messages, or one of them is not a role with its content.
    """
    turns = "".join(f"{BEGIN}{role}\n{content}{END}\n" for role, content in _turns(messages, system))
    return turns + (f"{BEGIN}assistant\n" if add_generation_prompt else "")


def chat_ids(
    messages: Sequence[Message],
    tokenizer: tokenizers.Tokenizer,
    *,
    add_generation_prompt: bool = False,
    system: str | None = SYSTEM,
) -> list[int]:
    """Return the token ids of :func:`render_chat`. Markers that somebody wrote into a message are plain text here.

    Raises:
        ValueError: as there; or the tokenizer does not have the markers.
    """
    return _marked_ids(_turns(messages, system), tokenizer, add_generation_prompt)[0]


def chat_rows(
    conversations: Sequence[Sequence[Message]],
    tokenizer: tokenizers.Tokenizer,
    length: int,
    *,
    system: str | None = SYSTEM,
    replies_only: bool = True,
) -> MarkedRows:
    """Return conversations as rows whose loss is on what the assistant says, the marker that ends a reply included.

    Without that marker in the loss a model never learns to stop.

    Args:
        length: the most tokens of a row; longer conversations are left out.
        system: see :func:`render_chat`.
        replies_only: False: all tokens count, as in pretraining.

    Raises:
        ValueError: a conversation is not one, the tokenizer lacks the markers, or no row is left.
    """
    made = [_marked_ids(_turns(one, system), tokenizer, False) for one in conversations]
    ids = [row for row, _ in made]
    marked = [marks if replies_only else [True] * len(marks) for _, marks in made]
    return MarkedRows(ids, marked, length, pad_id=marker_ids(tokenizer)[1])


def marker_ids(tokenizer: tokenizers.Tokenizer) -> tuple[int, int]:
    """Return the ids of the markers that begin and end a turn; the second is where a reply stops.

    Raises:
        ValueError: the tokenizer does not have them.
    """
    found = tokenizer.token_to_id(BEGIN), tokenizer.token_to_id(END)
    if None in found:
        raise ValueError(
            f"this tokenizer has no {BEGIN} and {END}, so its model was not trained for conversations in ChatML; pass "
            "'smollm2', or give the text to generate()"
        )
    return found


def _turns(messages: Sequence[Message], system: str | None) -> list[tuple[str, str]]:
    if isinstance(messages, str | Mapping) or not len(messages):
        raise ValueError(f"messages is {messages!r:.60}; expected a list of at least one {{'role': …, 'content': …}}")
    turns = []
    for number, message in enumerate(messages):
        role, content = (message.get(key) for key in ("role", "content")) if isinstance(message, Mapping) else (0, 0)
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(
                f"message {number} is {message!r:.60}; expected a role out of {', '.join(ROLES)}, and its content"
            )
        turns.append((role, content))
    return turns if turns[0][0] == "system" or system is None else [("system", system), *turns]


def _marked_ids(
    turns: Sequence[tuple[str, str]], tokenizer: tokenizers.Tokenizer, add_generation_prompt: bool
) -> tuple[list[int], list[bool]]:
    """Return token ids, and which of them a reply's writer has to write."""
    begin, end = marker_ids(tokenizer)
    newline, ids, marked = _plain(tokenizer, "\n"), [], []

    def add(more: list[int], mark: bool) -> None:
        ids.extend(more)
        marked.extend([mark] * len(more))

    for role, content in turns:
        if role == "assistant":  # cut where generation begins, whatever the reply begins with
            add([begin, *_plain(tokenizer, "assistant\n")], False)
            add([*_plain(tokenizer, content), end], True)
        else:
            add([begin, *_plain(tokenizer, f"{role}\n{content}"), end], False)
        add(newline, False)
    if add_generation_prompt:
        add([begin, *_plain(tokenizer, "assistant\n")], False)
    return ids, marked


def _plain(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    """Return the ids of a text in which no special token counts as one."""
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = True
    try:
        return tokenizer.encode(text, add_special_tokens=False).ids
    finally:
        tokenizer.encode_special_tokens = before


# ------------------------------------------------------------------------------------------------------------- replies


def stream_text(tokens: Iterable[Tensor | int], tokenizer: tokenizers.Tokenizer) -> Iterator[str]:
    """Yield what tokens say, as soon as it is certain: a character whose bytes are not all there yet has to wait.

    All pieces together are what the whole sequence decodes to; special tokens are left out.
    """
    ids: list[int] = []
    told = ""
    for token in tokens:
        ids.append(int(token))
        text = tokenizer.decode(ids)
        certain = text.rstrip("\ufffd")  # at the end it may be the beginning of a character
        if len(certain) > len(told):
            yield certain[len(told) :]
            told = certain
    rest = tokenizer.decode(ids)[len(told) :] if ids else ""
    if rest:
        yield rest


def stream_reply(
    model: nn.Module,
    tokenizer: tokenizers.Tokenizer,
    messages: Sequence[Message],
    max_new_tokens: int = 128,
    *,
    system: str | None = SYSTEM,
    generator: torch.Generator | None = None,
    **options: float | None,
) -> Iterator[str]:
    """Yield the assistant's reply to a conversation, piece by piece.

    Args:
        options: temperature, top_k, top_p, min_p, repetition_penalty; see :func:`plm_tutorial.generation.choose`.

    Raises:
        ValueError: the conversation is not one, or is longer than the model's context allows.
    """
    ids = chat_ids(messages, tokenizer, add_generation_prompt=True, system=system)
    ids = torch.tensor([ids], device=next(model.parameters()).device)  # (1, T)
    stop = marker_ids(tokenizer)[1]
    yield from stream_text(
        stream(model, ids, max_new_tokens, stop_ids=[stop], generator=generator, **options), tokenizer
    )


def replies(
    model: nn.Module,
    tokenizer: tokenizers.Tokenizer,
    conversations: Sequence[Sequence[Message]],
    max_new_tokens: int = 48,
    *,
    system: str | None = SYSTEM,
    size: int = 32,
    generator: torch.Generator | None = None,
    **options: float | None,
) -> list[list[int]]:
    """Return the assistant's reply to each conversation as token ids, without the marker that ends it.

    A reply that was cut off at ``max_new_tokens`` has that many. Decoded in batches, of about equal length.

    Args:
        size: conversations of a batch.
        options: see :func:`stream_reply`.
    """
    stop = marker_ids(tokenizer)[1]
    prompts = [chat_ids(one, tokenizer, add_generation_prompt=True, system=system) for one in conversations]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, list[int]] = {}
    device = next(model.parameters()).device
    for start in range(0, len(order), size):
        some = order[start : start + size]
        ids, mask = pad_left([prompts[i] for i in some], stop)
        new = generate(
            model,
            ids.to(device),
            max_new_tokens,
            stop_ids=[stop],
            attention_mask=mask.to(device),
            generator=generator,
            **options,
        )
        found |= {i: until(row, [stop]) for i, row in zip(some, new.tolist(), strict=True)}
    return [found[i] for i in range(len(prompts))]


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return rows of ids as ``input_ids`` and ``attention_mask``, (B, T) int64 each, that all end at the right."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(longest) >= longest - lengths[:, None]).long()
