"""The model that Windfall trains: a decoder-only transformer sized by one number, its depth.

The architecture is the one of the paper's run (nanochat of January 2026): rotary positions, RMS norm
without weights, QK-norm, relu² MLP, untied embeddings, a norm after the embedding, per-layer residual and
x0 scalars, and a softcap on the logits. No biases anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from windfall.errors import ConfigError

ROTARY_BASE = 10_000.0
LOGIT_SOFTCAP = 15.0
VOCAB_MULTIPLE = 64
RECIPE_HEAD_DIM = 128
IGNORED_TARGET = -1
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, init=False)
class GPTConfig:
    """Shape of the model; every field is an int once built.

    ``width=None`` means 64 · depth. ``head_dim=None`` means 128 where it divides a width of at least 256,
    else 32. ``heads=None`` means width / head_dim. `vocab_size` is what the tokenizer has; inside, the
    model pads it to a multiple of 64. Raises ConfigError where the numbers do not fit each other.
    """

    depth: int
    width: int
    heads: int
    head_dim: int
    vocab_size: int
    sequence_length: int

    def __init__(
        self,
        depth: int = 4,
        width: int | None = 128,
        heads: int | None = None,
        head_dim: int | None = None,
        vocab_size: int = 257,
        sequence_length: int = 256,
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
        for name, value in values.items():
            if value is None or value < 1:
                raise ConfigError(f"model: {name} is {value}; give a whole number of at least 1")
            object.__setattr__(self, name, value)
        if self.heads * self.head_dim != self.width:
            raise ConfigError(
                f"model: {self.heads} heads of {self.head_dim} make {self.heads * self.head_dim}, not the width"
                f" {self.width}; choose a width that head_dim divides"
            )
        if self.head_dim % 2:
            raise ConfigError(f"model: head_dim is {self.head_dim}; rotary positions need an even number")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and of the head: `vocab_size` up to the next multiple of 64."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def rms_norm(x: Tensor) -> Tensor:
    """x divided by the root mean square of its last dimension; no weight."""
    return F.rms_norm(x, (x.size(-1),))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to x [B, H, T, D]; cos and sin are [T, D/2]. Pairs are (d, d + D/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention over the full context, with rotary positions and normed queries and keys."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        # Normed queries and keys bound a logit by head_dim · scale. The usual 1/sqrt(head_dim) makes that
        # sqrt(head_dim), too little for a head of 32 to pick one token among hundreds; so every size has the
        # bound of the recipe's heads of 128, for which this is the usual scale.
        self.scale = math.sqrt(RECIPE_HEAD_DIM) / config.head_dim
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key = nn.Linear(config.width, config.width, bias=False)
        self.value = nn.Linear(config.width, config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, T, width] to [B, T, width]."""
        batch, length, width = x.shape
        heads = (batch, length, self.heads, self.head_dim)
        query = self.query(x).view(heads).transpose(1, 2)
        key = self.key(x).view(heads).transpose(1, 2)
        value = self.value(x).view(heads).transpose(1, 2)
        query, key = rms_norm(rotate(query, cos, sin)), rms_norm(rotate(key, cos, sin))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=self.scale)
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class MLP(nn.Module):
    """Four times as wide inside, relu² between."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width, bias=False)
        self.down = nn.Linear(4 * config.width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, width] to [B, T, width]."""
        out: Tensor = self.down(F.relu(self.up(x)).square())
        return out


class Block(nn.Module):
    """Attention, then MLP, each on a normed input and added to the stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, T, width] to [B, T, width]."""
        x = x + self.attention(rms_norm(x), cos, sin)
        out: Tensor = x + self.mlp(rms_norm(x))
        return out


class GPT(nn.Module):
    """The whole model. Fresh from the constructor its weights are whatever torch left there: call
    `init_weights`, or use `build_model`, or load a state dict (which holds parameters only) after
    `init_buffers`."""

    rotary_cos: Tensor
    rotary_sin: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = nn.Linear(config.width, config.padded_vocab_size, bias=False)
        self.residual_scalars = nn.Parameter(torch.ones(config.depth))
        self.x0_scalars = nn.Parameter(torch.zeros(config.depth))
        table = (config.sequence_length, config.head_dim // 2)
        self.register_buffer("rotary_cos", torch.empty(table), persistent=False)
        self.register_buffer("rotary_sin", torch.empty(table), persistent=False)

    @torch.no_grad()
    def init_buffers(self) -> None:
        """Compute the rotary tables, which no state dict carries."""
        half = self.config.head_dim // 2
        # On the CPU in float64, so that every site has the same bits whatever its accelerator.
        frequency = ROTARY_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.outer(torch.arange(self.config.sequence_length, dtype=torch.float64), frequency)
        self.rotary_cos.copy_(angle.cos())
        self.rotary_sin.copy_(angle.sin())

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Set every parameter and buffer. Equal generators on equal devices give equal bits.

        Embedding normal(1), head normal(0.001), matrices that read the stream uniform with standard
        deviation width^-1/2, matrices that write to it zero, so that every block starts as the identity.
        """
        bound = math.sqrt(3.0 / self.config.width)
        self.embedding.weight.normal_(0.0, 1.0, generator=generator)
        self.head.weight.normal_(0.0, 0.001, generator=generator)
        for block in self.blocks:
            assert isinstance(block, Block)
            for reader in (block.attention.query, block.attention.key, block.attention.value, block.mlp.up):
                reader.weight.uniform_(-bound, bound, generator=generator)
            block.attention.output.weight.zero_()
            block.mlp.down.weight.zero_()
        self.residual_scalars.fill_(1.0)
        self.x0_scalars.zero_()
        self.init_buffers()

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] (T up to `sequence_length`) to float32 logits [B, T, vocab_size]."""
        length = tokens.size(1)
        x0 = x = rms_norm(self.embedding(tokens))
        cos, sin = self.rotary_cos[:length], self.rotary_sin[:length]
        if torch.is_autocast_enabled(x.device.type):
            # Without this every rotated query and key would be promoted back to float32.
            dtype = torch.get_autocast_dtype(x.device.type)
            cos, sin = cos.to(dtype), sin.to(dtype)
        for layer, block in enumerate(self.blocks):
            x = block(self.residual_scalars[layer] * x + self.x0_scalars[layer] * x0, cos, sin)
        raw = self.head(rms_norm(x))[..., : self.config.vocab_size].float()
        return LOGIT_SOFTCAP * torch.tanh(raw / LOGIT_SOFTCAP)

    def forward(self, tokens: Tensor, targets: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
        """Loss in nats over the targets that are not -1 (mean per token, or sum), or logits without targets.

        tokens and targets are [B, T] int64; logits are [B, T, vocab_size] float32. The mean over no
        target at all is nan; the sum is 0.
        """
        logits = self.logits(tokens)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_TARGET, reduction=reduction)


def build_model(config: GPTConfig, seed: int, device: torch.device | str = "cpu") -> GPT:
    """A model with initial weights that depend on (config, seed) alone, whatever the device.

    Built on the meta device first, so that torch's own default initialisation, which costs seconds at d20
    and is thrown away, is never computed.
    """
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device="cpu")
    model.init_weights(torch.Generator().manual_seed(seed))
    return model.to(device)


def empty_model(config: GPTConfig, device: torch.device | str = "cpu") -> GPT:
    """A model with rotary tables and unset parameters: for loading a state dict into."""
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device=device)
    model.init_buffers()
    return model


def parameter_count(config: GPTConfig) -> int:
    """Number of parameters, padding of the vocabulary included. Instant: nothing is allocated."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPT(config).parameters())


def flops_per_token(config: GPTConfig) -> int:
    """Floating-point operations of forward and backward per trained token, by the usual estimate.

    6 per parameter that takes part in a matrix product (the head does; the embedding and the scalars do
    not) plus 12 · layers · heads · head_dim · sequence for attention.
    """
    in_products = parameter_count(config) - config.padded_vocab_size * config.width - 2 * config.depth
    attention = 12 * config.depth * config.heads * config.head_dim * config.sequence_length
    return 6 * in_products + attention
