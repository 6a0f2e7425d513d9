"""d20 on one GPU: tokens/s, MFU, memory, with and without torch.compile, and the largest micro-batch.

    python benchmarks/gpu_d20.py                 (some minutes on one H100 or H200)
    python benchmarks/gpu_d20.py --depth 12 --micro-batch 16 --steps 5
    python benchmarks/gpu_d20.py --tiny          (the same code path on a CPU, seconds)

One optimizer step is the recipe's 524,288 tokens at a sequence of 2,048, in as many micro-batches as that takes: forward and
backward under bf16 autocast, then NorMuon and AdamW on float32 weights, exactly the pieces that a site's trainer steps
through. Data are random tokens on the device, so that only the computation is measured. MFU is FLOPs per token (forward
and backward, no recomputation counted) x tokens/s over the peak of dense bf16, 989 TFLOP/s for an H100 or H200.

Needs torch and numpy beside Windfall. Prints one JSON line; progress goes to standard error. Where there is no CUDA it says
so and ends with 0.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from windfall.train.compiled import compiled
from windfall.train.model import GPT, GPTConfig, build_model, flops_per_token, parameter_count
from windfall.train.optim import InnerOptimizer, OptimConfig
from windfall.train.precision import autocast
from windfall.train.schedule import ScheduleConfig, schedule
from windfall.train.sizes import memory_bytes

PEAK_FLOPS = 989e12
RECIPE_STEP_TOKENS = 2**19


class Bench:
    """What is measured, on which device."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.tiny: bool = args.tiny
        self.device = torch.device("cpu" if args.tiny else "cuda")
        if args.tiny:
            self.config = GPTConfig(depth=2, width=64, head_dim=32, vocab_size=64, sequence_length=32)
            self.micro, self.step_tokens, self.steps, self.most = 2, 4 * 2 * 32, 3, 4
            self.backend: Any = "eager"  # the compiler of kernels takes a minute on a CPU; the path through dynamo is the same
        else:
            self.config = GPTConfig(
                depth=args.depth, width=None, vocab_size=args.vocab_size, sequence_length=args.sequence_length, head_dim=128
            )
            self.micro, self.step_tokens, self.steps, self.most = args.micro_batch, args.step_tokens, args.steps, args.most
            self.backend = "inductor"

    def batches(self, micro: int) -> Iterator[torch.Tensor]:
        """Endless [micro, T + 1] tokens, a few of each so that a tiny model learns something."""
        draw = torch.Generator(device=self.device).manual_seed(1)
        size = (micro, self.config.sequence_length + 1)
        high = max(2, self.config.vocab_size // 8)
        while True:
            yield torch.randint(high, size, generator=draw, device=self.device)

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None

    def clear(self) -> None:
        """Give back all memory, so that one measurement does not weigh on the next."""
        gc.collect()
        torch._dynamo.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def train(bench: Bench, micro: int, *, compile: bool, checkpointed: bool) -> dict[str, Any]:
    """Optimizer steps of the recipe's size, the first apart (it compiles, and allocates)."""
    bench.clear()
    model = build_model(bench.config, 1, bench.device, checkpoint_activations=checkpointed)
    loss_of = compiled(model, bench.backend) if compile else model
    optimizer = InnerOptimizer(model, OptimConfig(batch_tokens=bench.step_tokens))
    accumulation = bench.step_tokens // (micro * bench.config.sequence_length)
    batches, budget = bench.batches(micro), 1000.0 * bench.step_tokens
    seconds, losses = [], []
    for number in range(bench.steps + 1):
        bench.sync()
        began = time.perf_counter()
        optimizer.zero_grad()
        total = torch.zeros((), device=bench.device)
        for _ in range(accumulation):
            batch = next(batches)
            with autocast(bench.device, "bf16"):
                loss = loss_of(batch[:, :-1].contiguous(), batch[:, 1:].contiguous(), "sum")
            loss.backward()
            total += loss.detach()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        torch._foreach_div_(gradients, float(bench.step_tokens))
        optimizer.step(schedule(number * float(bench.step_tokens), budget, ScheduleConfig()))
        losses.append(float(total) / bench.step_tokens)
        bench.sync()
        seconds.append(time.perf_counter() - began)
        _say(
            f"compile={compile} checkpointed={checkpointed} micro={micro} step {number}: {seconds[-1]:.2f} s, loss {losses[-1]:.4f}"
        )
    per_step = sorted(seconds[1:])[(len(seconds) - 1) // 2]
    rate = bench.step_tokens / per_step
    return {
        "compile": compile,
        "checkpointed": checkpointed,
        "micro_batch": micro,
        "accumulation": accumulation,
        "tokens_per_s": round(rate, 1),
        "mfu": round(flops_per_token(bench.config) * rate / PEAK_FLOPS, 4) if not bench.tiny else None,
        "step_s": round(per_step, 4),
        "first_step_s": round(seconds[0], 2),
        "peak_memory_bytes": bench.peak_bytes(),
        "estimated_memory_bytes": memory_bytes(bench.config, micro, checkpoint_activations=checkpointed).total,
        "loss_first": round(losses[0], 5),
        "loss_last": round(losses[-1], 5),
    }


def fits(bench: Bench, model: GPT, optimizer: InnerOptimizer, micro: int) -> bool:
    """Whether a micro-batch goes through forward, backward and an optimizer step."""
    optimizer.zero_grad()
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        batch = next(bench.batches(micro))
        for _ in range(2):  # at the second, the gradients are there beside the activations
            with autocast(bench.device, "bf16"):
                loss = model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous(), "sum")
            loss.backward()
            del loss
        optimizer.step(schedule(0.0, 1.0, ScheduleConfig()))
        bench.sync()
    except torch.OutOfMemoryError:
        return False
    return True


def largest(bench: Bench) -> dict[str, int]:
    """The largest micro-batch among powers of two and their middles (24, 48, 96), not compiled; 0 for none."""
    bench.clear()
    model = build_model(bench.config, 1, bench.device)
    optimizer = InnerOptimizer(model, OptimConfig(batch_tokens=bench.step_tokens))
    sizes = sorted({1, *(2**n for n in range(1, 12)), *(3 * 2**n for n in range(3, 10))})
    best = {"plain": 0, "checkpointed": 0}
    for kind in best:
        model.checkpoint_activations = kind == "checkpointed"
        for micro in (size for size in sizes if size <= bench.most):
            if not fits(bench, model, optimizer, micro):
                break
            best[kind] = micro
            _say(f"{kind}: a micro-batch of {micro} fits")
    return best


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--vocab-size", type=int, default=65_536)
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument("--micro-batch", type=int, default=16, help="sequences in a forward pass; halved while it does not fit")
    parser.add_argument("--step-tokens", type=int, default=RECIPE_STEP_TOKENS, help="tokens in an optimizer step")
    parser.add_argument("--steps", type=int, default=5, help="timed steps, of which the median counts")
    parser.add_argument("--most", type=int, default=256, help="no larger micro-batch is tried")
    parser.add_argument("--tiny", action="store_true", help="the same code path on the CPU with a tiny model")
    args = parser.parse_args(argv)
    if not args.tiny and not torch.cuda.is_available():
        print("gpu_d20: there is no CUDA device here; nothing was measured (--tiny runs the code path on the CPU)")
        return 0
    bench = Bench(args)
    if bench.step_tokens % (bench.micro * bench.config.sequence_length):
        parser.error(f"--step-tokens {bench.step_tokens} is no multiple of {bench.micro} x {bench.config.sequence_length} tokens")
    if bench.tiny:
        torch.set_num_threads(1)  # so small a model waits for threads longer than it computes
    else:
        # Products of float32 matrices (there are few: the optimizer's run in bf16) may use TF32.
        torch.set_float32_matmul_precision("high")
    rows, micro = [], bench.micro
    for compile in (False, True):
        while True:
            try:
                rows.append(train(bench, micro, compile=compile, checkpointed=False))
                break
            except torch.OutOfMemoryError:
                if micro == 1:
                    _say(f"compile={compile}: not even a micro-batch of 1 fits")
                    break
                micro //= 2
    found = {
        "benchmark": "gpu_d20",
        "device": torch.cuda.get_device_name() if bench.device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "model": asdict(bench.config),
        "parameters": parameter_count(bench.config),
        "flops_per_token": flops_per_token(bench.config),
        "tokens_per_step": bench.step_tokens,
        "peak_flops": PEAK_FLOPS,
        "rows": rows,
        "largest_micro_batch": largest(bench),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
