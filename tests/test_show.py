"""show: the package's current source, and nothing else."""

import inspect

import pytest

from plm_tutorial import claims
from plm_tutorial.claims import Claim, claim
from plm_tutorial.show import show_source


def test_shows_the_source_and_a_link_to_its_reference():
    bundle = show_source(claim)._repr_mimebundle_()
    assert bundle["text/plain"] == inspect.getsource(claim).rstrip()
    assert bundle["text/markdown"].startswith("```python\ndef claim(")
    assert "(../reference/api.html#plm_tutorial.claims.claim)" in bundle["text/markdown"]


def test_links_to_the_page_that_holds_the_module():
    from plm_tutorial.experiments.transfer import classifier

    text = show_source(classifier)._repr_mimebundle_()["text/markdown"]
    assert "(../reference/api_experiments.html#plm_tutorial.experiments.transfer.classifier)" in text


def test_methods_and_classes():
    assert show_source(Claim).text.startswith("@dataclass")
    assert show_source(Claim.__str__).text.startswith("def __str__")


def test_docstring_can_be_left_out():
    text = show_source(claim, docstring=False).text
    assert '"""' not in text and "raise ClaimFailed" in text and text.startswith("def claim(")


@pytest.mark.parametrize("foreign", [len, inspect.getsource, 3, claims])
def test_only_the_packages_own_code(foreign):
    with pytest.raises(ValueError, match="pass a function, class or method of plm_tutorial"):
        show_source(foreign)
