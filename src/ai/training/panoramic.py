"""Trains, measures and packs the panoramic bundle: `python -m ai.training.panoramic`.

Stages: draw the phantoms (kept in the work folder), train (weights kept there too), export, fit
calibration and thresholds, evaluate, write metadata, model card and manifest. A stage whose
result is in the work folder is not repeated; `--fresh` starts over.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ai.runtime.bundle import BUNDLES, load_bundle, write_manifest
from ai.runtime.network import Network
from ai.training import evaluation, exporting, modelcard
from ai.training.dataset import load_or_draw, phantom_of
from ai.training.learning import Schedule, train

logger = logging.getLogger(__name__)

TRAINING_SEEDS = range(100_000, 101_280)
VALIDATION_SEEDS = range(200_000, 200_080)
TEST_SEEDS = range(300_000, 300_080)


def main() -> None:
    """Run all stages."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    if options.fresh:
        shutil.rmtree(options.work, ignore_errors=True)
    schedule = Schedule(steps=options.steps)
    started = time.monotonic()
    network = trained_network(options.bundle, options.work, schedule, options.threads)
    exporting.save_weights(network, options.bundle)
    pixels = phantom_of(VALIDATION_SEEDS[0]).pixels
    difference = exporting.check_agreement(network, options.bundle, pixels)
    logger.info("torch and ONNX Runtime agree to %.2g", difference)
    served = Network((options.bundle / "models" / "model.onnx").read_bytes())
    reporting = evaluation.fit_reporting(served, list(VALIDATION_SEEDS))
    scores = evaluation.evaluate(served, TEST_SEEDS, reporting)
    metrics = scores.summary()
    for name, value in metrics.items():
        logger.info("%s: %s", name, value)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    training = _training_facts(schedule, parameters)
    exporting.write_metadata(options.bundle, reporting, metrics, training)
    thresholds = {**reporting.thresholds, "bone_loss_percent": reporting.bone_loss_percent}
    modelcard.write_card(options.bundle, exporting.VERSION, metrics, thresholds, training)
    manifest = options.bundle.parent / "manifest.json"
    write_manifest([options.bundle], manifest)
    bundle = load_bundle(options.bundle, manifest=manifest)
    logger.info("%s %s, digest %s", bundle.name, bundle.version, bundle.digest)
    logger.info("took %.1f minutes", (time.monotonic() - started) / 60)


def trained_network(bundle: Path, work: Path, schedule: Schedule, threads: int) -> torch.nn.Module:
    """Return the bundle's network with trained weights, taken from the work folder when there."""
    torch.manual_seed(schedule.seed)
    network = network_of(bundle)
    weights = work / "weights.pt"
    if weights.exists():
        network.load_state_dict(torch.load(weights, weights_only=True))
        return network
    data = load_or_draw(TRAINING_SEEDS, work / "phantoms", processes=threads)
    loss = train(network, data, schedule, snapshot=work / "snapshot.pt")
    logger.info("final loss %.3f", loss)
    torch.save(network.state_dict(), weights)
    return network


def network_of(bundle: Path) -> torch.nn.Module:
    """Return the network that configs/inference.json defines, untrained."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    network: torch.nn.Module = parser.get_parsed_content("network_def")
    return network


def _training_facts(schedule: Schedule, parameters: int) -> dict[str, Any]:
    def span(seeds: range) -> str:
        return f"{seeds.start}-{seeds.stop - 1}"

    return {
        "parameters": parameters,
        "steps": schedule.steps,
        "batch_size": schedule.batch_size,
        "top_rate": schedule.top_rate,
        "seed": schedule.seed,
        "training_pictures": len(TRAINING_SEEDS),
        "training_seeds": span(TRAINING_SEEDS),
        "validation_seeds": span(VALIDATION_SEEDS),
        "test_seeds": span(TEST_SEEDS),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ai.training.panoramic", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/training/panoramic"))
    parser.add_argument("--bundle", type=Path, default=BUNDLES / "panoramic")
    parser.add_argument("--steps", type=int, default=Schedule.steps)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="draw and train anew")
    return parser.parse_args()


if __name__ == "__main__":
    main()
