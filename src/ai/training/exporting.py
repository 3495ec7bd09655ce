"""Writes a trained network into the bundle: weights, ONNX for run time, metadata, manifest."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from ai.dentition import FDI_NUMBERS
from ai.runtime.channels import INPUT_HEIGHT, INPUT_WIDTH, OUTPUT_CHANNELS
from ai.runtime.network import Network
from ai.runtime.postprocess import KINDS, Reporting

# ONNX Runtime and torch add floats in another order; the logits agree to this.
LARGEST_DIFFERENCE = 2e-3
VERSION = "1.0.0"


def save_weights(network: torch.nn.Module, bundle: Path) -> None:
    """Write models/model.pt (a plain state dict, loads with weights_only) and models/model.onnx."""
    network.eval().to(memory_format=torch.contiguous_format)
    models = bundle / "models"
    models.mkdir(parents=True, exist_ok=True)
    torch.save({k: v.contiguous() for k, v in network.state_dict().items()}, models / "model.pt")
    example = torch.zeros(1, 3, INPUT_HEIGHT, INPUT_WIDTH)
    with warnings.catch_warnings():
        # The new exporter needs onnxscript; for a plain UNet the old one writes the same graph.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(models / "model.onnx"),
            input_names=["image"],
            output_names=["logits"],
            opset_version=17,
            dynamo=False,
        )


def check_agreement(network: torch.nn.Module, bundle: Path, pixels: np.ndarray[Any, Any]) -> float:
    """Return the largest difference of the logits of torch and ONNX; raise when it is too large."""
    from ai.runtime import preprocess

    image = torch.from_numpy(preprocess.network_input(pixels))
    with torch.no_grad():
        expected = network.eval()(image)[0].numpy()
    found = Network((bundle / "models" / "model.onnx").read_bytes()).logits(pixels)
    difference = float(np.abs(found - expected).max())
    if difference > LARGEST_DIFFERENCE:
        raise ValueError(f"torch and ONNX Runtime differ by {difference}")
    return difference


def write_metadata(
    bundle: Path,
    reporting: Reporting,
    metrics: Mapping[str, float | int],
    training: Mapping[str, Any],
) -> None:
    """Write configs/metadata.json in MONAI's layout, with our postprocessing section."""
    document = {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/"
        "0.8.1/meta_schema_20240725.json",
        "name": "panoramic",
        "version": VERSION,
        "changelog": {VERSION: "first release, trained on synthetic panoramics"},
        "monai_version": monai.__version__,
        "pytorch_version": str(torch.__version__).split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"pillow": "13.0.0"},
        "task": "Tooth segmentation and FDI numbering, caries, periapical lesions, bone level",
        "description": "Reads panoramic radiographs. Trained on synthetic images only; "
        "not for clinical use.",
        "authors": "dental-interop contributors",
        "copyright": "Apache-2.0",
        "data_source": "Synthetic phantoms drawn by ai.phantom; no patient data of any kind",
        "data_type": "grey-scale projection radiograph",
        "image_classes": "one channel, dense tissue bright",
        "label_classes": "33 classes: background and 32 permanent teeth",
        "pred_classes": "40 channels, see channel_def",
        "eval_metrics": {k: v for k, v in metrics.items() if k != "pictures"},
        "intended_use": "Development, demonstration and tests of the platform. "
        "NOT for clinical use: performance on patients was never measured and is unknown.",
        "references": [],
        "routing": {"modalities": ["PX"], "min_rows": 200, "min_columns": 400},
        "network_data_format": _network_data_format(),
        "postprocessing": {
            "thresholds": {
                **{kind: reporting.thresholds[kind] for kind in KINDS},
                "bone_loss_percent": reporting.bone_loss_percent,
            },
            "calibration": {
                kind: {
                    "method": "Platt scaling on validation phantoms",
                    "slope": reporting.calibrations[kind].slope,
                    "intercept": reporting.calibrations[kind].intercept,
                }
                for kind in KINDS
            },
        },
        "metrics": dict(metrics),
        "training": dict(training),
    }
    text = json.dumps(document, indent=2)
    (bundle / "configs" / "metadata.json").write_text(text + "\n")


def _network_data_format() -> dict[str, Any]:
    labels = {str(label): f"tooth {fdi}" for label, fdi in enumerate(FDI_NUMBERS, start=1)}
    return {
        "inputs": {
            "image": {
                "type": "image",
                "format": "intensity",
                "modality": "panoramic radiograph",
                "modality_codes": ["PX", "DX", "CR"],
                "num_channels": 3,
                "spatial_shape": [INPUT_HEIGHT, INPUT_WIDTH],
                "dtype": "float32",
                "value_range": [-0.5, 1],
                "is_patch_data": False,
                "channel_def": {
                    "0": "picture, stretched between percentiles 0.5 and 99.5",
                    "1": "row coordinate",
                    "2": "column coordinate",
                },
            }
        },
        "outputs": {
            "pred": {
                "type": "image",
                "format": "segmentation",
                "num_channels": OUTPUT_CHANNELS,
                "spatial_shape": [INPUT_HEIGHT, INPUT_WIDTH],
                "dtype": "float32",
                "value_range": [],
                "is_patch_data": False,
                "channel_def": {
                    "0": "background",
                    **labels,
                    "33": "part: background",
                    "34": "part: crown",
                    "35": "part: root above the bone crest",
                    "36": "part: root in bone",
                    "37": "tooth without its rim",
                    "38": "caries",
                    "39": "periapical lesion",
                },
            }
        },
    }
