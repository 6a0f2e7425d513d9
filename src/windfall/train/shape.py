"""The shape of the model: a few numbers that fit each other. No torch here, so that what only counts is quick to start."""

from __future__ import annotations

import math
from dataclasses import dataclass

from windfall.errors import ConfigError

VOCAB_MULTIPLE = 64
RECIPE_HEAD_DIM = 128
#: With activation checkpointing, and where no gradients are wanted, the loss is computed in so many pieces, of which one's logits
#: exist at a time.
LOSS_CHUNKS = 8
#: Beyond any machine: what is larger is a slip of the pen.
LARGEST_DEPTH = 512
_LARGEST = {"depth": LARGEST_DEPTH, "width": 2**17, "vocab_size": 2**24, "sequence_length": 2**20}


@dataclass(frozen=True, init=False)
class GPTConfig:
    """Shape of the model; every field is set once built.

    ``width=None`` means 64 · depth. ``head_dim=None`` means 128 where it divides a width of at least 256,
    else 32. ``heads=None`` means width / head_dim. `vocab_size` is what the tokenizer has; inside, the
    model pads it to a multiple of 64. ``attention_scale=None`` means sqrt(128) / head_dim (see `Attention`).
    `window_pattern` is tiled over the layers: L sees the whole context, S the half; the last layer is always L.
    Raises ConfigError where the numbers do not fit each other.
    """

    depth: int
    width: int
    heads: int
    head_dim: int
    vocab_size: int
    sequence_length: int
    attention_scale: float
    window_pattern: str

    def __init__(
        self,
        depth: int = 4,
        width: int | None = 128,
        heads: int | None = None,
        head_dim: int | None = None,
        vocab_size: int = 257,
        sequence_length: int = 256,
        attention_scale: float | None = None,
        window_pattern: str = "L",
    ) -> None:
        wide = 64 * depth if width is None else width
        if head_dim is None:
            if heads is not None and heads > 0 and wide % heads == 0:
                head_dim = wide // heads
            else:
                head_dim = 128 if wide >= 256 and wide % 128 == 0 else 32
        values = {
            "depth": depth,
            "width": wide,
            "heads": wide // head_dim if heads is None and head_dim > 0 else heads,
            "head_dim": head_dim,
            "vocab_size": vocab_size,
            "sequence_length": sequence_length,
        }
        if head_dim > wide >= 1 and depth >= 1:
            raise ConfigError(f"model: head_dim {head_dim} is more than the width {wide}; choose a divisor of the width")
        for name, value in values.items():
            if value is None or value < 1:
                raise ConfigError(f"model: {name} is {value}; give a whole number of at least 1")
            if value > _LARGEST.get(name, value):
                raise ConfigError(f"model: {name} is {value:,}; give at most {_LARGEST[name]:,}")
            object.__setattr__(self, name, value)
        if self.heads * self.head_dim != self.width:
            raise ConfigError(
                f"model: {self.heads} heads of {self.head_dim} make {self.heads * self.head_dim}, not the width"
                f" {self.width}; choose a width that head_dim divides"
            )
        if self.head_dim % 2:
            raise ConfigError(f"model: head_dim is {self.head_dim}; rotary positions need an even number")
        scale = math.sqrt(RECIPE_HEAD_DIM) / head_dim if attention_scale is None else float(attention_scale)
        if not (math.isfinite(scale) and scale > 0):
            raise ConfigError(f"model: attention_scale is {attention_scale}; give a number above 0, or leave it out")
        if not window_pattern or set(window_pattern) - set("SL"):
            raise ConfigError(f"model: window_pattern is {window_pattern!r}; give a word of S (half context) and L (all of it)")
        object.__setattr__(self, "attention_scale", scale)
        object.__setattr__(self, "window_pattern", window_pattern)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and of the head: `vocab_size` up to the next multiple of 64."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def windows(self) -> tuple[int, ...]:
        """Per layer, how many earlier tokens a token sees at most."""
        tiled = [self.window_pattern[layer % len(self.window_pattern)] for layer in range(self.depth - 1)] + ["L"]
        return tuple(self.sequence_length if kind == "L" else self.sequence_length // 2 for kind in tiled)


def parameter_count(config: GPTConfig) -> int:
    """Number of parameters, padding of the vocabulary included.

    Of each layer twelve squares of the width (four of attention, eight of the MLP) and two scalars, and the embedding and the head.
    """
    return config.depth * (12 * config.width**2 + 2) + 2 * config.padded_vocab_size * config.width


def flops_per_token(config: GPTConfig) -> int:
    """Floating-point operations of forward and backward per trained token, by the usual estimate.

    6 per parameter that takes part in a matrix product (the head does; the embedding and the scalars do
    not) plus, per layer, 12 · heads · head_dim · the tokens in view for attention (arXiv 2204.02311, appendix B). What
    activation checkpointing computes twice is not counted, as usual for MFU.
    """
    in_products = parameter_count(config) - config.padded_vocab_size * config.width - 2 * config.depth
    return 6 * in_products + sum(12 * config.heads * config.head_dim * window for window in config.windows)
