from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from tiny_detector import (
    TINY,
    TRAINED,
    WIDTH,
    is_closed,
    tiny_context,
    tiny_detector,
    tiny_distillation,
    tiny_images,
    tiny_target,
)
from torch import Tensor

from vildcli.detector.architecture import ARCHITECTURES, Architecture, architecture_from_dict
from vildcli.detector.boxes import BOX_CODE_WEIGHTS, decode_boxes
from vildcli.detector.detector import Detector, mask_targets
from vildcli.detector.heads import region_levels
from vildcli.errors import ModelError
from vildcli.systems import SYSTEMS, find_system, vary
from vildcli.types import Distillation, LaterMasks, Regions, Target


def losses_of(
    detector: Detector,
    targets: list[Target] | None = None,
    distillation: list[Distillation] | None = None,
) -> dict[str, Tensor]:
    detector.train()
    targets = targets or [tiny_target(), tiny_target(1)]
    context = tiny_context(detector.system.name)
    found = detector(tiny_images(), targets, context, distillation, generators())
    return {name: loss.mean() for name, loss in found.items()}


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(2)]


def assert_same(a: Regions, b: Regions, *, exact: bool = True) -> None:
    assert len(a) == len(b)
    for name in ("boxes", "proposals", "objectness", "masks", "text_side", "image_side"):
        ours, theirs = getattr(a, name), getattr(b, name)
        assert (ours is None) == (theirs is None)
        if ours is not None and exact:
            assert torch.equal(ours, theirs), name
        elif ours is not None:
            tolerance = {"masks": 1.0, "text_side": 2e-3, "image_side": 2e-3}.get(name, 1e-3)
            torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance, rtol=1e-4)


@pytest.mark.parametrize("system", TRAINED)
def test_every_trained_system__losses_and_regions(system: str) -> None:
    row, detector = SYSTEMS[system], tiny_detector(system)
    distillation = [tiny_distillation(), tiny_distillation()] if row.distilled else None
    losses = losses_of(detector, distillation=distillation)
    assert set(losses) == {
        "objectness",
        "proposal_box",
        "box",
        "mask",
        *(["text"] if row.text_side else []),
        *(["distillation"] if row.distilled else []),
    }
    torch.stack(list(losses.values())).sum().backward()
    without = {n for n, p in detector.named_parameters() if p.grad is None}
    assert without == set()  # processes that train together wait for every gradient

    regions = detector.eval().regions([tiny_images()[0]], count=20)[0]
    assert 0 < len(regions) <= 20
    assert (regions.text_side is None) == (row.text_side is None)
    assert (regions.image_side is None) == (row.image_side != "student")
    for side in (regions.text_side, regions.image_side):
        if side is not None:
            assert side.dtype == torch.float16
            assert side.shape == (len(regions), TINY.fc_width + 1 if is_closed(system) else WIDTH)
            if is_closed(system):
                assert (side[:, -1] == 1).all()
            else:
                assert (side.float().norm(dim=1) - 1).abs().max() < 2e-3
    assert (regions.objectness[:-1] >= regions.objectness[1:]).all()
    assert regions.boxes.min() >= 0
    assert regions.boxes.max() <= 64


def test_gradients__neither_text_nor_teacher() -> None:
    detector, context = tiny_detector("vild-ensemble"), tiny_context()
    distillation = [tiny_distillation(), tiny_distillation()]
    context.text_embeddings.requires_grad_(False)
    losses = losses_of(detector, distillation=distillation)
    losses["text"].backward(retain_graph=True)
    assert detector.background.grad is not None
    assert detector.background.grad.abs().sum() > 0
    assert detector.head.project.weight.grad is not None
    assert detector.image_head is not None
    assert detector.image_head.project.weight.grad is None
    losses["distillation"].backward()
    assert detector.image_head.project.weight.grad.abs().sum() > 0
    assert not any(d.embeddings.requires_grad for d in distillation)


@pytest.mark.parametrize("system", TRAINED)
def test_empty_images_and_invalid_regions_are_finite(system: str) -> None:
    detector = tiny_detector(system)
    distilled = SYSTEMS[system].distilled
    distillation = [tiny_distillation(valid=False)] * 2 if distilled else None
    losses = losses_of(detector, [tiny_target(0), tiny_target(0)], distillation)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["box"] == losses["mask"] == losses["proposal_box"] == 0
    assert not distilled or losses["distillation"] == 0
    torch.stack(list(losses.values())).sum().backward()


@pytest.mark.parametrize("system", TRAINED)
def test_no_proposals_are_finite(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = (torch.zeros(0, 4), torch.zeros(0))
    monkeypatch.setattr(
        "vildcli.detector.detector.select_proposals", lambda *a, **k: [nothing, nothing]
    )
    detector = tiny_detector(system)
    distillation = [tiny_distillation()] * 2 if SYSTEMS[system].distilled else None
    losses = losses_of(detector, distillation=distillation)
    assert all(torch.isfinite(loss) for loss in losses.values())
    losses = losses_of(detector, [tiny_target(0)] * 2, distillation)
    assert all(torch.isfinite(loss) for loss in losses.values())
    found = detector.eval().regions(list(tiny_images()))
    assert [len(regions) for regions in found] == [0, 0]


def test_one_head_sees_both_kinds_of_regions() -> None:
    with_teacher = losses_of(tiny_detector("vild"), distillation=[tiny_distillation()] * 2)
    without = losses_of(tiny_detector("vild"))
    assert with_teacher["text"] != without["text"]  # batch norm saw other regions


def test_one_head_keeps_both_kinds_apart() -> None:
    found = []
    for distillation in (None, [tiny_distillation(), tiny_distillation()]):
        detector = tiny_detector("vild").eval()  # batch norm no longer mixes regions
        targets = [tiny_target(), tiny_target(1)]
        with torch.no_grad():
            images, context = tiny_images(), tiny_context()
            found.append(detector(images, targets, context, distillation, generators()))
    assert "distillation" not in found[0]
    for name, loss in found[0].items():
        torch.testing.assert_close(found[1][name].mean(), loss.mean())


def test_an_image_is_sampled_alike_in_any_batch() -> None:
    detector, context = tiny_detector("vild-text").eval(), tiny_context()
    images, targets = tiny_images(), [tiny_target(), tiny_target(1)]
    with torch.no_grad():
        whole = detector(images, targets, context, None, generators())
        shares = [
            detector(images[i : i + 1], targets[i : i + 1], context, None, generators()[i : i + 1])
            for i in range(2)
        ]
    for name, loss in whole.items():
        sums = sum(share[name].sums for share in shares)
        torch.testing.assert_close(sums, loss.sums)
        assert torch.equal(sum(share[name].counts for share in shares), loss.counts)


def test_shuffling_the_teacher_changes_the_distillation_alone() -> None:
    losses = losses_of(tiny_detector("vild"), distillation=[tiny_distillation()] * 2)
    other = tiny_distillation()
    swapped = Distillation(other.boxes, other.embeddings.flip(0), other.valid)
    changed = losses_of(tiny_detector("vild"), distillation=[swapped] * 2)
    assert {k for k in losses if losses[k] != changed[k]} == {"distillation"}


def test_regions__an_image_is_the_same_in_any_batch() -> None:
    detector = tiny_detector().eval()
    generator = torch.Generator().manual_seed(0)
    sizes = [(64, 64), (40, 80), (1, 1), (100, 30), (64, 64), (1, 90), (41, 80)]
    images = [torch.randint(0, 256, (3, *s), dtype=torch.uint8, generator=generator) for s in sizes]
    together = detector.regions(images, count=15)
    for image, regions, (height, width) in zip(images, together, sizes, strict=True):
        assert_same(detector.regions([image], count=15)[0], regions, exact=False)
        assert regions.boxes.numel() == 0 or (
            regions.boxes[:, [0, 2]].max() <= width and regions.boxes[:, [1, 3]].max() <= height
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_regions__later_masks_are_those_of_the_regions_that_are_asked_for(
    dtype: torch.dtype,
) -> None:
    detector, images = tiny_detector().eval(), list(tiny_images())
    seen: list[int] = []
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        exact = detector.regions(images, count=20)
        detector.mask_head.register_forward_hook(lambda m, i, logits: seen.append(len(logits)))
        found = detector.regions(images, count=20, later_masks=True)
    assert seen == []  # it knows no mask yet
    rows = torch.tensor([7, 2, 11])
    with ThreadPoolExecutor(1) as pool:  # whose precision is not the caller's
        some = [pool.submit(regions.masks[rows].numpy).result() for regions in found]
    assert seen == [3, 3]
    for now, later, masks in zip(exact, found, some, strict=True):
        assert isinstance(later.masks, LaterMasks)
        assert later.masks.shape == now.masks.shape
        difference = now.masks[rows].numpy().astype(int) - masks
        assert abs(difference).max() <= 1  # of 255: sums over fewer regions end in other last bits
        assert masks.std() > 0
        assert torch.equal(now.boxes, later.boxes)


def test_regions__fewer_are_the_best_of_more() -> None:
    detector, image = tiny_detector().eval(), tiny_images()[0]
    few, many = (detector.regions([image], count=c)[0] for c in (5, 20))
    torch.testing.assert_close(few.proposals, many.proposals[: len(few)])
    torch.testing.assert_close(few.objectness, many.objectness[: len(few)])


def test_mask_targets__a_box_on_its_object_is_filled() -> None:
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[1, 8:40, 16:48] = True
    boxes = torch.tensor([[16.0, 8, 48, 40], [16, 8, 48, 72], [0, 0, 64, 64]])
    cut = mask_targets(masks, torch.tensor([1, 1, 0]), boxes)
    assert cut.shape == (3, 28, 28)
    assert cut[0].mean() == 1
    assert cut[1, :14].mean() == 1
    assert cut[1, 14:].mean() == 0
    assert cut[2].sum() == 0


def test_architecture__round_trip_through_json() -> None:
    for architecture in (TINY, *ARCHITECTURES.values()):
        written = json.loads(json.dumps(architecture.as_dict()))
        assert architecture_from_dict(written) == architecture


def test_architecture__unknown_keys_are_refused() -> None:
    with pytest.raises(ModelError, match=r"^Unknown architecture keys: cascade\.$") as error:
        architecture_from_dict({**TINY.as_dict(), "cascade": 3})
    assert error.value.hint == "Update vildcli."


def test_architecture__unknown_backbone_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^There is no backbone 'vgg'\.$") as error:
        Detector(Architecture(backbone="vgg"), SYSTEMS["vild"], WIDTH)
    assert error.value.hint == (
        "Backbones: small, resnet50, resnet50_caffe, resnet152, efficientnet_b7."
    )


def concatenated(detector: Detector) -> torch.nn.Linear:
    """The published layer over [feature; text] with this detector's weights."""
    assert detector.word_boxes is not None
    layer = torch.nn.Linear(TINY.fc_width + WIDTH, 4)
    layer.weight.data = torch.cat([detector.boxes.weight, detector.word_boxes.weight], 1).detach()
    layer.bias.data = detector.boxes.bias.detach()
    return layer


def test_semantic_boxes__factorised_is_concatenated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes, loss and gradients of A·feature + B·text are those of the layer over [feature; text],
    which is given the text of each region's true category."""
    detector = tiny_detector("ezsd")
    assert detector.word_boxes is not None
    torch.nn.init.normal_(detector.word_boxes.weight)
    layer, context, seen = concatenated(detector), tiny_context("ezsd"), []
    hook = detector.boxes.register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))
    boxes_lost, samples = [], []
    from vildcli.detector import detector as module

    kept, sample = module.box_loss, module.sample_regions
    monkeypatch.setattr(module, "box_loss", lambda c, t: boxes_lost.append((c, t)) or kept(c, t))
    monkeypatch.setattr(
        module, "sample_regions", lambda *a, **k: samples.append(sample(*a, **k)) or samples[-1]
    )
    losses = losses_of(detector)
    hook.remove()
    labels = torch.cat([s.labels[s.foreground] for s in samples])
    [features], [(codes, targets)] = seen, boxes_lost
    expected = layer(torch.cat([features, context.text_embeddings[labels - 1]], 1))
    assert len(labels) > 0
    torch.testing.assert_close(codes, expected, atol=1e-5, rtol=1e-4)
    losses["box"].backward()
    kept(expected, targets).mean().backward()
    found = torch.cat([detector.boxes.weight.grad, detector.word_boxes.weight.grad], 1)
    torch.testing.assert_close(found, layer.weight.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(detector.boxes.bias.grad, layer.bias.grad, atol=1e-5, rtol=1e-4)


def test_semantic_boxes__regions_keep_what_no_name_has_a_say_in() -> None:
    detector, image = tiny_detector("ezsd").eval(), tiny_images()[0][:, :40, :50]
    torch.nn.init.normal_(detector.boxes.weight)
    assert detector.word_boxes is not None
    [regions] = detector.regions([image], count=20)
    assert regions.size == (50, 40)
    assert regions.box_codes is not None
    decoded = decode_boxes(
        regions.box_codes, regions.proposals, BOX_CODE_WEIGHTS, clamp_shrinking=True
    )
    limit = torch.tensor([50.0, 40, 50, 40])
    torch.testing.assert_close(
        regions.boxes, decoded.clamp(min=0).minimum(limit), atol=1e-3, rtol=0
    )
    detector.word_boxes.weight.data.fill_(100)  # boxes and masks know no name yet
    assert_same(detector.regions([image], count=20)[0], regions)
    assert torch.equal(detector.scoring_head(0.5).word_boxes, detector.word_boxes.weight)
    [plain] = tiny_detector("vild").eval().regions([image], count=20)
    assert plain.box_codes is plain.size is None


def test_learned_temperature__starts_at_the_encoders_and_moves() -> None:
    detector = tiny_detector("ezsd")
    assert detector.scoring_head(0.3).temperature == pytest.approx(0.01)
    detector.start_at(0.1)
    assert detector.scoring_head(0.3).temperature == pytest.approx(0.1)
    losses_of(detector)["text"].backward()
    assert detector.logit_scale.grad.abs() > 0
    fixed = Detector(TINY, vary(SYSTEMS["ezsd"], {"learned_temperature": False}), WIDTH)
    assert fixed.logit_scale is None
    assert fixed.scoring_head(0.3).temperature == 0.3


def test_seesaw__trains_two_logits_of_its_own() -> None:
    torch.manual_seed(0)
    detector = Detector(TINY, vary(SYSTEMS["ezsd"], {"class_loss": "seesaw"}), WIDTH).train()
    assert detector.background.shape == (2, WIDTH)
    context = replace(tiny_context("ezsd"), objects=torch.tensor([90.0, 3, 0]))
    targets = [tiny_target(), tiny_target(1)]
    losses = detector(tiny_images(), targets, context, None, generators())
    losses["text"].mean().backward()
    assert detector.background.grad.abs().sum(1).min() > 0
    assert detector.scoring_head(1.0).background.shape == (2, WIDTH)


def test_weighted_regions__weigh_within_an_image() -> None:
    def distilled(*weights: float) -> Tensor:
        given = tiny_distillation()
        weighted = replace(given, weights=torch.tensor(weights)) if weights else given
        detector = tiny_detector("ezsd").eval()
        with torch.no_grad():
            found = detector(
                tiny_images(),
                [tiny_target(), tiny_target(1)],
                tiny_context("ezsd"),
                [weighted, given],
                generators(),
            )
        return found["distillation"].mean()

    alike = distilled()
    torch.testing.assert_close(distilled(0.3, 0.3, 0.9), alike)  # the third has no area
    first, second = distilled(1, 0, 1), distilled(0, 1, 1)
    torch.testing.assert_close((first + second) / 2, alike)
    assert not torch.allclose(first, second)


def test_vary__what_is_not_compared_with_words_has_nothing_to_vary() -> None:
    assert vary(SYSTEMS["supervised"], {"class_loss": "softmax"}) == SYSTEMS["supervised"]
    assert vary(SYSTEMS["vild"], {"semantic_boxes": True}).semantic_boxes
    with pytest.raises(ModelError) as error:
        vary(SYSTEMS["vild-image"], {"semantic_boxes": True, "learned_temperature": True})
    assert str(error.value) == (
        "vild-image is not trained against words, so it has no semantic boxes, learned temperature "
        "to choose."
    )
    assert error.value.hint == "Leave it out, or train vild-text, vild, vild-ensemble or ezsd."


def test_find_system__names_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"^There is no system 'vild-ensembel'\.$") as error:
        find_system("vild-ensembel")
    assert error.value.hint == "Did you mean 'vild-ensemble'?"


def test_resnet50__published_sizes() -> None:
    torch.manual_seed(0)
    detector = Detector(ARCHITECTURES["resnet50"], SYSTEMS["vild-ensemble"], 512).eval()
    with torch.inference_mode():
        pyramid = detector.backbone(torch.zeros(1, 3, 128, 128))
    assert [tuple(x.shape[1:]) for x in pyramid] == [(256, s, s) for s in (32, 16, 8, 4, 2)]
    assert all(x.min() < 0 for x in pyramid)  # normalised, and no ReLU after it
    head, rpn = detector.head, detector.proposal_head
    sizes = [tuple(p.shape) for p in head.parameters() if p.ndim > 1]
    assert sizes == [(256, 256, 3, 3)] * 4 + [(1024, 256 * 49), (1024, 1024), (512, 1024)]
    assert len(rpn.convs) == 2
    assert [len(norms) for norms in rpn.norms] == [2] * 5  # type: ignore[arg-type]
    assert rpn.objectness.out_channels == 3
    assert tuple(detector.boxes.weight.shape) == (4, 1024)
    assert detector.mask_head.logits.out_channels == 1
    assert set(detector.backbone.norm) == {"2", "3", "4", "5", "6"}
    norm = detector.backbone.norm["2"]
    assert (norm.eps, norm.momentum) == (1e-4, 0.003)
    largest = torch.tensor([[0.0, 0, 1000, 1000]])
    assert region_levels(largest, detector.architecture).tolist() == [6]  # P6 is pooled too


def test_ezsds_architecture__published_sizes() -> None:
    torch.manual_seed(0)
    detector = Detector(ARCHITECTURES["ezsd"], SYSTEMS["ezsd"], 512).eval()
    head, sizes = detector.head, {}
    for name, module in {
        "shared": head.convs,
        "own": head.own_convs,
        "box": head.box_branch,
    }.items():
        sizes[name] = [tuple(p.shape) for p in module.parameters() if p.ndim > 1]
    conv, fcs = (256, 256, 3, 3), [(1024, 256 * 49), (1024, 1024)]
    assert sizes == {"shared": [conv] * 3, "own": [conv], "box": [conv, *fcs]}
    assert [tuple(p.shape) for p in head.fcs.parameters() if p.ndim > 1] == fcs
    assert tuple(head.project.weight.shape) == (512, 1024)
    assert tuple(detector.boxes.weight.shape) == (4, 1024)  # and with it 1536 columns
    assert tuple(detector.word_boxes.weight.shape) == (4, 512)
    normed = [n for n, m in detector.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert normed
    assert all(name.startswith("backbone.body.") for name in normed)


@pytest.mark.parametrize("system", ["ezsd", "vild-ensemble", "supervised"])
def test_ezsds_architecture__trains_boxes_apart_from_embeddings(system: str) -> None:
    torch.manual_seed(0)
    architecture = replace(TINY, output_norms=False, norms=(), separate_convs=1)
    assert architecture_from_dict(json.loads(json.dumps(architecture.as_dict()))) == architecture
    detector = Detector(architecture, SYSTEMS[system], WIDTH, classes=2)
    distilled = SYSTEMS[system].distilled
    losses = losses_of(detector, distillation=[tiny_distillation()] * 2 if distilled else None)
    losses["box"].backward(retain_graph=True)
    assert detector.head.fcs[0].weight.grad is None
    assert detector.head.box_branch[-2].weight.grad.abs().sum() > 0
    detector.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    assert not [name for name, p in detector.named_parameters() if p.grad is None]
    assert len(detector.eval().regions([tiny_images()[0]], count=5)[0]) > 0


def test_architecture__what_came_later_is_named_where_it_is_unusual_alone() -> None:
    assert not {"output_norms", "separate_convs"} & set(ARCHITECTURES["detpro"].as_dict())
    assert {"output_norms", "separate_convs"} <= set(ARCHITECTURES["ezsd"].as_dict())


def test_detpros_architecture__trains_and_finds_regions() -> None:
    torch.manual_seed(0)
    architecture = replace(ARCHITECTURES["detpro"], channels=8, fc_width=16, box_convs=1)
    detector = Detector(architecture, SYSTEMS["vild-ensemble"], WIDTH).train()
    losses = losses_of(detector, distillation=[tiny_distillation()] * 2)
    assert all(torch.isfinite(loss) for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert not [name for name, p in detector.named_parameters() if p.grad is None]
    [regions] = detector.eval().regions([torch.zeros(3, 30, 200, dtype=torch.uint8)], count=5)
    assert len(regions) == 5
    assert regions.boxes[:, 2].max() <= 200
