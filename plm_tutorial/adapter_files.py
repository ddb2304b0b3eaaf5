"""LoRA adapters as files, in the form of the peft library: ``adapter_config.json`` and ``adapter_model.safetensors``.

In: a model with an adapter, or such a folder. Out: what the folder holds, which peft opens beside the same model of
Transformers; or the adapter in a model of ours. Files have the published names of tensors, so the tables of the model
families serve here too. The form: https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plm_tutorial.adaptation import LoraConfig, LoraLinear, lora_layers, put, trained_whole
from plm_tutorial.models import Family
from plm_tutorial.weights import (
    Change,
    Copy,
    Stored,
    WeightsError,
    expand,
    joined,
    load_weights,
    names_of,
    read_json,
    read_safetensors,
)

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
IN_FRONT = "base_model.model."  # of each name in the file: the model inside peft's own
# In front of the names of a published body, where our table has the bare ones (see Family.rename).
BODY = {"gpt2": "transformer."}
# What peft calls a model's task, by the end of its published class's name, and the head that the task needs.
TASKS = {
    "ForSequenceClassification": ("SEQ_CLS", "sequence"),
    "ForTokenClassification": ("TOKEN_CLS", "token"),
    "ForQuestionAnswering": ("QUESTION_ANS", "span"),
    "ForCausalLM": ("CAUSAL_LM", None),
    "LMHeadModel": ("CAUSAL_LM", None),
    "ForConditionalGeneration": ("SEQ_2_SEQ_LM", None),
}
HEADS = {task: head for task, head in TASKS.values() if head}
# Options of peft that change nothing of what is computed, or that are used here; others have to be off.
UNDERSTOOD = {"r", "lora_alpha", "lora_dropout", "alpha_pattern", "rank_pattern", "task_type", "peft_type"}
WITHOUT_EFFECT = {
    *("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode", "runtime_config"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),  # names say it
    *("fan_in_fan_out", "init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("megatron_config", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
}

# ------------------------------------------------------------------------------------------------------------ writing


def adapter_form(
    model: nn.Module, family: Family, published: Mapping[str, Any], base: str | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what the two files of an adapter hold: the table of options, and the tensors by name.

    Where a published matrix is several of ours (GPT-2's queries, keys and values), their updates become one, of a rank
    that is the sum of theirs: A on top of each other, B in blocks.

    Args:
        published: the model's ``config.json``.
        base: what the adapter belongs to, for whoever opens it.

    Raises:
        ValueError: the model has no adapter, more is trained than an adapter holds, or numbers are not finite.
    """
    layers, whole = lora_layers(model), trained_whole(model)
    parameters = {name: p for name, p in model.named_parameters() if not _is_update(name)}
    if more := sorted(name for name, p in parameters.items() if p.requires_grad and name not in whole):
        raise ValueError(f"{more[0]} is trained and would be lost: name it in LoraConfig(trained=…), or freeze it")
    front = BODY.get(published["model_type"], "")
    table = {
        name if names_of(place)[0].startswith("head.") else f"{front}{name}": place
        for name, place in expand(family.weights(model.config), model.config).items()
        if place is not None and all(ours in parameters for ours in names_of(place))
    }
    updates, saved = {}, {}
    for name, place in table.items():
        parts = [layers.get(ours.removesuffix(".weight")) for ours in names_of(place)]
        if not isinstance(place, Copy) and any(parts):
            updates[name.removesuffix(".weight")] = _joined_update(place, parts, parameters, model.config)
        elif not isinstance(place, Copy) and not set(names_of(place)).isdisjoint(whole):
            saved[name] = joined(place, parameters, model.config)
    tensors = {f"{module}.lora_A.weight": a for module, (a, _, _) in updates.items()}
    tensors |= {f"{module}.lora_B.weight": b for module, (_, b, _) in updates.items()}
    tensors = {f"{IN_FRONT}{name}": t.detach().cpu().contiguous() for name, t in (tensors | saved).items()}
    for name, tensor in tensors.items():
        if not tensor.float().sum().isfinite():
            raise ValueError(f"{name} holds numbers that are not finite, as after a training that diverged")
    sizes = {module: (a.size(0), scale * a.size(0)) for module, (a, _, scale) in updates.items()}  # rank, alpha
    (rank, alpha), _ = Counter(sizes.values()).most_common(1)[0]
    class_name = published["architectures"][0]
    options = {
        "peft_type": "LORA",
        "task_type": next((task for end, (task, _) in TASKS.items() if class_name.endswith(end)), None),
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": _short(alpha),
        "lora_dropout": model.adapter.dropout,
        "rank_pattern": {module: r for module, (r, _) in sizes.items() if r != rank},
        "alpha_pattern": {module: _short(a) for module, (_, a) in sizes.items() if a != alpha},
        "target_modules": _targets(updates, table),
        "modules_to_save": _modules(saved, table) or None,
        "fan_in_fan_out": any(isinstance(table[f"{module}.weight"], Change) for module in updates),
        "bias": "none",
        "inference_mode": True,
    }
    return options, tensors


def _is_update(name: str) -> bool:
    return name.endswith((".lora_a", ".lora_b"))


def _short(number: float) -> float | int:
    return int(number) if number == int(number) else number


def _joined_update(
    place: str | Change, parts: Sequence[LoraLinear | None], parameters: Mapping[str, Tensor], config: Any
) -> tuple[Tensor, Tensor, float]:
    """Return A (R, in), B (out, R) and the scale of the update of a published matrix."""
    present = [part for part in parts if part is not None]
    scale = present[0].scale
    assert all(part.scale == scale for part in present)
    if isinstance(place, str):
        return *present[0].factors, scale
    a = torch.cat([part.factors[0] for part in present])  # (R, in)
    blocks, at = [], 0
    for ours, part in zip(names_of(place), parts, strict=True):
        block = a.new_zeros(parameters[ours].size(0), len(a))  # (out of this part, R)
        if part is not None:
            block[:, at : at + part.rank] = part.factors[1].detach()
            at += part.rank
        blocks.append(block)
    b = place.join(blocks, config).T  # such a published weight is (in, out): a transposed B (R, out) is cut like it
    assert b.size(1) == len(a)
    return a, b, scale


def _targets(updates: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    """Return how peft finds the adapted modules: by the last part of their names if that fits no other."""
    last = {module.rpartition(".")[2] for module in updates}
    modules = {name.removesuffix(".weight") for name in table if name.endswith(".weight")}
    return sorted(last if {m for m in modules if m.rpartition(".")[2] in last} == updates.keys() else updates)


def _modules(saved: Mapping[str, Tensor], table: Mapping[str, Any]) -> list[str]:
    """Return the largest published modules that are trained whole: peft keeps modules, not tensors."""
    found = set()
    for name in saved:
        parts = name.split(".")[:-1]
        above = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
        whole = (m for m in above if all(other in saved for other in table if other.startswith(f"{m}.")))
        if (module := next(whole, None)) is None:
            raise ValueError(f"of {'.'.join(parts)} only a part is trained; peft keeps whole modules: train all of it")
        found.add(module)
    return sorted(found)


# ------------------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter in files, not yet in a model."""

    folder: Path
    options: dict[str, Any]
    tensors: dict[str, Stored]  # by published name

    @property
    def files(self) -> tuple[Path, Path]:
        """Both files."""
        return self.folder / CONFIG, self.folder / TENSORS


def read_adapter(folder: str | Path) -> StoredAdapter:
    """Read what a folder says about an adapter, and where its tensors are.

    Raises:
        WeightsError: there is none, it is damaged, or of a kind that is not implemented here.
    """
    folder = Path(folder).expanduser()
    if not (folder / CONFIG).is_file():
        raise WeightsError(f"{folder} holds no adapter: it has no {CONFIG}; pass a folder of save_adapter or peft")
    options = read_json(folder / CONFIG)
    off = (None, False, "none", "", [], {})
    for key, value in {"peft_type": None, **options}.items():
        if key == "peft_type" and value != "LORA":
            raise WeightsError(f"{folder} has peft_type {value!r}; implemented here: 'LORA'")
        if key not in UNDERSTOOD | WITHOUT_EFFECT and value not in off:
            raise WeightsError(f"{folder} was made with {key} = {value!r}, which is not implemented here")
    for key in ("r", "lora_alpha"):
        if not (isinstance(options.get(key), int | float) and options[key] > 0):
            raise WeightsError(f"{folder / CONFIG} has {key} = {options.get(key)!r}; expected a number above 0")
    tensors = read_safetensors(folder / TENSORS)
    if strange := sorted(name for name in tensors if not name.startswith(IN_FRONT)):
        raise WeightsError(f"{folder / TENSORS} holds {strange[0]!r}; expected names that begin with {IN_FRONT!r}")
    return StoredAdapter(folder, options, {name.removeprefix(IN_FRONT): t for name, t in tensors.items()})


def asked_head(adapter: StoredAdapter, family: Family, config: Any) -> tuple[str | None, int | None]:
    """Return the head that an adapter was trained with, and its number of labels; None where it does not say.

    Raises:
        WeightsError: the model has no heads to choose from.
    """
    head = HEADS.get(adapter.options.get("task_type"))
    if head is None:
        return None, None
    if family.head_names is None:
        raise WeightsError(
            f"{adapter.folder} was trained for {adapter.options['task_type']}, with a head that a "
            f"{family.model.__name__} does not have here"
        )
    if head == "span":
        return head, None
    table = _by_name(family, replace(config, head=head, n_labels=config.n_labels or 2))
    found = (t for name, t in adapter.tensors.items() if table.get(family.rename(name)) == "head.output.weight")
    return head, next((t.shape[0] for t in found), None)


def _by_name(family: Family, config: Any) -> dict[str, str | None | Change | Copy]:
    return {family.rename(name): place for name, place in expand(family.weights(config), config).items()}


def put_in(adapter: StoredAdapter, model: nn.Module, family: Family) -> list[str]:
    """Give a model the adapter of a folder; return the names of the parameters that it replaces whole.

    All else is frozen. Where a published matrix is several of ours, each gets the part of the update that concerns it.

    Raises:
        WeightsError: a tensor is missing, unknown, misshapen or not finite.
    """
    table, places = _by_name(family, model.config), {}
    updates: dict[str, str | Change] = {}  # published module -> our weights
    for name in adapter.tensors:
        module, mark, _ = name.partition(".lora_")
        place = table.get(family.rename(f"{module}.weight" if mark else name))
        if isinstance(place, str | Change):  # load_weights complains of the others
            (updates if mark else places)[module] = place
    whole = [ours for place in places.values() for ours in names_of(place)]
    linear: dict[str, nn.Linear] = {}
    for module, place in updates.items():
        scale = _alpha(adapter, module) / (rank := _rank(adapter, module))
        for ours in names_of(place):
            layer = model.get_submodule(name := ours.removesuffix(".weight"))
            if not isinstance(layer, nn.Linear):
                raise WeightsError(f"{adapter.folder} adapts {module!r}, which is no linear layer")
            linear[name] = layer
            put(model, name, LoraLinear(layer, rank, scale, float(adapter.options.get("lora_dropout") or 0.0)))
        places |= _places(module, place)
    if not linear:
        raise WeightsError(f"{adapter.folder} adapts no layer of this {type(model).__name__}: it is another model's")
    fed = {ours for place in places.values() for ours in names_of(place)}
    rest = {name for name, _ in model.named_parameters()} - fed
    some = next(iter(linear.values())).weight
    dtype = torch.promote_types(some.dtype, torch.float32)
    load_weights(model, adapter.tensors, places, adapter.files[1], some.device, dtype, drawn=rest)
    for name in whole:
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.to(some.dtype)
    for place in updates.values():
        _drop_unused(model, [ours.removesuffix(".weight") for ours in names_of(place)], linear)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_update(name) or name in whole)
    options, names = adapter.options, tuple(lora_layers(model))
    model.adapter = LoraConfig(
        options["r"], options["lora_alpha"], names, float(options.get("lora_dropout") or 0.0), tuple(whole)
    )
    return whole


def _rank(adapter: StoredAdapter, module: str) -> int:
    stored = adapter.tensors.get(f"{module}.lora_A.weight")
    if stored is None or len(stored.shape) != 2:
        raise WeightsError(f"{adapter.files[1]} lacks the matrix {f'{module}.lora_A.weight'!r}")
    return stored.shape[0]


def _alpha(adapter: StoredAdapter, module: str) -> float:
    """Return the alpha of a module: patterns are regular expressions that fit the end of its name, as in peft."""
    for pattern, alpha in (adapter.options.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return alpha
    return adapter.options["lora_alpha"]


def _places(module: str, place: str | Change) -> dict[str, str | Change]:
    """Return which of our parameters the two matrices of a published module become."""
    a, b = (f"{module}.lora_{x}.weight" for x in "AB")
    ours_a, ours_b = (tuple(f"{o.removesuffix('weight')}lora_{x}" for o in names_of(place)) for x in "ab")
    if isinstance(place, str):
        return {a: ours_a[0], b: ours_b[0]}
    return {
        a: Change(ours_a, split=lambda value, _: [value.clone() for _ in ours_a], join=lambda values, _: values[0]),
        b: Change(
            ours_b,
            split=lambda value, config: place.split(value.T, config),  # the published weight is (in, out)
            join=lambda values, config: place.join(values, config).T,
        ),
    }


def _drop_unused(model: nn.Module, names: Sequence[str], linear: Mapping[str, nn.Linear]) -> None:
    """Take from each part of a matrix the directions that other parts alone use: their columns of B are 0."""
    layers = [model.get_submodule(name) for name in names]
    used = [layer.lora_b.detach().any(dim=0) for layer in layers]  # (r,) each
    if not torch.stack(used).any():
        return  # not trained yet: all begin at 0
    for name, layer, directions in zip(names, layers, used, strict=True):
        if not directions.any() and len(names) > 1:
            put(model, name, linear[name])
        elif not directions.all() and len(names) > 1:
            layer.rank = int(directions.sum())
            layer.lora_a = nn.Parameter(layer.lora_a.detach()[directions])
            layer.lora_b = nn.Parameter(layer.lora_b.detach()[:, directions].contiguous())
