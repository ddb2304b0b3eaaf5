"""The package behind *Large-Scale Pretrained Language Models: Principles and Practice*.

Importing it is cheap: no submodule, and so neither torch nor datasets, is loaded before it is asked for.
"""

from importlib import import_module

__version__ = "0.1.0"

# Names that live in a submodule and can be imported from here.
_LAZY = dict.fromkeys(("export", "load_model", "load_tokenizer"), "plm_tutorial.pretrained")

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
