"""The platform bundle: pinned, complete, run by MONAI, and one model in both runtimes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ai.dentition import FDI_NUMBERS
from ai.runtime.bundle import (
    BUNDLES,
    MANIFEST,
    BundleRefused,
    bundle_digest,
    load_bundle,
    platform_bundle,
    write_manifest,
)
from ai.training.dataset import phantom_of

PANORAMIC = BUNDLES / "panoramic"
# What MONAI's metadata schema asks for (docs: MONAI Bundle Specification, metadata.json).
REQUIRED_METADATA = {
    "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task",
    "description", "authors", "copyright", "network_data_format", "intended_use", "data_source",
    "data_type", "image_classes", "label_classes", "pred_classes", "eval_metrics",
}  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the platform bundle that a test may change."""
    return Path(shutil.copytree(PANORAMIC, tmp_path / "panoramic"))


def test_the_platform_bundle_loads_and_names_its_classes() -> None:
    bundle = platform_bundle("panoramic")

    assert bundle.name == "panoramic"
    assert bundle.digest == json.loads(MANIFEST.read_text())["bundles"]["panoramic"]["digest"]
    assert bundle.classes[0] == "background"
    assert [bundle.classes[i + 1] for i in range(32)] == [f"tooth {fdi}" for fdi in FDI_NUMBERS]
    assert set(bundle.thresholds) == {"tooth", "caries", "periapical_lesion", "bone_loss_percent"}


def test_the_digest_does_not_depend_on_where_the_bundle_lies(copy: Path) -> None:
    assert bundle_digest(copy) == bundle_digest(PANORAMIC)
    assert load_bundle(copy).digest == platform_bundle("panoramic").digest


@pytest.mark.parametrize(
    "name",
    ["models/model.onnx", "models/model.pt", "configs/metadata.json", "configs/inference.json"],
)
def test_a_file_changed_by_one_byte_is_refused(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 0x20 if name.startswith("models") else 0
    content += b" " if name.startswith("configs") else b""
    (copy / name).write_bytes(content)

    with pytest.raises(BundleRefused, match="the manifest pins"):
        load_bundle(copy)


def test_an_added_file_a_removed_file_and_a_link_are_refused(copy: Path) -> None:
    (copy / "docs" / "more.md").write_text("more")
    with pytest.raises(BundleRefused, match="the manifest pins"):
        load_bundle(copy)
    (copy / "docs" / "more.md").unlink()
    (copy / "LICENSE").unlink()
    with pytest.raises(BundleRefused, match="the manifest pins"):
        load_bundle(copy)
    (copy / "LICENSE").symlink_to(PANORAMIC / "LICENSE")
    with pytest.raises(BundleRefused, match="links are not accepted"):
        load_bundle(copy)


def test_code_in_a_bundle_is_refused_even_when_pinned(copy: Path) -> None:
    """CVE-2026-21851 and GHSA-873f-pvrv-4x83: bundles that bring code with them."""
    (copy / "configs" / "logging.conf").write_text("[loggers]")

    with pytest.raises(BundleRefused, match=r"logging.conf: only files with"):
        write_manifest([copy], copy.parent / "manifest.json")


def test_a_bundle_of_another_name_and_a_folder_that_is_none_are_refused(copy: Path) -> None:
    metadata = copy / "configs" / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"panoramic"', '"tenant-model"'))
    with pytest.raises(BundleRefused, match="only platform bundles are run"):
        load_bundle(copy)
    with pytest.raises(BundleRefused, match="no MONAI Bundle"):
        load_bundle(copy / "models")


def test_metadata_has_what_monai_asks_for_and_says_what_it_is_not_for() -> None:
    metadata = platform_bundle("panoramic").metadata

    assert set(metadata) >= REQUIRED_METADATA
    assert "NOT for clinical use" in metadata["intended_use"]
    assert metadata["metrics"]["pictures"] >= 50
    image = metadata["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == len(image["channel_def"]) == 3
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert output["num_channels"] == len(output["channel_def"]) == 40


def test_the_model_card_shows_the_metrics_of_the_metadata() -> None:
    bundle = platform_bundle("panoramic")
    card = bundle.model_card_path.read_text()

    assert "Trained on synthetic images only. NOT for clinical use." in card
    assert f"| {bundle.metadata['metrics']['tooth_dice_mean']:.3f} |" in card
    assert f"| {bundle.metadata['metrics']['caries_per_tooth_sensitivity']:.3f} |" in card
    assert bundle.version in card


def test_weights_stay_under_ten_megabytes() -> None:
    assert sum(file.stat().st_size for file in (PANORAMIC / "models").iterdir()) < 10_000_000


@pytest.mark.filterwarnings("ignore")
def test_monai_runs_the_inference_workflow_and_agrees_with_the_runtime(tmp_path: Path) -> None:
    """`monai.bundle` reads configs/inference.json and segments an image file with torch."""
    monai_bundle = pytest.importorskip("monai.bundle")
    from ai.runtime.network import Network

    pixels = phantom_of(400_000).pixels
    image, output = tmp_path / "film.png", tmp_path / "mask.npz"
    Image.fromarray((pixels >> (pixels.dtype.itemsize * 4 - 4)).astype(np.uint8)).save(image)
    shown = np.asarray(Image.open(image))

    workflow = monai_bundle.ConfigWorkflow(
        config_file=str(PANORAMIC / "configs" / "inference.json"),
        meta_file=str(PANORAMIC / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        bundle_root=str(PANORAMIC),
        image=str(image),
        output=str(output),
    )
    workflow.initialize()
    workflow.run()
    by_monai = np.load(output)["label_mask"]
    by_runtime = (
        Network((PANORAMIC / "models" / "model.onnx").read_bytes()).logits(shown)[:33].argmax(0)
    )

    assert by_monai.shape == (256, 512)
    assert len(np.unique(by_monai)) > 15
    assert (by_monai == by_runtime).mean() > 0.985


@pytest.mark.filterwarnings("ignore")
def test_torch_weights_and_onnx_model_are_the_same_network() -> None:
    torch = pytest.importorskip("torch")
    from ai.training.exporting import LARGEST_DIFFERENCE, check_agreement
    from ai.training.panoramic import network_of

    network = network_of(PANORAMIC)
    network.load_state_dict(torch.load(PANORAMIC / "models" / "model.pt", weights_only=True))

    assert check_agreement(network, PANORAMIC, phantom_of(400_001).pixels) < LARGEST_DIFFERENCE
