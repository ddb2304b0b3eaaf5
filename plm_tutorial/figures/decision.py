"""A decision chart that the reader walks: each answer opens the next question, without a script.

In: questions with their answers. Out: HTML of nested ``<details>``, usable with the keyboard; and the same as text.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass

BORDER = "border-left: 2px solid currentColor; margin: 0.3em 0 0.3em 0.4em; padding-left: 0.8em;"


@dataclass(frozen=True)
class Decision:
    """A question, and what follows from each answer: another question, or advice.

    Raises:
        ValueError: there are fewer than two answers.
    """

    question: str
    answers: Mapping[str, Decision | str]

    def __post_init__(self) -> None:
        if len(self.answers) < 2:
            raise ValueError(f"the question {self.question!r} has {len(self.answers)} answers; expected two or more")

    def advice(self, *answers: str) -> Decision | str:
        """Return what follows from so many answers, the first to this question.

        Raises:
            ValueError: a question has no such answer, or there is none left to answer.
        """
        at: Decision | str = self
        for answer in answers:
            if isinstance(at, str):
                raise ValueError(f"{answer!r} answers nothing: the advice was given before it")
            if answer not in at.answers:
                raise ValueError(f"{at.question!r} has no answer {answer!r}; there are: {', '.join(at.answers)}")
            at = at.answers[answer]
        return at

    def _repr_html_(self) -> str:
        return f'<div class="plm-decision">{self._html()}</div>'

    def _html(self) -> str:
        parts = []
        for answer, then in self.answers.items():
            inner = then._html() if isinstance(then, Decision) else f"<p>{html.escape(then)}</p>"
            summary = f'<summary style="cursor: pointer;">{html.escape(answer)}</summary>'
            parts.append(f'<details style="{BORDER}">{summary}{inner}</details>')
        return f"<p><strong>{html.escape(self.question)}</strong></p>{''.join(parts)}"

    def __str__(self) -> str:
        return "\n".join(self._lines(""))

    def __repr__(self) -> str:
        return str(self)

    def _lines(self, indent: str) -> list[str]:
        lines = [f"{indent}{self.question}"]
        for answer, then in self.answers.items():
            if isinstance(then, Decision):
                lines += [f"{indent}- {answer}:", *then._lines(f"{indent}    ")]
            else:
                lines.append(f"{indent}- {answer}: {then}")
        return lines
