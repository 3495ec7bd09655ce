"""Writes the model card of the bundle (docs/README.md) from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROWS = (
    ("Tooth Dice, mean over teeth (missed or misnumbered: 0)", "tooth_dice_mean", 1),
    ("Tooth Dice, worst tenth below", "tooth_dice_10th_percentile", 1),
    ("Tooth sensitivity (right number)", "tooth_sensitivity", 1),
    ("Tooth precision (right number)", "tooth_precision", 1),
    ("Numbering accuracy of located teeth", "numbering_accuracy", 1),
    ("Caries, per tooth: sensitivity", "caries_per_tooth_sensitivity", 1),
    ("Caries, per tooth: precision", "caries_per_tooth_precision", 1),
    ("Caries, per tooth: F1", "caries_per_tooth_f1", 1),
    ("Caries, per surface (M, D, O): F1", "caries_per_surface_f1", 1),
    ("Periapical lesion, per tooth: sensitivity", "periapical_per_tooth_sensitivity", 1),
    ("Periapical lesion, per tooth: precision", "periapical_per_tooth_precision", 1),
    ("Periapical lesion, per tooth: F1", "periapical_per_tooth_f1", 1),
    ("Bone level, mean absolute error", "bone_level_mean_absolute_error_points", 0),
    ("Bone level, 95th percentile of the error", "bone_level_95th_percentile_error_points", 0),
    ("Bone loss at or above the threshold, per tooth: F1", "bone_loss_per_tooth_f1", 1),
    ("Expected calibration error: teeth", "tooth_calibration_error", 1),
    ("Expected calibration error: caries", "caries_calibration_error", 1),
    ("Expected calibration error: periapical", "periapical_lesion_calibration_error", 1),
)

CARD = """\
# Model card: panoramic {version}

> **Trained on synthetic images only. NOT for clinical use.** Its performance on radiographs of
> patients was never measured and is unknown. Every result is preliminary and needs a dentist.

## What it does
Reads one panoramic radiograph (PX) and returns, in the pixels of the source:
teeth with FDI numbers (permanent teeth only), outline and confidence; caries with surface M, D
or O; periapical lesions; the bone level of each tooth (distance from the cemento-enamel junction
to the bone crest along the tooth, in percent of the root length; about 11 is healthy) and a bone
loss finding from {bone_loss_percent:g} percent upwards.

## Measured on {pictures} held-out synthetic panoramics ({teeth} teeth)
| Measure | Value |
|---|---|
{rows}

Measured by `ai.training.evaluation` through the code that serves requests (ONNX Runtime and the
same postprocessing), on phantom seeds {test_seeds} that neither training ({training_seeds}) nor the
choice of thresholds and calibration ({validation_seeds}) has seen.

## How it works
One MONAI `UNet` ({parameters:,} parameters, configs/inference.json) on a 3 x 256 x 512 input: the
picture and two coordinate channels. Its 40 output channels are 33 tooth classes, 4 tooth parts
(crown, root above and inside the bone), the core of each tooth, caries, periapical lesion. Teeth
are the connected cores; dynamic programming numbers them so that each number occurs once and the
order within a jaw is kept. CEJ and crest are the borders between the tooth parts along the axis.

Confidence is calibrated: Platt scaling of the mean probability of a candidate, fitted on
validation phantoms. Reporting thresholds are those of the best F1 there: {thresholds}.

## Limits
- Drawings, not patients: no overlapping structures beyond those drawn, no deciduous or
  supernumerary teeth, no implants, bridges or orthodontic appliances, no positioning errors beyond
  a few degrees and millimetres, no pathology other than the three kinds above.
- Expected to fail on real films in ways that these numbers do not show.
- Lesions smaller than about 2 mm may be missed; surfaces other than M, D and O are not told apart.
- Impacted teeth get no bone level finding worth reading.

## Reproduce
`make train` (`python -m ai.training.panoramic`): draws {training_pictures} phantoms, trains
{steps} steps of {batch_size}, evaluates and writes this bundle and its digest. It needs the `ai`
extra and the package `onnx`, two CPU cores and less than 30 minutes{duration}.
"""


def write_card(
    bundle: Path,
    version: str,
    metrics: Mapping[str, float | int],
    thresholds: Mapping[str, float],
    training: Mapping[str, Any],
) -> None:
    """Write docs/README.md."""
    rows = "\n".join(
        f"| {title} | {metrics[key]:.3f} |"
        if is_share
        else f"| {title} | {metrics[key]:.1f} points |"
        for title, key, is_share in ROWS
    )
    text = CARD.format(
        version=version,
        rows=rows,
        pictures=metrics["pictures"],
        teeth=metrics["teeth"],
        bone_loss_percent=thresholds["bone_loss_percent"],
        thresholds=", ".join(
            f"{kind} {value:g}" for kind, value in thresholds.items() if kind != "bone_loss_percent"
        ),
        duration=training.get("duration", ""),
        **{key: value for key, value in training.items() if key != "duration"},
    )
    docs = bundle / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "README.md").write_text(text)
