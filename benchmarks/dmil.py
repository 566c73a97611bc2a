"""The multi-interest assignment and loss against a per-sample loop with SciPy's Hungarian method.

    python benchmarks/dmil.py [--quick]

Prints one JSON object: `rows` with the median speed-up of forward and backward at batch 256 for
each number of interests s, window w and width d, and `share_of_step`, the loss's share of a
training step of the default recommender (s = 2, w = 4, d = 64, batch 16 × 16 cut points).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils import clip_grad_norm_

from hymirec.codebook import PRESETS, fit_codebook
from hymirec.dmil import assign_targets, cluster_targets, contrast, dmil_loss
from hymirec.models.hymirec import HyMiRec, HyMiRecConfig

BATCH, NEGATIVES, TEMPERATURE = 256, 1024, 0.07


def vectorised(interests: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """The library's loss."""
    mask = torch.ones(targets.shape[:2], dtype=torch.bool)
    none = torch.zeros(0, dtype=torch.int64)
    contrasted = contrast(
        interests, targets, negatives, torch.zeros(len(negatives)), (none, none),
        temperature=TEMPERATURE, merged=False,
    )  # fmt: skip
    return dmil_loss(contrasted, assign_targets(interests, targets, mask), mask)


def looped(interests: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """The same, one user after another: cluster, match, contrast target by target."""
    total = interests.new_zeros(())
    for user, window in zip(interests, targets, strict=True):
        one = torch.ones(1, len(window), dtype=torch.bool)
        groups, weights = cluster_targets((window @ window.T)[None], one, len(user))
        gain = (weights[0] @ window @ user.T).detach().numpy()
        matched = linear_sum_assignment(gain, maximize=True)[1]
        for target, group in zip(window, groups[0].tolist(), strict=True):
            interest = user[matched[group]]
            logits = torch.cat([(interest @ target)[None], negatives @ interest]) / TEMPERATURE
            total = total + (logits.logsumexp(0) - logits[0]) / len(window)
    return total / len(interests)


def seconds(loss: Callable[..., Tensor], *arguments: Tensor) -> float:
    """Time of one forward and backward pass."""
    interests = arguments[0].clone().requires_grad_()
    started = time.perf_counter()
    loss(interests, *arguments[1:]).backward()
    return time.perf_counter() - started


def speedup(num_interests: int, window: int, width: int, repeats: int) -> float:
    """Median of the paired ratios of loop to library."""
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return normalize(torch.randn(*shape, width, generator=generator), dim=-1)

    arguments = unit(BATCH, num_interests), unit(BATCH, window), unit(NEGATIVES)
    torch.testing.assert_close(vectorised(*arguments), looped(*arguments))
    return median(seconds(looped, *arguments) / seconds(vectorised, *arguments)
                  for _ in range(repeats))  # fmt: skip


def share_of_step(repeats: int) -> float:
    """Time of assignment and loss over the time of a whole training step, as the trainer's is."""
    torch.manual_seed(0)
    items = normalize(torch.randn(5001, 64), dim=1)
    items[0] = 0
    codebook = fit_codebook(items[1:], PRESETS["paper"])
    model = HyMiRec(items, codebook, HyMiRecConfig())
    users, cuts, length = 16, 16, 300
    settings = model.settings
    history = items[torch.randint(1, 5001, (users * length,))]
    batch = {
        "history_codes": codebook.encode(history).unflatten(0, (users, length)),
        "recent_items": torch.randint(1, 5001, (users, settings.num_recent)),
        "history_cuts": torch.randint(200, length, (users, cuts)),
        "recent_cuts": torch.randint(1, settings.num_recent, (users, cuts)),
        "targets": torch.randint(1, 5001, (users, cuts, settings.window)),
    }  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    shares = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        model(**batch)["loss"].backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step = time.perf_counter() - started
        interests = normalize(torch.randn(users * cuts, settings.num_interests, 64), dim=2)
        targets = items[batch["targets"].flatten(0, 1)]
        shares.append(seconds(vectorised, interests, targets, items[1:1025]) / step)
    return median(shares[1:])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats")
    quick = parser.parse_args().quick
    sizes = [(2, 4), (4, 10)] if quick else [(2, 4), (3, 8), (4, 4), (4, 10)]
    rows = [
        {"s": s, "w": w, "d": d, "speedup": round(speedup(s, w, d, 2 if quick else 5), 1)}
        for d in (128, 2048)
        for s, w in sizes
    ]
    print(json.dumps({"rows": rows, "share_of_step": round(share_of_step(5 if quick else 15), 4)}))


if __name__ == "__main__":
    main()
