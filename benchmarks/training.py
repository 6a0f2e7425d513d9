"""The training core: our step against a bare loop, the optimizer against a loop over tensors, what a snapshot holds up, and what
each optimizer learns.

make bench-training

Each ratio has its baseline in the same run, and both sides take turns, because machines are noisy. On a CPU both are counted in
CPU seconds of the process, with one thread, so that whoever else is at work changes little (threads that wait for each other would
count); on a GPU (`--device cuda`) in seconds. A ratio is the median over pairs of rounds, and beside it are the smallest and the
largest, which say how far to trust it.

The bare loop has the same model, data and optimizer classes as the trainer, and no trainer: no accumulation over micro-batches, no
length of the gradient, no guard, no ranks. So the ratio says what those cost, and nothing about the classes that both have. How
fast the study's model is on a GPU, benchmarks/gpu_d20.py says.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from windfall import clock
from windfall.store.files import Envelope
from windfall.train.model import GPTConfig, build_model
from windfall.train.muon import NorMuonGroup, mean_axis, polar_express, shape_scale
from windfall.train.optim import InnerOptimizer
from windfall.train.prepare import prepare
from windfall.train.schedule import ScheduleValues, schedule
from windfall.train.spec import TrainerSpec
from windfall.train.trainer import LocalTrainer, recipe
from windfall.wire.codec import encode

BATCH, LENGTH = 16, 256
_SMALL = 8


def main() -> None:
    """Print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=300_000, help="of each run of the convergence figures")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepare("stdlib", folder, sequence_length=LENGTH)
        step_against_bare_loop(Path(folder), args.device, args.rounds)
        optimizer_against_tensors(args.device, args.rounds)
        snapshot_beside_the_training(Path(folder), args.device, args.rounds)
        torch.set_num_threads(2)
        convergence(Path(folder), args.device, args.tokens, args.seeds)


def spec(folder: Path, device: str, **changes: object) -> TrainerSpec:
    """The demo's model on the built-in corpus."""
    made = TrainerSpec(
        data_dir=str(folder), depth=4, width=128, head_dim=None, sequence_length=LENGTH, seed=0, batch_sequences=BATCH,
        block_sequences=4, budget_tokens=200_000, optimizer="normuon", lr_scale=1.0, warmdown_fraction=0.4, lr_floor=0.0,
        reset_warmup_fraction=0.005, precision="fp32", eval_sequences=64, device=device,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Turns:
    """Median seconds of a round of ours and of the baseline (CPU seconds on a CPU), and baseline over ours of each pair."""

    ours: float
    baseline: float
    ratios: list[float]

    def __str__(self) -> str:
        return f"ratio {statistics.median(self.ratios):.3f} (pairs from {min(self.ratios):.3f} to {max(self.ratios):.3f})"


def turns(ours: Callable[[], object], baseline: Callable[[], object], rounds: int, device: str) -> Turns:
    """Both, `rounds` times each, taken in turns."""

    def timed(what: Callable[[], object]) -> float:
        if device != "cuda":
            before = time.process_time()
            what()
            return time.process_time() - before
        torch.cuda.synchronize()
        before = clock.monotonic()
        what()
        torch.cuda.synchronize()
        return clock.monotonic() - before

    for _ in range(2):
        ours()
        baseline()
    pairs = []
    for i in range(rounds):
        both = (timed(ours), timed(baseline)) if i % 2 == 0 else (timed(baseline), timed(ours))[::-1]
        pairs.append(both)
    return Turns(statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), [b / a for a, b in pairs])


def step_against_bare_loop(folder: Path, device: str, rounds: int) -> None:
    """Tokens per second of a trainer's step over those of the same model, data and optimizer classes in a plain loop."""
    s = spec(folder, device)
    trainer = LocalTrainer(s)
    data = trainer.data
    model = build_model(GPTConfig(depth=4, width=128, vocab_size=257, sequence_length=LENGTH), 0, device)
    optim, shape = recipe(s, trainer.tokens_per_step)
    optimizer = InnerOptimizer(model, optim)
    per_round = 4
    at = {"ours": 0, "bare": 0}

    def ours() -> None:
        for _ in range(per_round):
            first = at["ours"] * (BATCH // 4)
            trainer.step(list(range(first, first + BATCH // 4)), 0.0)
            at["ours"] += 1

    def bare() -> None:
        for _ in range(per_round):
            tokens, targets = data.block_batch(at["bare"] * (BATCH // 4), BATCH // 4, 4)
            optimizer.zero_grad()
            loss = model(tokens.to(device), targets.to(device))
            loss.backward()
            optimizer.step(schedule(0.0, s.budget_tokens, shape))
            loss.item()
            at["bare"] += 1

    found = turns(ours, bare, rounds, device)
    tokens, unit = per_round * BATCH * LENGTH, "s" if device == "cuda" else "CPU second"
    print(f"step: ours {tokens / found.ours:,.0f} tokens/{unit}, bare loop {tokens / found.baseline:,.0f}: {found}; mark 0.99")


def optimizer_against_tensors(device: str, rounds: int) -> None:
    """NorMuon on a stack of the d20's matrices over the same update one matrix at a time (a few layers on a CPU)."""
    layers = 20 if device == "cuda" else 1
    shapes = [(1280, 1280)] * 4 + [(5120, 1280), (1280, 5120)]
    if device != "cuda":
        shapes = [(320, 320)] * 16 + [(1280, 320), (320, 1280)] * 4  # the same proportions, for a CPU
    named: dict[tuple[int, int], dict[str, torch.nn.Parameter]] = {}
    for layer in range(layers):
        for i, shape in enumerate(shapes):
            p = torch.nn.Parameter(torch.randn(shape, device=device) * 0.02)
            p.grad = torch.randn_like(p)
            named.setdefault(shape, {})[f"{layer}.{i}"] = p
    groups = [NorMuonGroup(g, 0.02, 0.1, 0.95) for g in named.values()]
    values = ScheduleValues()
    momentum = {n: torch.zeros_like(p) for g in named.values() for n, p in g.items()}
    second = {n: torch.zeros_like(p.narrow(mean_axis(p.shape), 0, 1)) for g in named.values() for n, p in g.items()}

    def ours() -> None:
        for g in groups:
            g.step(values)

    @torch.no_grad()
    def one_by_one() -> None:
        for g in named.values():
            for n, p in g.items():
                assert p.grad is not None
                momentum[n].lerp_(p.grad, 0.05)
                update = polar_express(p.grad.lerp(momentum[n], 0.95)[None])[0]
                axis = mean_axis(p.shape)
                squares = update.square().mean(axis, keepdim=True)
                second[n].lerp_(squares, 0.05)
                scale = second[n].clamp_min(1e-10).rsqrt()
                squares = squares * update.size(axis)
                update = update * (scale * (squares.sum().sqrt() / (squares * scale.square()).sum().sqrt()))
                lr = 0.02 * shape_scale(p.shape)
                p.sub_(lr * update + 0.1 * lr * p * (update * p >= 0))

    found = turns(ours, one_by_one, rounds, device)
    what = "d20's matrices" if device == "cuda" else "24 matrices in the d20's proportions"
    print(f"optimizer step, {what}: stacked {found.ours * 1e3:.1f} ms, one by one {found.baseline * 1e3:.1f} ms: {found}")


def snapshot_beside_the_training(folder: Path, device: str, rounds: int) -> None:
    """How long a snapshot holds up training, as a site takes it and all at once: copies, difference, checksum, file."""
    trainer = LocalTrainer(spec(folder, device, depth=8, width=512, micro_batch_sequences=1))
    count = sum(p.numel() for p in trainer.model.parameters())

    before = trainer.weights()

    def at_once() -> None:
        weights, inner = trainer.snapshot()()
        delta = {n: w - before[n] for n, w in weights.items()}
        Envelope.of({}, {"delta": encode(delta, "fp32"), "inner": inner}).save(folder / "snapshot.env")

    found = turns(trainer.snapshot, at_once, rounds, device)
    print(f"snapshot of {count:,} parameters: {found.ours:.3f} s hold training up, all at once {found.baseline:.3f} s: {found}")


def convergence(folder: Path, device: str, tokens: int, seeds: int) -> None:
    """Held-out bits per byte after equal tokens, by optimizer, and whether the order holds for every seed."""
    found: dict[str, list[float]] = {}
    for kind in ("normuon", "muon_plain", "adamw"):
        for seed in range(seeds):
            # Small steps: what tells optimizers apart is how many of them there are.
            trainer = LocalTrainer(spec(folder, device, optimizer=kind, seed=seed, budget_tokens=tokens, batch_sequences=_SMALL))
            per_step = _SMALL // 4
            for i in range(tokens // trainer.tokens_per_step):
                trainer.step(list(range(i * per_step, (i + 1) * per_step)), float(i * trainer.tokens_per_step))
            found.setdefault(kind, []).append(trainer.evaluate().bits_per_byte)
    base = statistics.mean(found["normuon"])
    for kind, values in found.items():
        print(
            f"bits per byte after {tokens:,} tokens, {kind:10} {statistics.mean(values):.4f} "
            f"({', '.join(f'{v:.4f}' for v in values)}), over normuon {statistics.mean(values) / base:.4f}"
        )
    holds = all(n < m < a for n, m, a in zip(found["normuon"], found["muon_plain"], found["adamw"], strict=True))
    print(f"normuon below plain muon below adamw for every seed: {'yes' if holds else 'no'}")


if __name__ == "__main__":
    main()
