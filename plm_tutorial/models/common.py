"""What the configurations of all model families share: their check, and reading them from published ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any


def check_config(config: Any) -> None:
    """Check that each int of a configuration is a size and each float a number, neither of them absurd.

    Raises:
        ValueError: naming the field, what it is and what was expected.
    """
    for one in fields(config):
        value = getattr(config, one.name)
        if one.type == "int" and not (type(value) is int and 0 < value < 2**31):
            raise ValueError(f"{one.name} is {value!r}; expected a whole number from 1 to {2**31 - 1}")
        if one.type == "float" and not (type(value) in (int, float) and math.isfinite(value) and value >= 0):
            raise ValueError(f"{one.name} is {value!r}; expected a number that is not negative")
        if one.type == "bool" and type(value) is not bool:
            raise ValueError(f"{one.name} is {value!r}; expected true or false")


def required(values: Mapping[str, Any], key: str) -> Any:
    """Return ``values[key]``.

    Raises:
        ValueError: it is not there.
    """
    if key not in values:
        raise ValueError(f"it has no {key}, without which the model cannot be built")
    return values[key]


def only(values: Mapping[str, Any], key: str, *implemented: Any) -> None:
    """Check that an option is absent or has a value that is implemented.

    Raises:
        ValueError: naming the option, its value and those implemented.
    """
    if key in values and values[key] not in implemented:
        raise ValueError(f"its {key} is {values[key]!r}; implemented here: {', '.join(map(repr, implemented))}")
