"""The training loss, computed on all tooth and lesion pixels and a random share of the rest.

Background is five sixths of a panoramic; leaving most of it out of each step halves the cost of
the backward pass and balances the classes.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ai.runtime.channels import CARIES, CORE, PART, PERIAPICAL, TOOTH
from ai.training.dataset import CARIES_BIT, CORE_BIT, PERIAPICAL_BIT

BACKGROUND_SHARE = 0.15


def training_loss(
    logits: torch.Tensor, label: torch.Tensor, part: torch.Tensor, flags: torch.Tensor
) -> torch.Tensor:
    """Return the summed loss of all heads. `label`, `part` and `flags` are N x H x W integers."""
    label, part, flags = label.reshape(-1), part.reshape(-1), flags.reshape(-1)
    chosen = (label > 0) | (flags > 0) | (torch.rand(label.shape) < BACKGROUND_SHARE)
    index = torch.nonzero(chosen)[:, 0]
    rows = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])[index]
    label, part, flags = label[index], part[index], flags[index]
    loss = functional.cross_entropy(rows[:, TOOTH], label)
    loss = loss + functional.cross_entropy(rows[:, PART], part)
    core = ((flags & CORE_BIT) > 0).float()
    loss = loss + functional.binary_cross_entropy_with_logits(rows[:, CORE], core)
    loss = loss + _lesion_loss(rows[:, CARIES], (flags & CARIES_BIT) > 0)
    return loss + _lesion_loss(rows[:, PERIAPICAL], (flags & PERIAPICAL_BIT) > 0)


def _lesion_loss(logit: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Lesions cover a thousandth of the pixels: weighted cross entropy plus soft Dice."""
    target = truth.float()
    weight = torch.tensor(4.0)
    entropy = functional.binary_cross_entropy_with_logits(logit, target, pos_weight=weight)
    share = torch.sigmoid(logit)
    overlap = (2 * (share * target).sum() + 5) / (share.sum() + target.sum() + 5)
    return 8 * entropy + 0.5 * (1 - overlap)
