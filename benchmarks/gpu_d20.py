"""d20 on one GPU: tokens/s, MFU, memory, with and without torch.compile, and the largest micro-batch.

    PYTHONPATH=src python benchmarks/gpu_d20.py  (from a checkout, nothing installed; some minutes on one H100 or H200)
    python benchmarks/gpu_d20.py --depth 12 --micro-batch 16 --steps 5
    python benchmarks/gpu_d20.py --tiny          (the same code path on a CPU, seconds)

One optimizer step is the recipe's 524,288 tokens at a sequence of 2,048, in as many micro-batches as that takes: forward and
backward under bf16 autocast, then NorMuon and AdamW on float32 weights. Each row says by which loop:

    bare      the pieces of a step and nothing else, on random tokens that are on the device already: the computation alone
    trainer   `LocalTrainer.step`, as a site takes it: sequences out of shards, the gradient's length, the guard, and the wait for
              the loss are in the figure. It takes no micro-batch that its own estimate of memory refuses

MFU is FLOPs per token (forward and backward, no recomputation counted) x tokens/s over the peak of dense bf16, 989 TFLOP/s for an
H100 or H200. "met" says whether the best row reaches the mark. Like the trainer, this leaves TF32 as torch has it (off: the few
products of float32 matrices are float32), and "float32_matmul_precision" says so.

Needs torch and numpy, and nothing else that is not in the checkout. Where a row fails (no room, no compiler of C on the machine),
it has an "error" and the others go on. Prints one JSON line in any case; progress goes to standard error. Where there is no CUDA it
says so and ends with 0.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from windfall.errors import ConfigError, WindfallError
from windfall.train.compiled import compiled
from windfall.train.manifest import Manifest, Shard
from windfall.train.model import GPT, GPTConfig, build_model, flops_per_token, parameter_count
from windfall.train.optim import InnerOptimizer, OptimConfig
from windfall.train.precision import autocast
from windfall.train.schedule import ScheduleConfig, schedule
from windfall.train.sizes import memory_bytes
from windfall.train.spec import TrainerSpec
from windfall.train.tokenizer import SPECIALS, BPETokenizer
from windfall.train.trainer import LocalTrainer

PEAK_FLOPS = 989e12
RECIPE_STEP_TOKENS = 2**19
#: MFU that the step is to reach.
MARK = 0.5
#: What a row, or the search for the largest micro-batch, may end with. Compilers' errors (dynamo's TorchDynamoException with
#: inductor's InductorError, TritonMissing and others below it, InvalidCxxCompiler, CppCompileError) and the device's
#: (AcceleratorError) are RuntimeErrors. Triton runs a C compiler of its own at the first launch, and what that ends with comes out.
FAILURES: tuple[type[Exception], ...] = (RuntimeError, OSError, ImportError, subprocess.SubprocessError, WindfallError)
try:  # comes with torch where there is CUDA
    from triton.errors import TritonError  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    pass
else:
    FAILURES = (*FAILURES, TritonError)


class Bench:
    """What is measured, on which device."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.tiny: bool = args.tiny
        self.device = torch.device("cpu" if args.tiny else "cuda")
        if args.tiny:
            self.config = GPTConfig(depth=2, width=64, head_dim=32, vocab_size=320, sequence_length=32)
            self.micro, self.step_tokens, self.steps, self.most = 2, 4 * 2 * 32, 3, 4
            # The compiler of kernels takes a minute on a CPU; the path through dynamo is the same.
            self.backend: str = args.backend or "eager"
        else:
            self.config = GPTConfig(
                depth=args.depth, width=None, vocab_size=args.vocab_size, sequence_length=args.sequence_length, head_dim=128
            )
            self.micro, self.step_tokens, self.steps, self.most = args.micro_batch, args.step_tokens, args.steps, args.most
            self.backend = args.backend or "inductor"

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

    def smaller(self, micro: int) -> int:
        """The next micro-batch to try, half as large or less, of which a step is a multiple; 0 after 1."""
        micro //= 2
        while micro and self.step_tokens % (micro * self.config.sequence_length):
            micro -= 1
        return micro

    def timed(self, step: Callable[[int], float], about: str) -> tuple[list[float], list[float]]:
        """Seconds and losses of the first step, which compiles and allocates, and of those that count."""
        seconds, losses = [], []
        for number in range(self.steps + 1):
            self.sync()
            began = time.perf_counter()
            losses.append(step(number))
            self.sync()
            seconds.append(time.perf_counter() - began)
            _say(f"{about} step {number}: {seconds[-1]:.2f} s, loss {losses[-1]:.4f}")
        return seconds, losses

    def row(self, micro: int, seconds: list[float], losses: list[float]) -> dict[str, Any]:
        """What both loops tell of themselves."""
        per_step = sorted(seconds[1:])[(len(seconds) - 1) // 2]
        rate = self.step_tokens / per_step
        return {
            "micro_batch": micro,
            "accumulation": self.step_tokens // (micro * self.config.sequence_length),
            "tokens_per_s": round(rate, 1),
            "mfu": round(flops_per_token(self.config) * rate / PEAK_FLOPS, 4) if not self.tiny else None,
            "step_s": round(per_step, 4),
            "first_step_s": round(seconds[0], 2),
            "peak_memory_bytes": self.peak_bytes(),
            "estimated_memory_bytes": memory_bytes(self.config, micro).total,
            "loss_first": round(losses[0], 5),
            "loss_last": round(losses[-1], 5),
        }


def bare(bench: Bench, micro: int, compile: bool) -> dict[str, Any]:
    """Optimizer steps of the recipe's size, piece by piece."""
    model = build_model(bench.config, 1, bench.device)
    loss_of = compiled(model, bench.backend) if compile else model
    optimizer = InnerOptimizer(model, OptimConfig(batch_tokens=bench.step_tokens))
    accumulation = bench.step_tokens // (micro * bench.config.sequence_length)
    batches, budget = bench.batches(micro), 1000.0 * bench.step_tokens

    def step(number: int) -> float:
        optimizer.zero_grad()
        total = torch.zeros((), device=bench.device)
        for batch in islice(batches, accumulation):
            with autocast(bench.device, "bf16"):
                loss = loss_of(batch[:, :-1].contiguous(), batch[:, 1:].contiguous(), "sum")
            loss.backward()
            total += loss.detach()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        torch._foreach_div_(gradients, float(bench.step_tokens))
        optimizer.step(schedule(number * float(bench.step_tokens), budget, ScheduleConfig()))
        return float(total) / bench.step_tokens

    seconds, losses = bench.timed(step, f"bare compile={compile} micro={micro}")
    return bench.row(micro, seconds, losses)


def through_trainer(bench: Bench, micro: int, compile: bool) -> dict[str, Any]:
    """Optimizer steps of a site's trainer over shards on disk."""
    config, sequences = bench.config, bench.step_tokens // bench.config.sequence_length
    # A trainer compiles with inductor and nothing else.
    ordinary = bench.backend == "inductor"
    with tempfile.TemporaryDirectory() as folder:
        write_data(bench, Path(folder))
        began = time.perf_counter()
        trainer = LocalTrainer(
            TrainerSpec(
                data_dir=folder, depth=config.depth, width=config.width, head_dim=config.head_dim,
                sequence_length=config.sequence_length, seed=1, batch_sequences=sequences, block_sequences=sequences,
                budget_tokens=1000 * bench.step_tokens, optimizer="normuon", lr_scale=1.0, warmdown_fraction=0.4, lr_floor=0.0,
                reset_warmup_fraction=0.005, precision="bf16", eval_sequences=1, micro_batch_sequences=micro,
                device=str(bench.device), compile=compile and ordinary,
            )
        )  # fmt: skip
        start_s = time.perf_counter() - began
        if compile and not ordinary:
            trainer._forward = compiled(trainer.model, bench.backend)
        skipped = []

        def step(number: int) -> float:
            loss = trainer.step([number], number * float(bench.step_tokens))
            skipped.extend([number] if trainer.skipped else [])
            return loss

        seconds, losses = bench.timed(step, f"trainer compile={compile} micro={micro}")
    return {**bench.row(micro, seconds, losses), "start_s": round(start_s, 2), "skipped_steps": len(skipped)}


def write_data(bench: Bench, folder: Path) -> None:
    """A prepared folder for all steps: random tokens, as `Bench.batches` has them, in a vocabulary of the model's size."""
    length, vocabulary = bench.config.sequence_length, bench.config.vocab_size
    words = chain.from_iterable(product(range(256), repeat=size) for size in (1, 2, 3))
    tokenizer = BPETokenizer(tuple(bytes(word) for word in islice(words, vocabulary - len(SPECIALS))))
    tokenizer.save(folder / "tokenizer.json")
    dtype = "uint16" if vocabulary <= 2**16 else "uint32"
    sequences = (bench.steps + 1) * bench.step_tokens // length
    tokens = np.random.default_rng(1).integers(max(2, vocabulary // 8), size=sequences * length + 1)
    content = tokens.astype("<u2" if dtype == "uint16" else "<u4").tobytes()
    (folder / "train-00000.bin").write_bytes(content)
    shard = Shard("train-00000.bin", "train", len(tokens), hashlib.sha256(content).hexdigest())
    Manifest(
        sequence_length=length, seed=0, held_out_fraction=0.0, train_sequences=sequences, val_sequences=0,
        train_bytes=int(tokenizer.token_bytes()[tokens[1:]].sum()), val_bytes=0, documents=1, shards=(shard,), source="random",
        tokenizer=tokenizer, dtype=dtype,
    ).save(folder)  # fmt: skip


def attempt(bench: Bench, measure: Callable[[Bench, int, bool], dict[str, Any]], loop: str, compile: bool) -> dict[str, Any]:
    """A row: at the largest micro-batch that has room, from `bench.micro` downwards, or with the error that it ended with."""
    about = {"loop": loop, "compile": compile}
    micro = bench.micro
    while True:
        bench.clear()
        try:
            return {**about, **measure(bench, micro, compile)}
        except torch.OutOfMemoryError:
            why = "out of memory"
        except ConfigError as error:  # the trainer's estimate says that there is no room
            why = str(error)
        except FAILURES as error:
            _say(f"{loop} compile={compile} micro={micro}: {_told(error)}")
            return {**about, "micro_batch": micro, "error": _told(error)}
        # Only here are the error and the frames that it holds, with all their tensors, gone.
        _say(f"{loop} compile={compile}: a micro-batch of {micro} has no room: {why}")
        if not bench.smaller(micro):
            return {**about, "micro_batch": micro, "error": f"not even a micro-batch of {micro} has room: {why}"}
        micro = bench.smaller(micro)


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


def largest(bench: Bench) -> dict[str, Any]:
    """The largest micro-batch among powers of two and their middles (24, 48, 96), not compiled; 0 for none, or an error."""
    bench.clear()
    try:
        return _largest(bench)
    except FAILURES as error:  # not even the model has room, for example
        return {"error": _told(error)}


def _largest(bench: Bench) -> dict[str, Any]:
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


def _told(error: Exception) -> str:
    """An error in a line that is not too long; compilers quote pages."""
    return f"{type(error).__name__}: {error}"[:1000]


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
    parser.add_argument("--backend", help="of torch.compile: inductor, or eager with --tiny, unless given")
    parser.add_argument("--tiny", action="store_true", help="the same code path on the CPU with a tiny model")
    args = parser.parse_args(argv)
    if not args.tiny and not torch.cuda.is_available():
        print("gpu_d20: there is no CUDA device here; nothing was measured (--tiny runs the code path on the CPU)")
        return 0
    bench = Bench(args)
    if bench.step_tokens % (bench.micro * bench.config.sequence_length):
        parser.error(f"--step-tokens {bench.step_tokens} is no multiple of {bench.micro} x {bench.config.sequence_length} tokens")
    if bench.config.vocab_size < 256 + len(SPECIALS):
        parser.error(f"--vocab-size {bench.config.vocab_size}: give at least {256 + len(SPECIALS)}, the bytes and special tokens")
    if bench.tiny:
        torch.set_num_threads(1)  # so small a model waits for threads longer than it computes
    loops = (("bare", bare), ("trainer", through_trainer))
    rows = [attempt(bench, measure, loop, compile) for loop, measure in loops for compile in (False, True)]
    best = max((row.get("mfu") or 0.0 for row in rows), default=0.0)
    found = {
        "benchmark": "gpu_d20",
        "device": torch.cuda.get_device_name() if bench.device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "model": asdict(bench.config),
        "parameters": parameter_count(bench.config),
        "flops_per_token": flops_per_token(bench.config),
        "tokens_per_step": bench.step_tokens,
        "peak_flops": PEAK_FLOPS,
        "rows": rows,
        "mfu": best or None,
        "mark": MARK,
        "met": best >= MARK,
        "largest_micro_batch": largest(bench),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
