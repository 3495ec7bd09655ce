"""Trains the network of the bundle on drawn phantoms; a fixed number of steps, seeded."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ai.runtime import preprocess
from ai.training import augmentation
from ai.training.dataset import Dataset
from ai.training.loss import training_loss

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn."""

    steps: int = 700
    batch_size: int = 4
    top_rate: float = 4e-3
    seed: int = 2026


def train(
    network: torch.nn.Module, data: Dataset, schedule: Schedule, snapshot: Path | None = None
) -> float:
    """Train in place; return the mean loss of the last 20 steps.

    The weights are saved to `snapshot` every 100 steps, to be looked at while training goes on.
    """
    torch.manual_seed(schedule.seed)
    random = np.random.default_rng(schedule.seed)
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.top_rate, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=schedule.top_rate, total_steps=schedule.steps, pct_start=0.12
    )
    where = torch.from_numpy(preprocess.coordinates())[None].expand(schedule.batch_size, -1, -1, -1)
    losses: list[float] = []
    order = _endless_order(len(data.picture), schedule, random)
    started = time.monotonic()
    for step in range(schedule.steps):
        picture, label, part, flags = augmentation.batch(data, order[step], random)
        images = torch.cat([torch.from_numpy(picture)[:, None], where], dim=1)
        logits = network(images.contiguous(memory_format=torch.channels_last))
        loss = training_loss(
            logits,
            torch.from_numpy(label).long(),
            torch.from_numpy(part).long(),
            torch.from_numpy(flags).int(),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        rate.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 20 == 0:
            logger.info(
                "step %d of %d, loss %.3f, %.2f s a step",
                step + 1,
                schedule.steps,
                sum(losses[-20:]) / 20,
                (time.monotonic() - started) / (step + 1),
            )
        if snapshot is not None and (step + 1) % 100 == 0:
            torch.save(network.state_dict(), snapshot)
    return sum(losses[-20:]) / len(losses[-20:])


def _endless_order(
    count: int, schedule: Schedule, random: np.random.Generator
) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return the example indices of every step: each pass in a new order."""
    needed = schedule.steps * schedule.batch_size
    passes = [random.permutation(count) for _ in range(needed // count + 1)]
    flat = np.concatenate(passes)[:needed]
    return list(flat.reshape(schedule.steps, schedule.batch_size))
