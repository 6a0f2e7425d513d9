"""Data: the loader against one that tokenises in the loop, and preparing 30 MB of text with a tokenizer of its own.

python benchmarks/data.py [--megabytes 30] [--json]
Text: the Python sources installed beside this one, shuffled by a seed, as one .jsonl file. Ratios are to a named baseline in the
same run, per CPU second, so that a busy machine changes little.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from windfall.train.data import TrainData
from windfall.train.manifest import Manifest
from windfall.train.prepare import prepare
from windfall.train.tokenizer import BPETokenizer

SEQUENCE = 2048
BATCH = 16
#: nanochat's loader keeps so many documents at hand, and encodes so many at a time.
BUFFER = 1000
AT_ONCE = 128
TARGET_RATIO = 100.0
#: For 30 MB of text.
TARGET_S = 30.0


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=30.0, help="text to prepare")
    parser.add_argument("--json", action="store_true", help="one JSON line at the end")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = corpus(folder / "text.jsonl", arguments.megabytes)
        facts = {**preparing(source, folder), **loading(source, folder / "all")}
    if arguments.json:
        print(json.dumps(facts))


def corpus(path: Path, megabytes: float) -> Path:
    """So much text, a document a line."""
    roots = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}
    files = sorted({file for root in roots for file in Path(root).rglob("*.py")})
    random.Random(0).shuffle(files)
    size = 0
    with path.open("w", encoding="utf-8") as out:
        for file in files:
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if text and size < megabytes * 1e6:
                size += len(text.encode())
                out.write(json.dumps({"text": text}) + "\n")
    if size < megabytes * 1e6:
        print(f"only {size / 1e6:.1f} MB of text found")
    return path


def preparing(source: Path, folder: Path) -> dict[str, float]:
    """Seconds to prepare: everything with all cores and with one process, and the parts."""
    cores = len(os.sched_getaffinity(0))
    print(f"preparing {source.stat().st_size / 1e6:.1f} MB of .jsonl, {cores} cores, 65,536 tokens, sequences of {SEQUENCE}:")
    facts: dict[str, float] = {}
    target = TARGET_S * max(1.0, source.stat().st_size / 32e6)
    for name, workers in (("one", 1), ("all", cores)):
        start, cpu = time.perf_counter(), sum(os.times()[:4])
        manifest = prepare(source, folder / name, tokenizer="bpe", sequence_length=SEQUENCE, workers=workers)
        facts[f"{name}_s"], facts[f"{name}_cpu_s"] = time.perf_counter() - start, sum(os.times()[:4]) - cpu
        start = time.perf_counter()
        prepare(source, folder / f"{name}-given", tokenizer=folder / name, sequence_length=SEQUENCE, workers=workers)
        facts[f"{name}_given_s"] = time.perf_counter() - start
    whole, given = facts["all_s"], facts["all_given_s"]
    print(f"  {whole:.1f} s in all: {given:.1f} s to encode, pack and write, the rest to train the tokenizer")
    print(f"  target {target:.0f} s: {'met' if whole < target else 'MISSED'} ({whole / target:.2f} of it)")
    print(
        f"  over one process: {facts['one_s'] / whole:.2f} times as fast ({facts['one_s']:.1f} s), with"
        f" {facts['all_cpu_s'] / facts['one_cpu_s']:.2f} times the CPU seconds ({facts['one_cpu_s']:.1f})"
    )
    assert manifest.hash == Manifest.load(folder / "one").hash
    return facts


def loading(source: Path, folder: Path) -> dict[str, float]:
    """Tokens per CPU second out of shards, and by two loaders that tokenise in the loop."""
    data = TrainData(folder)
    tokenizer = data.manifest.tokenizer
    assert isinstance(tokenizer, BPETokenizer)
    print(f"tokens per CPU second, batches of {BATCH} x {SEQUENCE}, int64:")
    ours = rate(batches(data), rounds=2000)
    print(f"  memory-mapped shards                              {ours / 1e6:8.1f} million")
    facts = {"loader_tokens_per_cpu_s": ours}
    for name, what, loader in (
        ("bare", "tokenising in the loop, as little work as can be", stream_in_the_loop(source, tokenizer)),
        ("best_fit", "tokenising in the loop, best-fit rows of a buffer", best_fit_in_the_loop(source, tokenizer)),
    ):
        theirs = rate(loader, rounds=60)
        met = f"; target {TARGET_RATIO:.0f}: {'met' if ours / theirs >= TARGET_RATIO else 'MISSED'}" if name == "bare" else ""
        print(f"  {what:49} {theirs / 1e6:8.2f} million: ours {ours / theirs:.0f} times{met}")
        facts[f"ratio_{name}"] = ours / theirs
    return facts


def rate(loader: Iterator[tuple[torch.Tensor, torch.Tensor]], rounds: int) -> float:
    """Tokens per CPU second of all threads, the first batches apart."""
    for _ in range(3):
        next(loader)
    start = time.process_time()
    tokens = sum(next(loader)[0].numel() for _ in range(rounds))
    return tokens / (time.process_time() - start)


def batches(data: TrainData) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ours."""
    at = 0
    while True:
        yield data.batch(range(at, at + BATCH))
        at += BATCH


def documents(source: Path) -> Iterator[str]:
    """Texts, again and again."""
    while True:
        with source.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"]


def best_fit_in_the_loop(source: Path, tokenizer: BPETokenizer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """As nanochat's loader: rows of whole documents out of a buffer of encoded ones. These documents are long, and crops costly."""
    encoding, bos, row = tokenizer._encoding, tokenizer.bos_id, SEQUENCE + 1
    texts = documents(source)
    waiting: list[list[int]] = []
    while True:
        rows = torch.empty((BATCH, row), dtype=torch.long)
        for number in range(BATCH):
            filled = 0
            while filled < row:
                while len(waiting) < BUFFER:
                    some = [next(texts) for _ in range(AT_ONCE)]
                    waiting += [[bos, *tokens] for tokens in encoding.encode_ordinary_batch(some, num_threads=4)]
                space = row - filled
                fitting = [(len(document), -i) for i, document in enumerate(waiting) if len(document) <= space]
                i = -max(fitting)[1] if fitting else min(range(len(waiting)), key=lambda i: len(waiting[i]))
                document = waiting.pop(i)[:space]
                rows[number, filled : filled + len(document)] = torch.tensor(document)
                filled += len(document)
        yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def stream_in_the_loop(source: Path, tokenizer: BPETokenizer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """As little work as one can do and still tokenise."""
    bos = np.array([tokenizer.bos_id], dtype=np.uint32)
    needed = BATCH * SEQUENCE + 1
    parts: list[np.ndarray] = []
    have = 0
    for text in documents(source):
        tokens = tokenizer._encode(text)
        parts += (bos, tokens)
        have += len(tokens) + 1
        while have >= needed:
            stream = np.concatenate(parts).astype(np.int64)
            rows = torch.from_numpy(stream[:needed])
            yield rows[:-1].view(BATCH, SEQUENCE), rows[1:].view(BATCH, SEQUENCE)
            parts = [stream[needed - 1 :].astype(np.uint32)]
            have = len(parts[0])


if __name__ == "__main__":
    main()
