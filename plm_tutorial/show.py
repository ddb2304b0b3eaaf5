"""Show a page's reader the package's own source, so that no page pastes a copy.

In: a function, class or method of ``plm_tutorial``. Out: its current source, highlighted, with a link to its entry in
the API reference.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable


class Source:
    """Source code as a notebook shows it: Markdown in the book and in Jupyter, plain text elsewhere."""

    def __init__(self, text: str, name: str):
        self.text = text
        self.name = name

    def __str__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        part = self.name.split(".")[1]
        page = "api_experiments" if part in ("experiments", "figures") else "api"
        link = f"[`{self.name}`](../reference/{page}.html#{self.name})"
        return {"text/plain": self.text, "text/markdown": f"```python\n{self.text}\n```\n\nReference: {link}\n"}


def show_source(obj: Callable | type, *, docstring: bool = True) -> Source:
    """Return the source of ``obj`` for display as the last line of a cell.

    Args:
        obj: something defined in ``plm_tutorial``.
        docstring: False leaves out the documentation, where the page has just said the same in words.

    Raises:
        ValueError: ``obj`` is not from this package, so its source does not belong to the book.
    """
    module = getattr(obj, "__module__", "") or ""
    if module.split(".")[0] != "plm_tutorial" or not hasattr(obj, "__qualname__"):
        raise ValueError(f"show_source() got {obj!r}; pass a function, class or method of plm_tutorial")
    text = textwrap.dedent(inspect.getsource(obj)).rstrip()
    if not docstring and (doc := obj.__doc__):
        text = _without_docstring(text, doc)
    return Source(text, f"{module}.{obj.__qualname__}")


def _without_docstring(text: str, doc: str) -> str:
    import ast

    body = ast.parse(text).body[0]
    first = body.body[0]
    if not (isinstance(first, ast.Expr) and ast.get_docstring(body, clean=False) == doc and len(body.body) > 1):
        return text
    lines = text.splitlines()
    return "\n".join(lines[: first.lineno - 1] + lines[first.end_lineno :])
