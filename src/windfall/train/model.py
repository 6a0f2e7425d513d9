"""The model that Windfall trains: a decoder-only transformer sized by one number, its depth.

The architecture is the one of the paper's run (nanochat of January 2026): rotary positions, RMS norm
without weights, QK-norm, relu² MLP, untied embeddings, a norm after the embedding, per-layer residual and
x0 scalars, and a softcap on the logits. No biases anywhere. With heads of 128 the arithmetic is nanochat's,
operation by operation; docs/checkpoints.md says how that was checked and where small models differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from windfall.train.shape import LOSS_CHUNKS
from windfall.train.shape import GPTConfig as GPTConfig
from windfall.train.shape import flops_per_token as flops_per_token
from windfall.train.shape import parameter_count as parameter_count

ROTARY_BASE = 10_000.0
LOGIT_SOFTCAP = 15.0
IGNORED_TARGET = -1
Reduction = Literal["mean", "sum"]


def rms_norm(x: Tensor) -> Tensor:
    """x divided by the root mean square of its last dimension, in x's dtype; no weight."""
    if x.dtype == torch.bfloat16:
        # Since torch 2.12 autocast makes CUDA's rms_norm return float32, and with it the whole stream. It sums in
        # float32 anyway, so that only costs memory (pytorch issue 188955).
        with torch.autocast(x.device.type, enabled=False):
            return F.rms_norm(x, (x.size(-1),))
    return F.rms_norm(x, (x.size(-1),))


def rotary_tables(length: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, head_dim / 2] of position · base^(-2i / head_dim): float32 that bfloat16 can hold.

    They are rounded to bfloat16 because nanochat's are, and for what comes after float32 they would be anyway. The angle
    is rounded where nanochat rounds it (float32), but the functions are computed in float64 on the CPU: so every site
    has the same bits, whatever its accelerator.
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequency = 1.0 / (ROTARY_BASE ** exponent.double()).float()
    angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency).double()
    return angle.cos().bfloat16().float(), angle.sin().bfloat16().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to x [B, H, T, D]; cos and sin are [T, D/2]. Pairs are (d, d + D/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


class KeyValueCache:
    """Keys and values of the tokens that a model has seen, so that the next token costs one token's work.

    Made for one batch and at most `sequence_length` tokens; memory is taken at the first use. After each call of
    the model with it, `length` tokens are in it; set it back to 0 to start anew.
    """

    def __init__(self, config: GPTConfig) -> None:
        self.length = 0
        self.capacity = config.sequence_length
        self._keys: list[Tensor | None] = [None] * config.depth
        self._values: list[Tensor | None] = [None] * config.depth

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write key and value [B, H, t, D] of `layer` behind what is there; return all of them [B, H, length + t, D]."""
        end = self.length + key.size(2)
        whole = []
        for store, new in ((self._keys, key), (self._values, value)):
            held = store[layer]
            if held is None:
                held = store[layer] = new.new_empty((*new.shape[:2], self.capacity, new.size(3)))
            held[:, :, self.length : end] = new
            whole.append(held[:, :, :end])
        return whole[0], whole[1]


@dataclass(frozen=True)
class _Context:
    """What the layers need beside the stream: rotary tables of the positions, a cache, and masks by window."""

    cos: Tensor
    sin: Tensor
    cache: KeyValueCache | None
    masks: dict[int, Tensor | None]


def _mask(window: int, start: int, length: int, device: torch.device) -> Tensor | None:
    """What tokens start .. start + length - 1 see, [length, start + length]; None where causal says it all."""
    end = start + length
    if (start == 0 or length == 1) and window >= end - 1:
        return None
    distance = torch.arange(start, end, device=device).unsqueeze(1) - torch.arange(end, device=device)
    return (distance >= 0) & (distance <= window)


class Matrix(nn.Linear):
    """A linear map without bias, its weights unset: torch's own initialisation costs seconds at d20 and is thrown away."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        return None


class Embedding(nn.Embedding):
    """An embedding, its weights unset."""

    def reset_parameters(self) -> None:
        return None


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normed queries and keys."""

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.layer, self.window = layer, config.windows[layer]
        # Normed queries and keys bound a logit by head_dim · scale. The usual 1/sqrt(head_dim) makes that
        # sqrt(head_dim), too little for a head of 32 to pick one token among hundreds; so every size has the
        # bound of the recipe's heads of 128, for which this is the usual scale.
        self.scale = config.attention_scale
        self.query = Matrix(config.width, config.width)
        self.key = Matrix(config.width, config.width)
        self.value = Matrix(config.width, config.width)
        self.output = Matrix(config.width, config.width)

    def forward(self, x: Tensor, context: _Context) -> Tensor:
        """x [B, T, width] to [B, T, width]."""
        batch, length, width = x.shape
        heads = (batch, length, self.heads, self.head_dim)
        query = self.query(x).view(heads).transpose(1, 2)
        key = self.key(x).view(heads).transpose(1, 2)
        value = self.value(x).view(heads).transpose(1, 2)
        query, key = (rms_norm(rotate(t, context.cos, context.sin)) for t in (query, key))
        if context.cache is not None:
            key, value = context.cache.extend(self.layer, key, value)
        mask = context.masks[self.window]
        # One query at the end sees all keys; several without a mask are at the start, as `_mask` makes sure.
        causal = mask is None and length > 1
        mixed = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=self.scale)
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class MLP(nn.Module):
    """Four times as wide inside, relu² between."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = Matrix(config.width, 4 * config.width)
        self.down = Matrix(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, width] to [B, T, width]."""
        out: Tensor = self.down(F.relu(self.up(x)).square())
        return out


class TransformerLayer(nn.Module):
    """Attention, then MLP, each on a normed input and added to the stream."""

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, context: _Context) -> Tensor:
        """x [B, T, width] to [B, T, width]."""
        x = x + self.attention(rms_norm(x), context)
        out: Tensor = x + self.mlp(rms_norm(x))
        return out


class GPT(nn.Module):
    """The whole model. Fresh from the constructor its weights are whatever torch left there: call
    `init_weights`, or use `build_model`, or load a state dict (which holds parameters only) after
    `init_buffers`.

    With `checkpoint_activations` a training step keeps only what enters each layer and computes the rest again in
    backward, and the logits of one piece of the batch at a time: a third more work for a fraction of the memory
    (`windfall.train.sizes` has the numbers). It may be switched at any time; gradients stay the same.
    """

    rotary_cos: Tensor
    rotary_sin: Tensor

    def __init__(self, config: GPTConfig, checkpoint_activations: bool = False) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = checkpoint_activations
        self.embedding = Embedding(config.padded_vocab_size, config.width)
        #: The layers. Stored weights have this name in theirs (`blocks.3.mlp.up.weight`); a block of data is something else.
        self.blocks = nn.ModuleList(TransformerLayer(config, layer) for layer in range(config.depth))
        self.head = Matrix(config.width, config.padded_vocab_size)
        self.residual_scalars = nn.Parameter(torch.ones(config.depth))
        self.x0_scalars = nn.Parameter(torch.zeros(config.depth))
        table = (config.sequence_length, config.head_dim // 2)
        self.register_buffer("rotary_cos", torch.empty(table), persistent=False)
        self.register_buffer("rotary_sin", torch.empty(table), persistent=False)

    @torch.no_grad()
    def init_buffers(self) -> None:
        """Compute the rotary tables, which no state dict carries."""
        cos, sin = rotary_tables(self.config.sequence_length, self.config.head_dim)
        self.rotary_cos.copy_(cos)
        self.rotary_sin.copy_(sin)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Set every parameter and buffer. Equal generators on equal devices give equal bits.

        Embedding normal(1), head normal(0.001), matrices that read the stream uniform with standard
        deviation width^-1/2, matrices that write to it zero, so that every layer starts as the identity.
        """
        bound = math.sqrt(3.0 / self.config.width)
        self.embedding.weight.normal_(0.0, 1.0, generator=generator)
        self.head.weight.normal_(0.0, 0.001, generator=generator)
        for layer in self.blocks:
            assert isinstance(layer, TransformerLayer)
            for reader in (layer.attention.query, layer.attention.key, layer.attention.value, layer.mlp.up):
                reader.weight.uniform_(-bound, bound, generator=generator)
            layer.attention.output.weight.zero_()
            layer.mlp.down.weight.zero_()
        self.residual_scalars.fill_(1.0)
        self.x0_scalars.zero_()
        self.init_buffers()

    def hidden(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """tokens [B, T] to what the head reads, [B, T, width], in float32 or autocast's dtype.

        With a cache the tokens follow those that are in it, and are added. Raises ValueError where that makes
        more than `sequence_length`.
        """
        start, length = cache.length if cache else 0, tokens.size(1)
        if start + length > self.config.sequence_length:
            raise ValueError(f"{start + length} tokens in a model of sequence_length {self.config.sequence_length}")
        x = self.embedding(tokens)
        cos, sin = self.rotary_cos[start : start + length], self.rotary_sin[start : start + length]
        if torch.is_autocast_enabled(x.device.type):
            # Without this the stream, and every rotated query and key, would be float32.
            dtype = torch.get_autocast_dtype(x.device.type)
            x, cos, sin = x.to(dtype), cos.to(dtype), sin.to(dtype)
        masks = {window: _mask(window, start, length, x.device) for window in set(self.config.windows)}
        context = _Context(cos, sin, cache, masks)
        x0 = x = rms_norm(x)
        again = self.checkpoint_activations and cache is None and torch.is_grad_enabled()
        for layer in range(self.config.depth):
            if again:
                # No layer draws random numbers, so there is no generator's state to keep.
                x = checkpoint(self._layer, layer, x, x0, context, use_reentrant=False, preserve_rng_state=False)
            else:
                x = self._layer(layer, x, x0, context)
        if cache is not None:
            cache.length += length
        return rms_norm(x)

    def _layer(self, layer: int, x: Tensor, x0: Tensor, context: _Context) -> Tensor:
        """The stream after one layer. The scalars are 0-dimensional and leave its dtype alone."""
        out: Tensor = self.blocks[layer](self.residual_scalars[layer] * x + self.x0_scalars[layer] * x0, context)
        return out

    def project(self, hidden: Tensor) -> Tensor:
        """What `hidden` returned, or a part of it, [..., width] to float32 logits [..., vocab_size] within ±15."""
        raw = self.head(hidden)[..., : self.config.vocab_size].float()
        return LOGIT_SOFTCAP * torch.tanh(raw / LOGIT_SOFTCAP)

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] (T up to `sequence_length`) to float32 logits [B, T, vocab_size]."""
        return self.project(self.hidden(tokens))

    def forward(self, tokens: Tensor, targets: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
        """Loss in nats over the targets that are not -1 (mean per token, or sum), or logits without targets.

        tokens and targets are [B, T] int64; logits are [B, T, vocab_size] float32. The mean over no
        target at all is nan; the sum is 0. Without gradients the loss is summed over `LOSS_CHUNKS` pieces of the batch, so that
        evaluation never needs more memory than a training step of the same batch; it differs by float32 rounding at most.
        """
        hidden = self.hidden(tokens)
        if targets is None:
            return self.project(hidden)
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        training = torch.is_grad_enabled()
        if training and not self.checkpoint_activations:
            return self._loss(hidden, targets, reduction)
        pieces = zip(hidden.chunk(LOSS_CHUNKS), targets.chunk(LOSS_CHUNKS), strict=True)
        if training:
            losses = [checkpoint(self._loss, h, t, "sum", use_reentrant=False, preserve_rng_state=False) for h, t in pieces]
        else:
            losses = [self._loss(h, t, "sum") for h, t in pieces]
        total = torch.stack(losses).sum()
        return total if reduction == "sum" else total / (targets != IGNORED_TARGET).sum()

    def _loss(self, hidden: Tensor, targets: Tensor, reduction: Reduction) -> Tensor:
        """hidden [N, width] and targets [N] to the loss."""
        return F.cross_entropy(self.project(hidden), targets, ignore_index=IGNORED_TARGET, reduction=reduction)


def build_model(config: GPTConfig, seed: int, device: torch.device | str = "cpu", *, checkpoint_activations: bool = False) -> GPT:
    """A model with initial weights that depend on (config, seed) alone, whatever the device."""
    with torch.device("cpu"):
        model = GPT(config, checkpoint_activations)
    model.init_weights(torch.Generator().manual_seed(seed))
    return model.to(device)


def empty_model(config: GPTConfig, device: torch.device | str = "cpu") -> GPT:
    """A model with rotary tables and unset parameters: for loading a state dict into."""
    with torch.device(device):
        model = GPT(config)
    model.init_buffers()
    return model
