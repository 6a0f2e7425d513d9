"""How fast this machine trains a model: a few real optimizer steps on random tokens, timed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from windfall import clock
from windfall.train.model import build_model
from windfall.train.optim import InnerOptimizer
from windfall.train.precision import autocast, precision_on
from windfall.train.ranks import Alone
from windfall.train.schedule import schedule
from windfall.train.sizes import require_room
from windfall.train.spec import TrainerSpec, model_config
from windfall.train.trainer import recipe

#: How many steps are timed. One step before them is not, because it allocates memory and chooses kernels.
STEPS = 5
#: After so long (s) no further step is begun.
_LONG_S = 20.0


def tokens_per_s(spec: TrainerSpec, vocab_size: int, threads: int, tell: Callable[[float, str], None] = lambda f, w: None) -> float:
    """Tokens per second of wall time of one rank that does whole steps of ``spec``; the median of a few.

    ``tell`` hears how far it is (0 to 1) and what is done. Nothing is compiled: `train.compile` makes a site faster than this.

    Raises:
        ConfigError: the model does not fit into the memory.
    """
    torch.set_num_threads(threads)
    device = torch.device(spec.device)
    shape = model_config(spec, vocab_size)
    require_room(spec, shape, device, 1)
    tell(0.0, "building the model")
    model = build_model(shape, spec.seed, device)
    model.checkpoint_activations = spec.checkpoint_activations
    tokens = spec.batch_sequences * spec.sequence_length
    rates, schedules = recipe(spec, tokens)
    optimizer = InnerOptimizer(model, rates, Alone())
    precision = precision_on(device, spec.precision)
    drawn = torch.randint(
        vocab_size, (spec.batch_sequences, spec.sequence_length + 1), generator=torch.Generator().manual_seed(spec.seed)
    ).to(device)
    micro = spec.micro_batch_sequences or spec.batch_sequences
    took: list[float] = []
    begun = clock.monotonic()
    for step in range(1 + STEPS):
        tell(step / (1 + STEPS), f"optimizer step {step + 1} of {1 + STEPS}")
        before = clock.monotonic()
        optimizer.zero_grad()
        for at in range(0, spec.batch_sequences, micro):
            part = drawn[at : at + micro]
            with autocast(device, precision):
                loss = model(part[:, :-1], part[:, 1:].contiguous(), reduction="sum")
            (loss / tokens).backward()
        optimizer.step(schedule(step * tokens, spec.budget_tokens, schedules, None))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        after = clock.monotonic()
        took.append(after - before)
        if step > 0 and after - begun > _LONG_S:
            break
    timed = sorted(took[1:])
    return tokens / timed[len(timed) // 2]
