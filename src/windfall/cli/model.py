"""`windfall model`."""

from __future__ import annotations

from typing import Any

from windfall.cli.output import print_json


def model(
    depth: int,
    width: int | None,
    head_dim: int | None,
    vocab_size: int,
    sequence_length: int,
    micro_batch: int,
    as_json: bool,
) -> None:
    """Print what a depth makes: shape, parameters, FLOPs per token, and the memory that training takes."""
    from windfall.train.model import GPTConfig, flops_per_token, parameter_count
    from windfall.train.sizes import gigabytes, memory_bytes

    config = GPTConfig(depth=depth, width=width, head_dim=head_dim, vocab_size=vocab_size, sequence_length=sequence_length)
    plain = memory_bytes(config, micro_batch)
    again = memory_bytes(config, micro_batch, checkpoint_activations=True)
    found: dict[str, Any] = {
        "depth": config.depth,
        "width": config.width,
        "heads": config.heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "sequence_length": config.sequence_length,
        "micro_batch": micro_batch,
        "parameters": parameter_count(config),
        "flops_per_token": flops_per_token(config),
        "memory_bytes": plain.total,
        "memory": {
            "weights": plain.weights,
            "gradients": plain.gradients,
            "optimizer": plain.optimizer,
            "activations": plain.activations,
            "activations_checkpointed": again.activations,
        },
        "memory_bytes_checkpointed": again.total,
    }
    if as_json:
        print_json(found)
        return
    rows = [
        ("shape", f"{config.depth} layers x {config.width}, {config.heads} heads of {config.head_dim}"),
        ("vocabulary", f"{config.vocab_size:,}, padded to {config.padded_vocab_size:,}"),
        ("parameters", f"{found['parameters']:,}"),
        ("flops_per_token", f"{found['flops_per_token']:,} ({found['flops_per_token']:.4g}) at {config.sequence_length:,} tokens"),
        ("memory_bytes", f"{plain.total:,} ({gigabytes(plain.total)}) with micro-batches of {micro_batch}, bf16"),
        ("  weights", gigabytes(plain.weights)),
        ("  gradients", gigabytes(plain.gradients)),
        ("  optimizer", gigabytes(plain.optimizer)),
        ("  activations", f"{gigabytes(plain.activations)}, or {gigabytes(again.activations)} with activation checkpointing"),
    ]
    for name, value in rows:
        print(f"{name:<16} {value}")
