"""The GPU benchmark's code path on a tiny model, on machines that lack this or that."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from patience import PATIENCE_S
from windfall.errors import ConfigError, DataError
from windfall.train.model import GPTConfig, parameter_count

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_d20.py"
LOOPS = [("bare", False), ("bare", True), ("trainer", False), ("trainer", True)]
#: What Windfall needs and the benchmark does not.
OTHERS = (
    "flwr", "redis", "pydantic", "typer", "rich", "httpx", "matplotlib", "safetensors", "pyarrow", "pandas", "tiktoken", "rustbpe",
    "huggingface_hub", "backports",
)  # fmt: skip
BARE_MACHINE = f"""
import runpy, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {OTHERS!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_d20", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def module() -> ModuleType:
    # Each row collects garbage, which would look through what all tests before have left, every time.
    gc.collect()
    gc.freeze()
    return benchmark()


def only_line(out: str) -> dict[str, Any]:
    lines = out.splitlines()
    assert len(lines) == 1, out
    found: dict[str, Any] = json.loads(lines[0])
    return found


def run(*arguments: str, **environment: str) -> dict[str, Any]:
    """What the benchmark, run from the checkout as its text says, prints on standard output."""
    done = subprocess.run(
        [sys.executable, *arguments, "--tiny"], env={**os.environ, "PYTHONPATH": "src", **environment}, cwd=ROOT,
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return only_line(done.stdout)


@pytest.mark.slow
def test_the_gpu_benchmark_runs_its_whole_path_on_a_tiny_model(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main(["--tiny"]) == 0
    found = only_line(capsys.readouterr().out)
    assert found["parameters"] == parameter_count(GPTConfig(**found["model"]))
    assert found["device"] == "cpu"
    assert [(row["loop"], row["compile"]) for row in found["rows"]] == LOOPS
    for row in found["rows"]:
        assert row["tokens_per_s"] > 0
        assert row["micro_batch"] * row["accumulation"] * found["model"]["sequence_length"] == found["tokens_per_step"]
        assert row["loss_last"] < row["loss_first"]
        assert row.get("skipped_steps", 0) == 0
    assert found["largest_micro_batch"] == {"plain": 4, "checkpointed": 4}
    # As the trainer leaves it: nobody turns TF32 on.
    assert found["float32_matmul_precision"] == "highest"
    assert (found["mark"], found["met"], found["mfu"]) == (0.5, False, None)


@pytest.mark.slow
def test_without_a_working_compiler_the_other_rows_are_measured_and_the_compiled_ones_say_why_not(tmp_path: Path) -> None:
    # Inductor itself, with a compiler of C++ that cannot even tell its version, and no kernels of an earlier run.
    found = run(str(SCRIPT), "--backend", "inductor", CXX="/bin/false", TORCHINDUCTOR_CACHE_DIR=str(tmp_path), TMPDIR=str(tmp_path))
    assert [(row["loop"], row["compile"]) for row in found["rows"]] == LOOPS
    for row in found["rows"]:
        if row["compile"]:
            assert "No working C++ compiler found" in row["error"]
        else:
            assert row["tokens_per_s"] > 0
    assert found["largest_micro_batch"] == {"plain": 4, "checkpointed": 4}


@pytest.mark.slow
def test_it_needs_torch_and_numpy_and_nothing_else() -> None:
    found = run("-c", BARE_MACHINE, str(SCRIPT))
    assert [(row["loop"], row["compile"]) for row in found["rows"]] == LOOPS
    assert all(row["tokens_per_s"] > 0 for row in found["rows"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: the benchmark would run")
def test_without_a_gpu_the_benchmark_says_so_in_one_line(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main([]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "no CUDA" in out


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Failed to find C compiler"), FileNotFoundError("gcc"), subprocess.CalledProcessError(1, ["gcc"]),
     ModuleNotFoundError("triton"), DataError("8 steps in a row had to be skipped")],
)  # fmt: skip
def test_a_row_that_fails_has_its_error_and_ends_there(module: ModuleType, error: Exception) -> None:
    row = module.attempt(tiny(module), raising(error, tried := []), "bare", True)
    assert tried == [2]
    assert row == {"loop": "bare", "compile": True, "micro_batch": 2, "error": f"{type(error).__name__}: {error}"}


def test_an_error_of_another_kind_is_a_bug_and_not_a_row(module: ModuleType) -> None:
    with pytest.raises(KeyError):
        module.attempt(tiny(module), raising(KeyError("bug"), []), "bare", True)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ConfigError("model: depth 20 needs about 99 GB")])
def test_a_row_without_room_is_tried_with_smaller_micro_batches_down_to_one(module: ModuleType, error: Exception) -> None:
    bench = tiny(module)
    bench.micro, bench.step_tokens = 12, 12 * 8 * 32
    row = module.attempt(bench, raising(error, tried := []), "trainer", False)
    assert tried == [12, 6, 3, 1]
    assert row["micro_batch"] == 1
    assert row["error"].startswith("not even a micro-batch of 1 has room: ")
    bench.micro, bench.step_tokens = 24, 2**10 * 32
    assert [bench.smaller(24), bench.smaller(8), bench.smaller(3), bench.smaller(1)] == [8, 4, 1, 0]


def test_a_search_for_the_largest_micro_batch_that_fails_has_its_error(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_model(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "build_model", build_model)
    assert module.largest(tiny(module)) == {"error": "OutOfMemoryError: CUDA out of memory"}


def tiny(module: ModuleType) -> Any:
    return module.Bench(Namespace(tiny=True, backend=None))


def raising(error: Exception, tried: list[int]) -> Any:
    """A measurement that notes its micro-batch and fails."""

    def measure(bench: Any, micro: int, compile: bool) -> dict[str, Any]:
        tried.append(micro)
        raise error

    return measure
