"""The training core: our step against a bare loop, the optimizer against a loop over tensors, and what each optimizer learns.

make bench-training

Each ratio has its baseline in the same run, and both sides take turns, because machines are noisy. With a GPU at hand the same
runs there (`--device cuda`); for the study's model see benchmarks/gpu_d20.py.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from windfall import clock
from windfall.train.model import GPTConfig, build_model
from windfall.train.muon import NorMuonGroup, polar_express, shape_scale
from windfall.train.optim import InnerOptimizer
from windfall.train.prepare import prepare
from windfall.train.schedule import ScheduleValues, schedule
from windfall.train.spec import TrainerSpec
from windfall.train.trainer import LocalTrainer, recipe

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
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        prepare("stdlib", folder, sequence_length=LENGTH)
        step_against_bare_loop(Path(folder), args.device, args.rounds)
        optimizer_against_tensors(args.device, args.rounds)
        convergence(Path(folder), args.device, args.tokens, args.seeds)


def spec(folder: Path, device: str, **changes: object) -> TrainerSpec:
    """The demo's model on the built-in corpus."""
    made = TrainerSpec(
        data_dir=str(folder), depth=4, width=128, head_dim=None, sequence_length=LENGTH, seed=0, batch_sequences=BATCH,
        block_sequences=4, budget_tokens=200_000, optimizer="normuon", lr_scale=1.0, warmdown_fraction=0.4, lr_floor=0.0,
        reset_warmup_fraction=0.005, precision="fp32", eval_sequences=64, device=device,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def turns(ours: Callable[[], object], baseline: Callable[[], object], rounds: int, device: str) -> tuple[float, float, float]:
    """Median seconds of both, taken in turns, and the median of baseline over ours."""

    def timed(what: Callable[[], object]) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        before = clock.monotonic()
        what()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock.monotonic() - before

    for _ in range(2):
        ours()
        baseline()
    pairs = []
    for i in range(rounds):
        both = (timed(ours), timed(baseline)) if i % 2 == 0 else (timed(baseline), timed(ours))[::-1]
        pairs.append(both)
    ratio = statistics.median(b / a for a, b in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio


def step_against_bare_loop(folder: Path, device: str, rounds: int) -> None:
    """Tokens per second of a trainer's step over those of the same model, batch and optimizer in a plain loop."""
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

    a, b, ratio = turns(ours, bare, rounds, device)
    tokens = per_round * BATCH * LENGTH
    print(f"step: ours {tokens / a:,.0f} tokens/s, bare loop {tokens / b:,.0f}: ratio {ratio:.3f} (mark: 0.99)")


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
    second = {n: torch.zeros_like(p[..., :1]) for g in named.values() for n, p in g.items()}

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
                norm = torch.linalg.matrix_norm(update)
                second[n].lerp_(update.square().mean(-1, keepdim=True), 0.05)
                update = update * second[n].clamp_min(1e-10).rsqrt()
                update = update * norm / torch.linalg.matrix_norm(update)
                step = 0.02 * shape_scale(p.shape) * update
                p.sub_(step + 0.002 * p * (update * p > 0))

    a, b, ratio = turns(ours, one_by_one, rounds, device)
    what = "d20's matrices" if device == "cuda" else "24 matrices in the d20's proportions"
    print(f"optimizer step, {what}: stacked {a * 1e3:.1f} ms, one by one {b * 1e3:.1f} ms: ratio {ratio:.2f}")


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
