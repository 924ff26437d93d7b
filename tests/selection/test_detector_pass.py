from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from tiny_detector import tiny_context, tiny_detector, tiny_images, tiny_target
from torch import Tensor, nn

from vildcli.errors import ModelError
from vildcli.selection import detector_pass
from vildcli.selection.detector_pass import (
    DetectorLoss,
    KnownBoxes,
    as_known,
    last_layers,
    refuse_unknown,
)
from vildcli.selection.last_layers import HeadPass, LayerPass

KNOWN = as_known([[8, 10, 60, 50], [30, 30, 70, 66]], [0, 2])


def image() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (3, 70, 80), dtype=torch.uint8, generator=generator)


def loss_of(system: str = "vild-text", seed: int = 0) -> DetectorLoss:
    detector = tiny_detector(system, seed)
    detector.start_at(0.1)  # where τ is learned
    # Far from its first state, so that proposals, classes and boxes all have something to say.
    for layer in last_layers(detector).values():
        assert isinstance(layer.weight, nn.Parameter)
        nn.init.normal_(layer.weight, std=0.3)
    words = tiny_context("vild-text").text_embeddings
    if detector.classifier is not None:
        words = detector.classifier_rows()[1:].detach()
    return DetectorLoss(detector, words, 0.1, regions=24)


def uncut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let autograd go through the layers themselves."""

    @contextmanager
    def nothing(layers: Mapping[str, nn.Module]) -> Iterator[list[LayerPass]]:
        yield []

    monkeypatch.setattr(detector_pass, "cut_at", nothing)


@pytest.mark.parametrize("system", ["vild-text", "vild-ensemble", "ezsd"])
def test_gradient__by_hooks_equals_autograds(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = loss_of(system)
    found = loss(image(), KNOWN, 3).gradient()
    named = {"word boxes"} if system == "ezsd" else set()
    assert set(found) == {"objectness", "deltas", "boxes", "projection"} | named
    uncut(monkeypatch)
    layers = last_layers(loss.detector)
    weights = [layer.weight.requires_grad_() for layer in layers.values()]  # type: ignore[union-attr]
    wanted = torch.autograd.grad(loss(image(), KNOWN, 3).loss, weights)
    for name, true in zip(layers, wanted, strict=True):
        assert true.any(), name
        torch.testing.assert_close(found[name], true.flatten(1), rtol=1e-4, atol=1e-6)


def test_gradient__of_a_closed_set_is_its_classifiers_too() -> None:
    loss = loss_of("supervised")
    known = KnownBoxes(KNOWN.boxes, torch.tensor([0, 1]))
    found = loss(image(), known, 3)
    assert set(found.gradient()) == {"objectness", "deltas", "boxes", "classifier"}
    assert found.gradient()["classifier"].shape == (3, 17)  # background and two, bias last


def test_hessian_product__equals_autograds(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = loss_of()
    one = loss(image(), KNOWN, 3)
    direction = {name: torch.randn_like(g) for name, g in one.gradient().items()}
    found = one.hessian_product(direction)
    uncut(monkeypatch)
    layers = last_layers(loss.detector)
    weights = [layer.weight.requires_grad_() for layer in layers.values()]  # type: ignore[union-attr]
    first = torch.autograd.grad(loss(image(), KNOWN, 3).loss, weights, create_graph=True)
    inner = sum(
        (g.flatten(1) * direction[name]).sum() for name, g in zip(layers, first, strict=True)
    )
    assert isinstance(inner, Tensor)
    second = torch.autograd.grad(inner, weights, allow_unused=True)
    for name, true in zip(layers, second, strict=True):
        if true is not None:
            torch.testing.assert_close(found[name], true.flatten(1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("system", ["vild-text", "ezsd"])
def test_loss__is_that_of_training_where_all_regions_are_drawn_and_all_is_base(system: str) -> None:
    loss = replace(loss_of(system), regions=1000)
    pixels, target = tiny_images(1), tiny_target()
    columns = torch.tensor([0, 2])
    found = loss(pixels[0], KnownBoxes(target.boxes, columns), 3).loss
    context = replace(
        tiny_context("vild-text"),
        text_embeddings=loss.text_embeddings,
        is_base=torch.ones(3, dtype=torch.bool),
        temperature=loss.temperature,
        regions=100_000,
        proposals=1000,
    )
    drawn = torch.Generator().manual_seed(3)
    parts = loss.detector(pixels, [replace(target, labels=columns)], context, generators=[drawn])
    wanted = sum(parts[name].mean() for name in ("objectness", "proposal_box", "text", "box"))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, check_device=False)


def test_loss__is_a_function_of_the_image_alone() -> None:
    loss = loss_of()
    one, again, other = (loss(image(), KNOWN, seed) for seed in (3, 3, 4))
    assert one.loss.item() == again.loss.item()
    assert one.loss.item() != other.loss.item()  # other anchors are drawn
    bare = loss(image(), as_known([], []), 3)
    assert torch.isfinite(bare.loss)
    assert not bare.gradient()["boxes"].any()


def test_loss__counts_novel_categories_in_full() -> None:
    """The training loss takes their logits out; here they carry the gradient that is sought."""
    loss = loss_of()
    apple, novel = (loss(image(), as_known([[8, 10, 60, 50]], [c]), 3) for c in (0, 2))
    assert float((apple.gradient()["projection"] - novel.gradient()["projection"]).norm()) > 1e-3


@pytest.mark.slow
def test_draw__averages_to_the_hessian_of_the_convex_parts() -> None:
    """Objectness is logistic and its layer linear: Gauss-Newton is the Hessian itself."""
    loss = loss_of()
    one = loss(image(), KNOWN, 3)
    direction = {n: torch.zeros_like(g) for n, g in one.gradient().items()}
    direction["objectness"] = torch.randn_like(direction["objectness"])
    wanted = one.hessian_product(direction)["objectness"]
    generator, total, draws = torch.Generator().manual_seed(0), torch.zeros_like(wanted), 400
    for _ in range(draws):
        for layer, inputs, drawn in one.curvature_rows(generator):
            if layer == "objectness":
                along = (drawn * (inputs @ direction[layer].T)).sum(1, keepdim=True)
                total += (drawn * along).T @ inputs
    assert float((total / draws - wanted).norm() / wanted.norm()) < 0.15


def test_loss__makes_no_graph_below_the_last_layers() -> None:
    loss = loss_of()
    assert not any(p.requires_grad for p in loss.detector.parameters())
    one: HeadPass = loss(image(), KNOWN, 3)
    assert all(not p.inputs.requires_grad for p in one.passes)


def test_refuse_unknown__says_what_isal_needs() -> None:
    with pytest.raises(ModelError) as caught:
        refuse_unknown(object())
    assert str(caught.value) == (
        "isal needs a trained detector: clip-on-crops has no layer that review would train."
    )
    with pytest.raises(ModelError) as caught:
        refuse_unknown(tiny_detector("vild-image"))
    assert str(caught.value) == (
        "isal needs a class loss, and vild-image has none: it is only distilled."
    )
    refuse_unknown(tiny_detector("vild-text"))
