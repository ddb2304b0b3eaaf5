"""Figures that respond to the reader: HTML with its own script, which asks for nothing outside the page.

In: data that a page computed. Out: an object that a notebook displays. Each figure stands complete in the HTML that
Python writes, so a viewer that strips scripts still shows it as it is at first; the script then takes over. Each has a
module here with its words and markup, and beside it a plain ``.js`` and ``.css`` file of the same name.
"""

from plm_tutorial.figures.attention_explorer import attention_explorer
from plm_tutorial.figures.explorer import Explorer
from plm_tutorial.figures.tokenizer_explorer import tokenizer_explorer

__all__ = ["Explorer", "attention_explorer", "tokenizer_explorer"]
