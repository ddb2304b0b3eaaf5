"""Sphinx's view of _config.yml, for `python -m sphinx`; `jupyter-book build` does not read this file."""

from pathlib import Path

from jupyter_book.config import get_final_config

_here = Path(__file__).resolve().parent
_config, _ = get_final_config(
    user_yaml=_here / "_config.yml", sourcedir=_here, cli_config={"latex_individualpages": False}
)
globals().update(_config)
