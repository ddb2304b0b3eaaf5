"""One process: steps, precision, evaluation, logs, errors, resuming."""

import csv
import math
from itertools import pairwise

import pytest
import torch

from plm_tutorial.objectives import IGNORED, predict_labels
from plm_tutorial.training import CheckpointError, TrainingConfig, TrainingError, checkpoints, fit, train_step
from plm_tutorial.training.optimizers import make_optimizers
from tests.training.toy import VOCAB, Sums, make_model

KNOWN = ("evaluate", "callbacks", "objective", "lr_scales")  # arguments of fit, the others are of its configuration
CONFIG = {"lr": 1e-2, "warmup": 2, "checkpoint_every": 4}


def _fit(folder=None, steps=12, model=None, **options):
    model = model or make_model()
    known = {key: options.pop(key) for key in KNOWN if key in options}
    history = fit(
        model, Sums(), TrainingConfig(steps=steps, **CONFIG | options), folder=folder, progress=False, **known
    )
    return model, history


def _same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def _stop_at(step):
    def stop(model, history):
        if history.steps == step:
            raise KeyboardInterrupt

    return [stop]


# ---- steps


def test_a_model_overfits_one_batch():
    class One:
        def __getitem__(self, step):
            return Sums()[0]

    model = make_model()
    history = fit(model, One(), TrainingConfig(steps=150, lr=1e-2, weight_decay=0.0), progress=False)
    assert history.rows[0]["loss"] == pytest.approx(math.log(VOCAB), rel=0.02)
    assert history.rows[-1]["loss"] < 0.05


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_gradients_in_parts_are_those_of_the_whole(parts):
    batch = Sums()[0]
    batch["labels"][:3, 4:] = IGNORED  # parts with different numbers of labels: a mean of means would be wrong
    gradients = []
    for accumulate in (1, parts):
        model = make_model()
        train_step(model, [torch.optim.SGD(model.parameters(), lr=1.0)], batch, accumulate=accumulate)
        gradients.append([a - b for a, b in zip(make_model().parameters(), model.parameters(), strict=True)])
    for whole, part in zip(*gradients, strict=True):
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="a batch of 8 rows cannot be computed in 3 equal parts"):
        train_step(make_model(), [], batch, accumulate=3)


def test_the_gradient_is_clipped_to_the_norm_and_reported_before():
    model, batch = make_model(), Sums()[0]
    before = [p.clone() for p in model.parameters()]
    loss, norm = train_step(model, [torch.optim.SGD(model.parameters(), lr=1.0)], batch, clip=0.1)
    moved = math.sqrt(
        sum(float((a - b).detach().square().sum()) for a, b in zip(before, model.parameters(), strict=True))
    )
    assert norm > 0.1 and moved == pytest.approx(0.1, rel=1e-3)
    assert loss == pytest.approx(float(predict_labels(make_model(), batch).mean.detach()), rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_full_precision(precision):
    full, half = (_fit(precision=p, steps=30)[1].column("loss") for p in ("fp32", precision))
    assert half[-1] < half[0] - 0.1
    assert max(abs(a - b) for a, b in zip(full, half, strict=True)) < 0.15


def test_loss_equals_that_of_a_loop_wired_by_hand():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    for step in range(10):
        loss = predict_labels(model, Sums()[step]).mean
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    config = TrainingConfig(steps=10, lr=1e-2, weight_decay=0.0, shape="constant", clip=0.0)
    assert fit(make_model(), Sums(), config, progress=False).column("loss") == pytest.approx(losses, abs=1e-5)


# ---- evaluation, callbacks, logs


def test_evaluation_happens_in_eval_mode_and_stops_a_run_that_no_longer_improves():
    seen = []

    def evaluate(model):
        seen.append(model.training)
        return {"validation": [3, 2, 4, 5, 1, 0][len(seen) - 1]}

    model, history = _fit(evaluate=evaluate, evaluate_every=2, patience=2, steps=12)
    assert seen == [False] * 4 and history.steps == 8 and not model.training
    assert history.column("validation") == [3, 2, 4, 5]


def test_the_log_has_a_row_a_step_also_after_resuming(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path, callbacks=_stop_at(7))
    _, history = _fit(tmp_path, evaluate=lambda model: {"validation": 1.0}, evaluate_every=6)
    rows = list(csv.DictReader(open(tmp_path / "log.csv", newline="")))
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert [float(row["loss"]) for row in rows] == history.column("loss")
    assert [row["validation"] for row in rows] == [""] * 5 + ["1.0"] + [""] * 5 + ["1.0"]


# ---- resuming


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, optimizer, precision):
    straight, history = _fit(tmp_path / "a", optimizer=optimizer, precision=precision)
    for stop in (3, 7, 10):
        with pytest.raises(KeyboardInterrupt):
            _fit(tmp_path / "b", optimizer=optimizer, precision=precision, callbacks=_stop_at(stop))
    resumed, again = _fit(tmp_path / "b", model=make_model(seed=9), optimizer=optimizer, precision=precision)
    assert _same(straight, resumed) and again.column("loss") == history.column("loss")


def test_a_finished_run_is_not_trained_further(tmp_path):
    model, _ = _fit(tmp_path)
    again, history = _fit(tmp_path, callbacks=_stop_at(13))
    assert _same(model, again) and history.steps == 12


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    straight, _ = _fit(tmp_path / "a")
    _fit(tmp_path / "b", steps=12)
    newest = max((tmp_path / "b").glob("step-*"))
    data = next(newest.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-100] + bytes(100))
    with pytest.warns(UserWarning, match=r"step-00000012 is damaged \(.*distcp has changed\); trying the one before"):
        resumed, _ = _fit(tmp_path / "b", model=make_model(seed=9))
    assert _same(straight, resumed)
    for path in (tmp_path / "b").glob("step-*"):
        (path / "files.json").unlink()
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="all checkpoints in .* are damaged"):
        _fit(tmp_path / "b")


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    _fit(tmp_path, steps=12, checkpoint_every=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv", "step-00000010", "step-00000012"]


# ---- what goes wrong


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    def objective(model, batch):
        loss = predict_labels(model, batch)
        poison = float("nan") if int(batch["input_ids"][0, 0]) == int(Sums()[9]["input_ids"][0, 0]) else 1.0
        return type(loss)(loss.total * poison, loss.count)

    with pytest.raises(TrainingError, match=r"the loss is nan at step 10; the last good state is .*step-00000008"):
        _fit(tmp_path, objective=objective)
    resumed, _ = _fit(tmp_path)
    assert _same(resumed, _fit()[0])


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    real = checkpoints.dcp.save

    def full(state, checkpoint_id):
        if "00000008" in checkpoint_id:
            raise OSError(28, "No space left on device")
        return real(state, checkpoint_id=checkpoint_id)

    monkeypatch.setattr(checkpoints.dcp, "save", full)
    with pytest.raises(CheckpointError, match="step-00000008 could not be written: .*No space left on device"):
        _fit(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv", "step-00000004"]
    monkeypatch.undo()
    resumed, _ = _fit(tmp_path)
    assert _same(resumed, _fit()[0])


def test_another_model_or_configuration_is_refused(tmp_path):
    _fit(tmp_path, steps=4)
    with pytest.raises(CheckpointError, match=r"was trained with steps = 4, lr = 0.01, now it is steps = 8, lr = 0.02"):
        _fit(tmp_path, steps=8, lr=0.02)
    from plm_tutorial.models import Llama, LlamaConfig

    other = Llama(LlamaConfig(vocab_size=VOCAB, context_length=32, d_model=16, n_layers=1, n_heads=1, n_kv_heads=1))
    with pytest.raises(CheckpointError, match="does not fit this model and its optimizers"):
        _fit(tmp_path, steps=4, model=other)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made: .*; choose another"):
        _fit(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"steps": 5, "lr": float("nan")}, "lr is nan; expected a number that is not negative"),
        ({"steps": 5, "precision": "fp8"}, "precision is 'fp8'; implemented here: fp32, bf16, fp16"),
        ({"steps": 5, "shape": "step"}, "shape is 'step'"),
        ({"steps": 5, "warmup": 5}, "warmup is 5 of 5 steps"),
    ],
)
def test_configurations_that_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**wrong)


def test_dropout_differs_from_step_to_step_and_follows_the_seed():
    from plm_tutorial.models import Bert, BertConfig

    class Same:
        def __getitem__(self, step):
            ids = torch.arange(24).reshape(4, 6)
            return {"input_ids": ids, "labels": ids}

    def losses(seed):
        torch.manual_seed(0)
        bert = Bert(BertConfig(vocab_size=32, d_model=32, n_layers=1, n_heads=2, d_hidden=32))
        config = TrainingConfig(steps=4, lr=0.0, seed=seed)
        return fit(bert, Same(), config, progress=False).column("loss")

    first = losses(1)
    assert first == losses(1) != losses(2)
    assert all(a != b for a, b in pairwise(first))


def test_optimizers_see_the_schedule():
    _, history = _fit(steps=12, warmup=2)
    assert history.rows[0]["lr"] == pytest.approx(1e-2 / 3) and history.rows[2]["lr"] == pytest.approx(1e-2)
    assert history.rows[-1]["lr"] == pytest.approx(0, abs=1e-9)
    assert make_optimizers(make_model(), lr=1e-2)[0].param_groups[0]["peak_lr"] == 1e-2


def test_callbacks_are_told_when_training_begins_and_ends(tmp_path):
    class Watch:
        def __init__(self):
            self.seen = []

        def begin(self, model, history):
            self.seen.append(("begin", history.steps))

        def __call__(self, model, history):
            self.seen.append(history.steps)
            if history.steps == 6:
                raise KeyboardInterrupt

        def end(self, model, history):
            self.seen.append(("end", history.steps))

    watch = Watch()
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path, callbacks=[watch])
    assert watch.seen == [("begin", 0), 1, 2, 3, 4, 5, 6, ("end", 6)]
    watch.seen.clear()
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path, callbacks=[watch])
    assert watch.seen == [("begin", 4), 5, 6, ("end", 6)]


def test_scaled_rates_go_on_after_resuming_and_have_to_be_the_same(tmp_path):
    scales = {"layers.0.attention.query.weight": 0.1, "norm.weight": 0.0}
    straight, history = _fit(tmp_path / "a", lr_scales=scales)
    assert torch.equal(straight.norm.weight, make_model().norm.weight)
    assert history.rows[2]["lr"] == pytest.approx(1e-2)
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "b", lr_scales=scales, callbacks=_stop_at(7))
    with pytest.raises(CheckpointError, match="norm.weight was trained at 0, now it is trained at 0.01"):
        _fit(tmp_path / "b", lr_scales={"layers.0.attention.query.weight": 0.1})
    resumed, _ = _fit(tmp_path / "b", lr_scales=scales)
    assert _same(straight, resumed)


def test_checkpoints_from_before_rates_were_noted_still_open(tmp_path):
    """Such as those of a run that began with an earlier version of the package."""
    import json

    from plm_tutorial.runtime import file_sha256

    straight, _ = _fit(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "b", callbacks=_stop_at(7))
    step = tmp_path / "b" / "step-00000004"
    memory = json.loads((step / "memory.json").read_text())
    del memory["peak_lr"], memory["moved"]
    (step / "memory.json").write_text(json.dumps(memory))
    files = json.loads((step / "files.json").read_text())
    files["files"]["memory.json"] = file_sha256(step / "memory.json")
    (step / "files.json").write_text(json.dumps(files))
    assert _same(straight, _fit(tmp_path / "b")[0])
