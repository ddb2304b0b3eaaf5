"""What a page asserts, and the numbers its sentences quote.

In: a statement, a measured value and a bound. Out: one line for the reader, an error when the statement is false,
and, inside the cell's output, a machine-readable entry from which the book's page of all claims is made.
"""

from __future__ import annotations

import hashlib
import html
import math
import operator
from dataclasses import asdict, dataclass

from plm_tutorial import runtime

CLAIM_KEY = "plm_claim"  # under which an entry stands in the metadata of a cell's output

_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
_SIGNS = {"<=": "≤", ">=": "≥", "==": "="}


class ClaimFailed(AssertionError):
    """A statement of a page is not true of this run."""


@dataclass(frozen=True)
class Claim:
    """One entry of the ledger."""

    statement: str
    value: float
    op: str
    bound: float
    held: bool
    scale: str
    seed: int

    @property
    def anchor(self) -> str:
        """The HTML id of this claim's line, by which the page of all claims links to it."""
        return "claim-" + hashlib.sha256(self.statement.encode()).hexdigest()[:10]

    def __str__(self) -> str:
        return f"{self.statement}: {_number(self.value)} {_SIGNS.get(self.op, self.op)} {_number(self.bound)}"

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        mark, word = ("✓", "held") if self.held else ("✗", "not held")
        line = (
            f'<div class="plm-claim" id="{self.anchor}"><span role="img" aria-label="{word}">{mark}</span> '
            f"{html.escape(str(self))}</div>"
        )
        return {"text/plain": f"{mark} {self}", "text/html": line}, {CLAIM_KEY: asdict(self)}


def claim(statement: str, value: float, op: str, bound: float) -> None:
    """Assert that ``value op bound`` and show it as one line; the book lists all claims on one page.

    Args:
        statement: what is claimed, in words that make sense on their own.
        value: the measured number (a one-element tensor or array will do).
        op: one of ``<  <=  >  >=  ==``.
        bound: the number to compare with.

    Raises:
        ClaimFailed: the comparison is false (a NaN makes it so). At scale ``smoke``, where runs are too short to
            show anything, the claim is recorded and not enforced.
        ValueError: ``op`` is not one of the five.
    """
    if op not in _OPERATORS:
        raise ValueError(f"claim() got op={op!r}; use one of {' '.join(_OPERATORS)}")
    value, bound = _plain(value), _plain(bound)
    entry = Claim(statement, value, op, bound, bool(_OPERATORS[op](value, bound)), runtime.scale(), runtime.seed())
    if not entry.held and entry.scale != "smoke":
        raise ClaimFailed(f"not true in this run: {entry} (seed {entry.seed}, scale {entry.scale})")
    _display(entry)


def glue(name: str, value: float | int | str) -> None:
    """Make a measured value quotable in the page's prose, by the role ``glue:text``.

    The role's content is ``NN_page.ipynb::name:.2f``, the format included. The value is also printed, since the role
    shows only in the built book.
    """
    value = value if isinstance(value, str) else _plain(value)  # a numpy number's repr is no number
    if not isinstance(value, (int, float, str)):
        raise ValueError(f"glue({name!r}) got a {type(value).__name__}; pass a number or text")
    from IPython.display import display

    # The format that myst-nb reads (its own `glue` would drag the whole build chain into a reader's environment).
    prefix = "application/papermill.record/"
    metadata = {"scrapbook": {"name": name, "mime_prefix": prefix}}
    display({prefix + "text/plain": repr(value)}, raw=True, metadata=metadata)
    print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def _plain(value) -> float | int:
    """Return a Python number; booleans count as 0 and 1."""
    if hasattr(value, "item"):
        value = value.item()
    return int(value) if isinstance(value, bool) else value


def _number(value: float) -> str:
    """Return a number as a reader wants it: four significant digits, thousands separated."""
    if isinstance(value, int) or (math.isfinite(value) and abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _display(entry: Claim) -> None:
    try:
        from IPython import get_ipython
    except ImportError:
        get_ipython = lambda: None  # noqa: E731
    if get_ipython() is None:
        print(entry._repr_mimebundle_()[0]["text/plain"])
    else:
        from IPython.display import display

        display(entry)
