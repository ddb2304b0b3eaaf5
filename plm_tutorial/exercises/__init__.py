"""The reader's answers, checked on the spot.

In: an exercise's label and the reader's answer, a function or a value. Out: "right", or which property fails and on
what input. Each topic has a module here with its own :class:`Exercises`; a page imports that module's ``check``.
"""

from __future__ import annotations

import dis
import html
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CHECK_KEY = "plm_check"  # under which a result stands in the metadata of a cell's output


class Wrong(Exception):
    """Raised by a checker when the answer lacks a property; the message says which, and on what input."""


def expect(holds: bool, message: str) -> None:
    """Raise :class:`Wrong` with ``message`` unless ``holds``."""
    if not holds:
        raise Wrong(message)


def expect_equal(got: Any, wanted: Any, call: str) -> None:
    """Raise :class:`Wrong` unless ``got == wanted``, showing the call that gave it."""
    expect(got == wanted, f"{call} gave {_short(got)}, expected {_short(wanted)}")


def expect_close(got: Any, wanted: float, call: str, reasons: Mapping[float, str] | None = None) -> None:
    """Raise :class:`Wrong` unless ``got`` is ``wanted``; a known wrong value is told with its reason."""
    got = expect_number(got, call)
    if abs(got - wanted) > 1e-6 * max(1, abs(wanted)):
        for value, reason in (reasons or {}).items():
            expect(abs(got - value) > 1e-6 * max(1, abs(value)), f"{call} gave {got:.4f}: {reason}")
        raise Wrong(f"{call} gave {got:.4f}, expected {wanted:.4f}")


def expect_number(got: Any, call: str, *, finite: bool = True) -> float:
    """Return ``got`` as a float, or raise :class:`Wrong` if it is not one number: Python's, NumPy's or a tensor's.

    A number that is not finite is wrong, too, unless ``finite`` is False; then the caller has more to say of it.
    """
    shape = tuple(getattr(got, "shape", ()))
    expect(math.prod(shape) == 1, f"{call} gave an array of shape {shape}; expected one number")
    try:
        value = float(got.detach() if hasattr(got, "detach") else got)
    except (TypeError, ValueError):
        raise Wrong(f"{call} gave a {type(got).__name__}; expected a number") from None
    expect(math.isfinite(value) or not finite, f"{call} gave {value}; expected a finite number")
    return value


def expect_tensor(got: Any, shape: tuple[int, ...], call: str) -> Tensor:
    """Return ``got``, detached, or raise :class:`Wrong` if it is no tensor of this shape."""
    from torch import Tensor  # here, because topics without tensors need not wait for it

    expect(isinstance(got, Tensor), f"{call} gave a {type(got).__name__}; expected a tensor")
    expect(got.shape == shape, f"{call} gave shape {tuple(got.shape)}, expected {shape}")
    return got.detach()


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check: ``unanswered``, ``wrong`` or ``right``. True only if right."""

    label: str
    outcome: str
    message: str = ""

    def __bool__(self) -> bool:
        return self.outcome == "right"

    def __str__(self) -> str:
        return {"right": "✓ right", "wrong": f"✗ not yet: {self.message}", "unanswered": ""}[self.outcome]

    def _ipython_display_(self) -> None:
        if self.outcome == "unanswered":  # the page of a reader who has not begun shows nothing
            return
        from IPython.display import display

        text = html.escape(str(self))
        bundle = {
            "text/plain": str(self),
            "text/html": f'<div class="plm-check plm-{self.outcome}" role="status">{text}</div>',
        }
        display(bundle, raw=True, metadata={CHECK_KEY: asdict(self)})


class Exercises:
    """The exercises of one topic: label -> checker."""

    def __init__(self) -> None:
        self._checkers: dict[str, Callable[[Any], None]] = {}

    def add(self, label: str) -> Callable:
        """Decorate a checker: a function of the answer that raises :class:`Wrong` unless the answer is right."""

        def register(checker: Callable[[Any], None]) -> Callable[[Any], None]:
            if label in self._checkers:
                raise ValueError(f"exercise {label!r} is defined twice")
            self._checkers[label] = checker
            return checker

        return register

    @property
    def labels(self) -> list[str]:
        """The labels of all exercises of this topic."""
        return list(self._checkers)

    def check(self, label: str, answer: Any) -> CheckResult:
        """Check ``answer`` against the exercise ``label``.

        Raises:
            ValueError: there is no such exercise; the message lists those there are.
        """
        if label not in self._checkers:
            raise ValueError(f"no exercise {label!r} here; there are: {', '.join(self._checkers)}")
        if is_blank(answer):
            return CheckResult(label, "unanswered")
        try:
            self._checkers[label](answer)
        except Wrong as wrong:
            return CheckResult(label, "wrong", str(wrong))
        except Exception as error:  # the reader's own code, or an answer of an unforeseen type
            return CheckResult(label, "wrong", f"your answer raised {type(error).__name__}: {error}")
        return CheckResult(label, "right")


def is_blank(answer: Any) -> bool:
    """Return whether ``answer`` is still the empty one: ``...``, ``None``, or a function whose body is ``...``."""
    if answer is None or answer is Ellipsis:
        return True
    if not isinstance(answer, types.FunctionType):
        return False
    steps = [step for step in dis.get_instructions(answer) if step.opname not in ("RESUME", "NOP")]
    return all(step.opname.startswith(("LOAD_CONST", "RETURN_")) and step.argval is None for step in steps)


def _short(value: Any, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
