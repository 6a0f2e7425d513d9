"""Weights tensor by tensor: the same bytes as safetensors' own, mapped without memory, and refused where they are damaged."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load
from safetensors.numpy import save as safetensors_save

from windfall.errors import DataError
from windfall.store.streams import DurableFile
from windfall.store.tensors import PIECE, TensorFile, TensorWriter, load_file, save_file, to_bytes

TENSORS = {
    name: np.asarray(np.random.default_rng(1).standard_normal(shape), np.float32)
    for name, shape in {"w": (7, 90), 'é "q"\n': (5,), "a": (), "none": (0, 4), "z.0": (2, 3, 4), "Z": (1,)}.items()
}


@pytest.mark.parametrize("metadata", [None, {"version": "7"}, {"é": 'a "b"'}])
def test_tensors_written_one_by_one_are_the_bytes_of_safetensors(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    stream = io.BytesIO()
    writer = TensorWriter(stream, {name: value.shape for name, value in TENSORS.items()}, metadata)
    for name in writer.names:
        flat = TENSORS[name].reshape(-1)
        writer.put(name, [flat[:2], flat[2:]])
    writer.close()
    assert stream.getvalue() == safetensors_save(TENSORS, metadata) == to_bytes(TENSORS, metadata)
    digest = save_file(tmp_path / "w", TENSORS, metadata)
    assert (tmp_path / "w").read_bytes() == stream.getvalue()
    assert digest == hashlib.sha256(stream.getvalue()).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
    for name, value in load(stream.getvalue()).items():
        np.testing.assert_array_equal(value, TENSORS[name])


def test_no_tensors_and_other_layouts_are_written_as_safetensors_does(tmp_path: Path) -> None:
    save_file(tmp_path / "none", {})
    assert (tmp_path / "none").read_bytes() == safetensors_save({})
    turned = {"w": TENSORS["w"].T}
    save_file(tmp_path / "t", turned)
    np.testing.assert_array_equal(load_file(tmp_path / "t")["w"], turned["w"])


def test_a_file_is_read_tensor_by_tensor_in_pieces_or_mapped(tmp_path: Path) -> None:
    path = tmp_path / "w"
    long = np.arange(PIECE + 3, dtype=np.float32)
    save_file(path, {**TENSORS, "long": long}, {"version": "7"})
    with TensorFile(path) as file:
        assert list(file.shapes) == sorted([*TENSORS, "long"])
        mapped = file.mapped()
        for name, value in TENSORS.items():
            np.testing.assert_array_equal(file.get(name), value)
            np.testing.assert_array_equal(mapped[name], value)
            assert not mapped[name].flags.writeable
        found = [(start, piece.copy()) for start, piece in file.pieces("long")]
    assert [start for start, _ in found] == [0, PIECE]
    np.testing.assert_array_equal(np.concatenate([piece for _, piece in found]), long)
    save_file(path, {"w": long})  # another file takes the name: what was mapped stays
    np.testing.assert_array_equal(mapped["w"], TENSORS["w"])


def test_what_is_no_weights_file_or_becomes_shorter_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w"
    with pytest.raises(DataError, match="missing"):
        TensorFile(path)
    save_file(path, TENSORS)
    data = path.read_bytes()
    for n in range(0, len(data), 97):
        path.write_bytes(data[:n])
        with pytest.raises(DataError, match="not readable as safetensors"):
            TensorFile(path)
    path.write_bytes(safetensors_save({"w": np.zeros(3, np.float64)}))
    with pytest.raises(DataError, match="w is F64"):
        TensorFile(path)
    path.write_bytes(data)
    with TensorFile(path) as file:
        path.write_bytes(data[:-200])
        with pytest.raises(DataError, match="cut short in é"):
            file.get('é "q"\n')


def test_tensors_out_of_turn_of_another_size_or_missing_are_errors() -> None:
    writer = TensorWriter(io.BytesIO(), {"b": (2,), "a": (3,)})
    with pytest.raises(ValueError, match="the turn of a"):
        writer.put("b", [np.zeros(2, np.float32)])
    with pytest.raises(ValueError, match="4 values, not 3"):
        writer.put("a", [np.zeros(4, np.float32)])
    with pytest.raises(ValueError, match="float64"):
        writer.put("a", [np.zeros(3)])
    with pytest.raises(ValueError, match="a has not been written"):
        writer.close()


def test_a_durable_file_has_its_name_when_it_is_published_and_leaves_nothing_when_it_is_discarded(tmp_path: Path) -> None:
    file = DurableFile(tmp_path / "x")
    file.write(b"ab")
    file.write(memoryview(b"c"))
    made = file.finish()
    assert not (tmp_path / "x").exists()
    file.publish()
    assert (made.name, made.size, made.sha256) == ("x", 3, hashlib.sha256(b"abc").hexdigest())
    file.discard()
    assert (tmp_path / "x").read_bytes() == b"abc"
    other = DurableFile(tmp_path / "y")
    other.write(b"ab")
    other.discard()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
