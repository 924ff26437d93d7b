from __future__ import annotations

import shutil
from pathlib import Path
from urllib.error import URLError

import huggingface_hub
import pytest
import torch

from vildcli import cli, weights
from vildcli.errors import ModelError

DETECTOR_FILE = "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VILDCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: None)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> list[str]:
    """A network of two files; what was asked of it."""
    asked: list[str] = []
    published = tmp_path / "published.safetensors"
    published.write_bytes(b"clip")

    def from_hub(architecture: str, tag: str) -> Path:
        asked.append(f"{architecture}:{tag}")
        return published

    def from_address(address: str, target: str, **options) -> None:
        asked.append(address)
        shutil.copy(published, target)

    monkeypatch.setattr(weights, "download_open_clip", from_hub)
    monkeypatch.setattr(torch.hub, "download_url_to_file", from_address)
    return asked


def test_fetch_fills_the_weights_folder_once(places, hub, capsys):
    assert cli.run(["fetch"]) == 0
    assert sorted(p.name for p in places.iterdir()) == [
        "ViT-B-32.openai.safetensors",
        DETECTOR_FILE,
    ]
    assert [address.rsplit("/", 1)[-1] for address in hub] == ["ViT-B-32:openai", DETECTOR_FILE]
    hub.clear()
    assert cli.run(["fetch"]) == 0
    assert hub == []
    assert "ViT-B-32:openai: already there" in capsys.readouterr().err


def test_a_dry_run_downloads_nothing(places, hub, capsys):
    assert cli.run(["fetch", "ViT-L-14:openai", "--dry-run"]) == 0
    assert hub == []
    assert not places.exists()
    said = capsys.readouterr().err
    assert f"ViT-L-14:openai  missing  {places / 'ViT-L-14.openai.safetensors'}" in said


def test_a_file_put_there_by_hand_is_taken(places, hub):
    places.mkdir(parents=True)
    (places / "ViT-B-32.openai.bin").write_bytes(b"by hand")
    (file,) = weights.plan_fetch(["ViT-B-32:openai"])
    assert (file.is_present, file.path.name) == (True, "ViT-B-32.openai.bin")
    assert weights.fetch(file) == places / "ViT-B-32.openai.bin"
    assert hub == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("ViT-B-32", "'ViT-B-32' names no public weights."),
        ("ViT-B-32:opanai", "ViT-B-32 has no public weights 'opanai'."),
        ("nothing:openai", "open_clip has no architecture 'nothing'."),
    ],
)
def test_wrong_references_are_refused(reference, message):
    with pytest.raises(ModelError) as error:
        weights.plan_fetch([reference])
    assert str(error.value) == message


def test_detector_weights_are_found_where_torch_left_them(tmp_path, places, hub):
    by_torch = tmp_path / "torch" / "hub" / "checkpoints" / DETECTOR_FILE
    by_torch.parent.mkdir(parents=True)
    by_torch.write_bytes(b"detector")
    assert weights.find_detector_weights(offline=True) == by_torch
    places.mkdir(parents=True)
    (places / DETECTOR_FILE).write_bytes(b"detector")
    assert weights.find_detector_weights(offline=True) == places / DETECTOR_FILE
    assert hub == []


def test_detector_weights_are_downloaded_unless_offline(places, hub):
    with pytest.raises(ModelError) as error:
        weights.find_detector_weights(offline=True)
    assert str(error.value) == (
        "The weights of torchvision's Mask R-CNN are not here, and the network is forbidden."
    )
    assert error.value.hint == (
        f"Run 'vildcli fetch' where there is a network and copy {DETECTOR_FILE} "
        f"to {places / DETECTOR_FILE}"
    )
    assert hub == []
    assert weights.find_detector_weights() == places / DETECTOR_FILE


def test_a_failed_download_leaves_nothing(places, monkeypatch, capsys):
    def fail(address: str, target: str, **options) -> None:
        Path(target).write_bytes(b"half")
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    assert cli.run(["fetch", "torchvision"]) == 1
    said = capsys.readouterr().err
    assert "Error: The weights of torchvision's Mask R-CNN cannot be downloaded" in said
    assert f"Hint: Run 'vildcli fetch' where there is a network and copy {DETECTOR_FILE}" in said
    assert list(places.iterdir()) == []
