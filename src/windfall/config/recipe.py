"""What is trained, on what, and how: the tables `[model]`, `[data]` and `[train]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from windfall.config.base import Positive, Table


class ModelTable(Table):
    """`[model]`: the network, by one dial."""

    depth: int = Field(4, ge=1, le=512, description="number of layers; the other sizes follow from it")
    width: int | None = Field(None, ge=32, description="model dimension (default 64 x depth)")
    head_dim: int | None = Field(None, ge=8, description="dimension of a head (default 128, or 32 for small models)")
    sequence_length: int = Field(256, ge=16, description="tokens per sequence")
    initial_weights: str | None = Field(
        None,
        min_length=1,
        description="folder of `windfall export-weights` or `import-weights`: version 0 (default: drawn by run.seed)",
    )


class DataTable(Table):
    """`[data]`: what is read."""

    source: str = Field(
        "stdlib",
        min_length=1,
        description="stdlib, text, JSON rows, parquet, a folder of these, or a folder made by `windfall data prepare`",
    )
    tokenizer: str = Field("bytes", description="bytes, bpe (trained on the source), or a tokenizer.json")
    vocab_size: int | None = Field(None, ge=265, description="bpe: size of the vocabulary, specials included (default 65,536)")
    packing: Literal["stream", "best_fit"] = Field("stream", description="documents behind each other, or fitted into sequences")
    text_column: str = Field("text", description="column or field that holds the text (parquet, JSON rows)")
    skip_bad_rows: bool = Field(False, description="leave rows out that are no text (counted and named), instead of refusing them")
    held_out_fraction: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.02, description="documents kept for validation")
    eval_sequences: int = Field(64, ge=1, description="held-out sequences per evaluation")
    eval_every_tokens: int | None = Field(
        None, ge=0, description="tokens between versions that are evaluated, besides the last (default: a 25th of the budget)"
    )
    sample_prompt: str = Field(
        "", max_length=500, description="what a version goes on with beside its evaluation (default: nothing)"
    )
    sample_tokens: int = Field(64, ge=0, le=1024, description="how many tokens of that a version writes; 0: none")


class TrainTable(Table):
    """`[train]`: optimizer step and recipe."""

    batch_sequences: int = Field(8, ge=1, description="sequences per optimizer step")
    batch: Literal["global", "site"] = Field(
        "global", description="global: the sites of a joint round share each step's sequences, by speed; site: each takes so many"
    )
    block_sequences: int = Field(4, ge=1, description="sequences per block; divides batch_sequences")
    optimizer: Literal["normuon", "muon_plain", "adamw"] = Field("normuon", description="inner optimizer")
    lr_scale: Positive = Field(1.0, description="multiplies every learning rate of the recipe")
    warmdown_fraction: Annotated[float, Field(ge=0, le=1)] = Field(0.4, description="last share of the budget: lr falls to 0")
    lr_floor: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="share of the learning rate left at the end")
    reset_warmup_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        0.005, description="share of the budget over which lr rises after a reset of the inner state"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="forward and backward precision; auto: bf16 on GPUs, fp32 on CPUs; weights stay fp32"
    )
    micro_batch_sequences: int | None = Field(
        None, ge=1, description="sequences of one forward and backward pass at a rank (default: all it has of a step)"
    )
    compile: bool = Field(False, description="torch.compile the model, once in the life of a trainer")
    checkpoint_activations: bool = Field(False, description="compute activations again in the backward pass: less memory")
    spike_factor: Annotated[float, Field(gt=1)] = Field(
        20.0, description="a step whose gradient is this many times as long as usual is skipped"
    )
    max_skips: int = Field(8, ge=1, description="so many skipped steps in a row end a site's training")

    @model_validator(mode="after")
    def _divides(self) -> TrainTable:
        if self.batch_sequences % self.block_sequences:
            raise ValueError(
                f"block_sequences = {self.block_sequences} does not divide batch_sequences = {self.batch_sequences}; "
                "choose a divisor, so that no step ends inside a block"
            )
        return self
