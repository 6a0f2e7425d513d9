"""What travels between sites and coordinator, and what making a version of it costs: bytes, errors, seconds, memory.

make bench-differences

One JSON line per figure. Bytes and errors do not depend on the machine. Seconds are those of the study's model (561M parameters,
its own shapes), with one thread; the processor's are beside them, because what is left is the disk. Errors are of normal values:
of one round, and of the sum of a hundred with what each left carried on to the next, both as a share of one round's root mean
square.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from windfall.federation.merge import Outer
from windfall.federation.merger import MergeJob, Part, Stored, merge
from windfall.store.streams import DurableFile
from windfall.store.tensors import TensorWriter
from windfall.wire.codec import CODECS, DifferenceReader, DifferenceWriter, Shapes, decode, encode, encoded_size

#: Error of one round that each codec promises of normal values, and its share of float32's bytes.
PROMISED = {"fp32": (0.0, 1.001), "bf16": (0.002, 0.501), "int8": (0.0075, 0.26), "int4": (0.135, 0.13), "int2": (0.35, 0.07)}
#: Seconds between two looks at the memory.
_LOOK_S = 0.05


def main() -> None:
    """Print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=20, help="of the model: 20 is the study's, with 561M parameters")
    parser.add_argument("--folder", type=Path, help="where files are written, some 14 GB of them for the study's model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shapes = study(args.depth)
    for codec in CODECS:
        errors(codec, shapes)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        seconds_and_memory(Path(folder), shapes)


def study(depth: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the study's model at a depth."""
    width = 64 * depth
    shapes: dict[str, tuple[int, ...]] = {"embedding": (65536, width), "head": (65536, width), "scalars": (2 * depth,)}
    for layer in range(depth):
        shapes |= {f"{layer:02}.{name}": (width, width) for name in ("query", "key", "value", "output")}
        shapes |= {f"{layer:02}.up": (4 * width, width), f"{layer:02}.down": (width, 4 * width)}
    return shapes


def errors(codec: str, shapes: Shapes) -> None:
    """Bytes, and how much one round and a hundred lose."""
    rng = np.random.default_rng(0)
    shape = (256, 1024)
    drift = 1e-4 * rng.standard_normal(shape)
    rest, whole, arrived, one = np.zeros(shape, np.float32), np.zeros(shape), np.zeros(shape), 0.0
    for _ in range(100):
        moved = (drift + 1e-3 * rng.standard_normal(shape)).astype(np.float32)
        one = one or rms(moved - through(moved, codec)) / rms(moved)
        sent = through(moved + rest, codec)
        rest = moved + rest - sent
        whole += moved
        arrived += sent
    promised, share = PROMISED[codec]
    float32 = 4 * sum(math.prod(shape) for shape in shapes.values())
    say(
        figure="difference", codec=codec, bytes_share=round(encoded_size(shapes, codec) / float32, 4), bytes_mark=share,
        error_of_a_round=round(one, 5), error_mark=promised, lost_of_100_rounds=round(rms(whole - arrived) / rms(moved), 5),
        lost_share_of_their_sum=round(rms(whole - arrived) / rms(whole), 5),
    )  # fmt: skip


def through(value: np.ndarray, codec: str) -> np.ndarray:
    return decode(encode({"w": value}, codec), {"w": value.shape})["w"]


def rms(value: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(value, dtype=np.float64))))


def seconds_and_memory(folder: Path, shapes: Shapes) -> None:
    """Encoding to a file, reading and checking it, and a merge of two of them."""
    most = max(math.prod(shape) for shape in shapes.values())
    values, sent = np.random.default_rng(0).standard_normal(most, np.float32), np.ones(most, np.float32)

    def some(shape: tuple[int, ...], room: np.ndarray) -> np.ndarray:
        return room[: math.prod(shape)].reshape(shape)

    parameters = sum(math.prod(shape) for shape in shapes.values())
    for codec in CODECS:
        path = folder / codec
        said = {"codec": codec, "parameters": parameters}
        with measured(figure="encode", **said), open(path, "wb") as f, DifferenceWriter(f, shapes, codec) as writer:
            for name, shape in shapes.items():
                writer.put(name, some(shape, values), some(shape, sent))
        with measured(figure="read, check and decode", **said), DifferenceReader(path, shapes) as reader:
            reader.verify()
        if codec != "int8":
            path.unlink()
    (folder / "other").write_bytes((folder / "int8").read_bytes())
    with measured(figure="write and sync the weights", parameters=parameters):
        file = DurableFile(folder / "v0")
        weights = TensorWriter(file, shapes)
        for name in weights.names:
            weights.put(name, [some(shapes[name], values)])
        weights.close()
        made = file.finish()
        file.publish()
    before = Stored(folder / "v0", made.sha256)
    del values, sent
    two = [[Part(i, f"site-{i}", 1, folder / name)] for i, name in enumerate(("int8", "other"))]
    jobs = {"one": (two[:1], None, "int8"), "two": (two, None, "int8"), "two, with a residual": (two, before, "int8"),
            "two, to int4": (two, before, "int4")}  # fmt: skip
    for what, (movements, residual, codec) in jobs.items():
        with measured(figure="merge", contributions=what, codec=codec, parameters=parameters):
            merge(MergeJob(1, before, residual, None, movements, codec, Outer(), folder))


@contextmanager
def measured(**what: Any) -> Iterator[None]:
    """Say what a block of code took, and how much anonymous memory it had besides what there was before."""
    start, start_cpu, first = time.perf_counter(), time.process_time(), anonymous_mb()
    most, done = first, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(_LOOK_S):
            most = max(most, anonymous_mb())

    looking = threading.Thread(target=look)
    looking.start()
    yield
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    done.set()
    looking.join()
    say(**what, seconds=round(seconds, 2), cpu_s=round(cpu, 2), memory_mb=round(most - first))


def anonymous_mb() -> float:
    """This process's memory that is no file's; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
