"""Text from a model: what a user looks at first."""

from __future__ import annotations

import torch

from windfall.errors import ConfigError
from windfall.train.manifest import Manifest
from windfall.train.model import GPT


@torch.no_grad()
def generate(
    model: GPT,
    manifest: Manifest,
    prompt: str,
    max_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
) -> str:
    """Continue `prompt` by up to `max_tokens` tokens and return the continuation alone.

    temperature 0 takes the likeliest token; top_k None or 0 draws from all. Stops at a document's end. The
    model sees the last `sequence_length` tokens. Bytes that are not UTF-8 come out as U+FFFD. Equal arguments give
    equal text on one machine. Raises ConfigError for numbers below 0, or a model of another vocabulary.
    """
    if max_tokens < 0 or temperature < 0 or (top_k or 0) < 0:
        raise ConfigError(f"generate: max_tokens {max_tokens}, temperature {temperature}, top_k {top_k}; none may be below 0")
    tokenizer = manifest.tokenizer
    if model.config.vocab_size != tokenizer.vocab_size:
        raise ConfigError(
            f"generate: the model has {model.config.vocab_size} tokens, the data's tokenizer {tokenizer.vocab_size};"
            " use the manifest that the model was trained with"
        )
    device = model.embedding.weight.device
    # Drawn on the CPU, so that the seed means the same on every device.
    generator = torch.Generator().manual_seed(seed)
    tokens = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    start = len(tokens)
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_tokens):
            context = torch.tensor([tokens[-model.config.sequence_length :]], device=device)
            token = _draw(model.logits(context)[0, -1].cpu(), temperature, top_k, generator)
            if token == tokenizer.bos_id:
                break
            tokens.append(token)
    finally:
        model.train(was_training)
    return tokenizer.decode(tokens[start:])


def _draw(logits: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """One token from logits [V]."""
    if temperature == 0:
        return int(logits.argmax())
    if top_k and top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
    # In float64 and shifted first: a tiny temperature must not overflow.
    scaled = (logits.double() - logits.max()) / temperature
    return int(torch.multinomial(scaled.softmax(-1), 1, generator=generator))
