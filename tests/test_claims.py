"""claims: a false statement stops the page; a true one leaves a line and an entry."""

import math

import numpy as np
import pytest
import torch

from plm_tutorial import claims
from plm_tutorial.claims import ClaimFailed, claim, glue


@pytest.fixture
def entries(monkeypatch):
    shown = []
    monkeypatch.setattr(claims, "_display", shown.append)
    return shown


@pytest.mark.parametrize(
    "value, op, bound, true",
    [
        (1, "<", 2, True),
        (2, "<", 2, False),
        (2, "<=", 2, True),
        (3, ">", 2, True),
        (2, ">=", 3, False),
        (0, "==", 0, True),
    ],
)
def test_operators(entries, value, op, bound, true):
    if true:
        claim("a statement", value, op, bound)
        assert entries[0].held
    else:
        with pytest.raises(ClaimFailed, match="not true in this run: a statement"):
            claim("a statement", value, op, bound)
        assert not entries


@pytest.mark.parametrize("op", ["<", "<=", ">", ">=", "=="])
def test_nan_is_never_true(entries, op):
    with pytest.raises(ClaimFailed):
        claim("not a number", math.nan, op, 1.0)


def test_tensors_arrays_and_booleans_become_numbers(entries):
    claim("tensor", torch.tensor(1.5), "<", 2)
    claim("array", np.float32(1.5), "<", np.array(2.0))
    claim("boolean", True, "==", 1)
    assert [type(entry.value) for entry in entries] == [float, float, int]


def test_smoke_records_a_false_claim_without_stopping(entries, monkeypatch):
    monkeypatch.setenv("PLM_SCALE", "smoke")
    claim("too short a run", 3, "<", 2)
    assert not entries[0].held
    assert "✗ too short a run: 3 < 2" in entries[0]._repr_mimebundle_()[0]["text/plain"]


def test_unknown_operator(entries):
    with pytest.raises(ValueError, match="use one of < <= > >= =="):
        claim("a statement", 1, "=", 1)


def test_entry_is_escaped_and_complete(entries):
    claim("a < b & c", 1234.5, ">", 0.000123456)
    bundle, metadata = entries[0]._repr_mimebundle_()
    assert "a &lt; b &amp; c: 1,234 &gt; 0.0001235" in bundle["text/html"]
    assert metadata[claims.CLAIM_KEY]["value"] == 1234.5
    assert f'id="{entries[0].anchor}"' in bundle["text/html"]


def test_outside_a_notebook_the_line_is_printed(capsys):
    claim("plain Python", 1, "<", 2)
    assert capsys.readouterr().out == "✓ plain Python: 1 < 2\n"


@pytest.mark.parametrize("value", [1.5, np.float64(1.5), np.float32(1.5), torch.tensor(1.5)])
def test_glue_stores_a_plain_number(value, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append((data, options["metadata"])))
    glue("loss", value)
    data, metadata = shown[0]
    assert data == {"application/papermill.record/text/plain": "1.5"}
    assert metadata["scrapbook"]["name"] == "loss"
    assert capsys.readouterr().out == "loss: 1.5\n"


@pytest.mark.parametrize("value", [None, [1.5], {"loss": 1.5}])
def test_glue_refuses_what_the_page_could_not_format(value):
    with pytest.raises(ValueError, match="pass a number or text"):
        glue("loss", value)
