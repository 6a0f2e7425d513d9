"""Sizes of test runs: tokens per sequence, sequences per step and per block."""

SEQ, BATCH, BLOCK = 16, 4, 2
TOKENS_PER_STEP = SEQ * BATCH
