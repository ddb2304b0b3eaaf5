"""The dialogue corpus: filtered, grouped, split; and questions about reviews, with answers that can be checked."""

import pytest

from plm_tutorial.experiments import conversations
from plm_tutorial.experiments.conversations import dialogue_table, dialogues, review_chat, said
from plm_tutorial.text import normal_form, words


def test_the_corpus_is_as_large_as_the_book_says():
    table = {row["split"]: row for row in dialogue_table()}
    total = sum(row["conversations"] for row in table.values())
    assert 700 < total < 800
    for split, share in conversations.SPLITS.items():
        assert table[split]["conversations"] / total == pytest.approx(share, abs=0.12)  # groups are uneven
    assert len({row["sha256"] for row in table.values()}) == 3


def test_splits_share_no_prompt_and_no_reply_of_some_length():
    seen = {}
    for one in dialogues():
        for i, turn in enumerate(one.turns):
            if i % 2 == 0 or len(words(turn)) >= conversations.SHARED_WORDS:
                assert seen.setdefault(normal_form(turn), one.split) == one.split, turn


def test_every_dialogue_is_well_formed():
    for one in dialogues():
        assert len(one.turns) % 2 == 0 and 2 <= len(one.turns) <= conversations.MOST_TURNS
        assert all(turn and turn == " ".join(turn.split()) for turn in one.turns)
        assert [message["role"] for message in one.messages] == ["user", "assistant"] * (len(one.turns) // 2)
    assert len(set((one.topic, one.turns) for one in dialogues())) == len(dialogues())


def test_alternatives_are_answers_to_the_same_prompt():
    some = [one.turns for one in dialogues() if one.turns[0] == "Do you feel pain"]
    assert len(some) == 5 and all(len(turns) == 2 for turns in some)


def test_harm_and_fragments_are_left_out():
    text = "\n".join("\n".join(one.turns) for one in dialogues()).lower()
    for word in ("suicide", "hitler", "bend over", "pleasure bot", "do not want to die", "```", "de hal"):
        assert word not in text
    assert not {one.topic for one in dialogues()} & {"politics", "humor", "gossip", "psychology", "money", "coding"}


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split is 'dev'; there are: train, validation, test"):
        dialogues("dev")
    assert len(dialogues("train")) + len(dialogues("validation")) + len(dialogues("test")) == len(dialogues())


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Yes.", 1),
        ("no", 0),
        ("No, but they liked it", 0),
        ("The author of this review did not like the film.", 0),
        ("The author didn't really like it.", 0),
        ("The author liked the film.", 1),
        ("Yesterday", None),
        ("The author did not explicitly say whether they", None),
        ("", None),
    ],
)
def test_what_a_reply_says(reply, answer):
    assert said(reply) == answer


def test_the_right_answer_says_so():
    for label in (0, 1):
        chat = review_chat("A film.", label)
        assert [message["role"] for message in chat] == ["system", "user", "assistant"]
        assert said(chat[-1]["content"]) == label and chat[:2] == review_chat("A film.")
        assert "A film." in chat[1]["content"]
