"""Learning rates, Muon and who moves what, against formulas and against torch's own."""

import math

import pytest
import torch
from torch import nn

from plm_tutorial.training import Muon, lr_at, make_optimizers, orthogonalize, split_parameters
from tests.training.toy import make_model


def test_every_shape_warms_up_and_ends_where_it_should():
    for shape, end in (("cosine", 0.1), ("wsd", 0.1), ("constant", 1.0)):
        rates = [lr_at(s, 100, warmup=10, shape=shape, floor=0.1) for s in range(100)]
        assert rates[:10] == pytest.approx([(s + 1) / 11 for s in range(10)])
        assert max(rates) == rates[10] == 1
        assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
        assert rates[-1] == pytest.approx(end, abs=0.05)
    assert lr_at(55, 101, shape="cosine") == pytest.approx((1 + math.cos(math.pi * 0.55)) / 2)
    wsd = [lr_at(s, 100, shape="wsd", decay=0.2) for s in range(100)]
    assert wsd[80] == 1 and wsd[81] == pytest.approx(0.95) and wsd[99] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shape": "linear"}, "shape of the learning rate is 'linear'; implemented here: cosine, wsd, constant"),
        ({"warmup": 100}, "warmup is 100 of 100 steps"),
        ({"floor": 2}, "floor 2"),
        ({"shape": "wsd", "decay": 0}, "decay 0"),
    ],
)
def test_rates_that_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        lr_at(0, 100, **wrong)


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12)])
def test_orthogonalize_keeps_directions_and_evens_out_their_strength(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, strength, right = torch.linalg.svd(matrix, full_matrices=False)
    out = orthogonalize(matrix)
    in_their_basis = left.T @ out @ right.T
    after = in_their_basis.diagonal()
    assert (in_their_basis - after.diag()).abs().max() < 1e-4  # the same directions
    assert after.min() > 0.5 and after.max() < 1.3
    assert strength.max() / strength.min() > after.max() / after.min()


def test_muon_equals_torchs_own_within_its_bfloat16():
    torch.manual_seed(0)
    start, gradients = torch.randn(12, 20), torch.randn(5, 12, 20)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        Muon([ours], lr=0.02, momentum=0.9, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for gradient in gradients:
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() / moved < 0.03


def test_an_update_of_muon_has_the_size_that_adamws_have():
    torch.manual_seed(0)
    for shape in ((64, 64), (128, 32), (32, 256)):
        parameter = nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.randn(shape)
        Muon([parameter], lr=1.0).step()
        assert float(parameter.detach().square().mean().sqrt()) == pytest.approx(0.2, rel=0.25)


def test_parameters_are_moved_by_what_they_are():
    model = make_model()
    groups = split_parameters(model)
    assert [p.shape for p in groups["tables"]] == [(50, 32)]
    assert (
        all(p.ndim == 1 for p in groups["vectors"]) and len(groups["vectors"]) == 5
    )  # two norms a layer, one at the end
    assert len(groups["matrices"]) == 2 * 7
    model.layers[0].requires_grad_(False)
    assert len(split_parameters(model)["matrices"]) == 7
    adamw, muon = make_optimizers(model, "muon", lr=1e-3, muon_lr=1e-2, weight_decay=0.1)
    assert isinstance(muon, Muon) and muon.param_groups[0]["lr"] == 1e-2 and muon.param_groups[0]["weight_decay"] == 0.1
    assert all(group["weight_decay"] == 0 for group in adamw.param_groups)


def test_what_the_optimizers_refuse():
    with pytest.raises(ValueError, match=r"Muon got a parameter of shape \(3,\); it moves matrices alone"):
        Muon([nn.Parameter(torch.zeros(3))])
    with pytest.raises(ValueError, match="the optimizer is 'sgd'; implemented here: adamw, muon"):
        make_optimizers(make_model(), "sgd", lr=1e-3)
    with pytest.raises(ValueError, match="no parameter that requires a gradient; unfreeze some"):
        make_optimizers(make_model().requires_grad_(False), lr=1e-3)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_learning_rates_are_scaled_by_name(kind):
    model = make_model()
    names = {name: parameter for name, parameter in model.named_parameters()}
    scales = {"layers.0.attention.query.weight": 0.5, "layers.0.attention.key.weight": 0.5, "norm.weight": 0.25}
    made = make_optimizers(model, kind, lr=1e-3, muon_lr=1e-2, weight_decay=0.1, lr_scales=scales)
    rates = {p: group["lr"] for optimizer in made for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(names)
    for name, parameter in names.items():
        matrix = parameter.ndim == 2 and name != "tokens.weight"
        peak = 1e-2 if kind == "muon" and matrix else 1e-3
        assert rates[parameter] == pytest.approx(peak * scales.get(name, 1.0)), name
    for optimizer in made:
        for group in optimizer.param_groups:
            assert group["peak_lr"] == group["lr"]
            matrices = all(p.ndim == 2 and p.size(0) != 50 for p in group["params"])
            assert group["weight_decay"] == (0.1 if matrices else 0.0)


def test_without_scales_the_groups_are_what_they_were():
    plain, scaled = (make_optimizers(make_model(), lr=1e-3, lr_scales=s)[0].param_groups for s in (None, {}))
    assert len(plain) == len(scaled) == 3


def test_scales_that_are_refused():
    with pytest.raises(ValueError, match="lr_scales names 'nothing', which is no parameter of this Llama"):
        make_optimizers(make_model(), lr=1e-3, lr_scales={"nothing": 0.5})
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="lr_scales has .* for 'norm.weight'; expected a number"):
            make_optimizers(make_model(), lr=1e-3, lr_scales={"norm.weight": wrong})
