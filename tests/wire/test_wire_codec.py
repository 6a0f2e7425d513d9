"""Difference files: how exact they are, what they weigh, what is refused, and that bits are the same anywhere."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windfall.errors import DataError, Refused
from windfall.store.tensors import Tensors
from windfall.wire.codec import CODECS, DifferenceReader, DifferenceWriter, decode, encode, encoded_size

#: Largest error of a value, as a share of the largest in its group (of the value itself for bf16).
BOUND = {"fp32": 0.0, "bf16": 2**-8, "int8": 1 / 253, "int4": 1 / 13.9}
#: Root mean square of the error on normal values, as a share of theirs: the bound of one round.
ROUND = {"fp32": 0.0, "bf16": 0.002, "int8": 0.0075, "int4": 0.135, "int2": 0.35}
SMALL = {"w": (3, 90), "s": (5,), "m": (2, 2, 300)}


def normal(shapes: dict[str, tuple[int, ...]] = SMALL, scale: float = 1e-3, seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def shapes_of(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in tensors.items()}


def through(value: np.ndarray, codec: str) -> np.ndarray:
    return decode(encode({"w": value}, codec), {"w": value.shape})["w"]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e3])
def test_one_round_is_as_exact_as_its_bound_at_any_magnitude(codec: str, scale: float) -> None:
    value = normal({"w": (37, 211)}, scale)["w"]  # 30.5 groups
    error = np.abs(through(value, codec).astype(np.float64) - value)
    if codec in BOUND:
        flat, wrong = np.zeros(31 * 256), np.zeros(31 * 256)
        flat[: value.size], wrong[: value.size] = np.abs(value).ravel(), error.ravel()
        largest = flat if codec == "bf16" else np.repeat(flat.reshape(-1, 256).max(1), 256)
        assert (wrong <= BOUND[codec] * largest).all()
    assert np.sqrt((error**2).mean()) <= ROUND[codec] * scale * 1.02


@pytest.mark.parametrize("codec", CODECS)
def test_groups_of_very_different_magnitude_keep_their_own_precision(codec: str) -> None:
    value = normal({"w": (64, 256)}, 1.0)["w"] * (10.0 ** np.linspace(-6, 1, 64))[:, None].astype(np.float32)
    error = np.linalg.norm(through(value, codec) - value, axis=1) / np.linalg.norm(value, axis=1)
    assert error.max() <= ROUND[codec] * 1.3


@pytest.mark.parametrize("codec", CODECS)
def test_no_group_comes_out_further_from_itself_than_nothing_would(codec: str) -> None:
    groups = np.zeros((6, 256), np.float32)
    groups[1, 7] = -3.0  # one value among zeros
    groups[2] = 1e-4
    groups[3, ::2] = -1.0
    groups[4] = np.random.default_rng(0).standard_cauchy(256)
    groups[5, :3] = [1e-12, -1e-20, 1e-30]
    error = np.linalg.norm(through(groups, codec) - groups, axis=1)
    assert (error <= 0.99 * np.linalg.norm(groups, axis=1) + 1e-10).all()
    assert not through(groups, codec)[0].any()


def test_multiples_of_a_scale_are_rounded_half_to_even() -> None:
    value = np.zeros((1, 256), np.float32)
    value[0, :8] = [127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]
    np.testing.assert_array_equal(through(value, "int8")[0, :8], [127, 0, 2, 2, 0, -2, -2, 126])
    value[0, :8] = [7, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 6.5]
    np.testing.assert_array_equal(through(value, "int4")[0, :8], [7, 0, 2, 2, 0, -2, -2, 6])


@pytest.mark.parametrize("codec", CODECS)
def test_with_feedback_a_hundred_rounds_bring_the_sum_but_for_one_rounds_error(codec: str) -> None:
    rng = np.random.default_rng(1)
    drift = rng.standard_normal((8, 300))
    rest = np.zeros((8, 300), np.float32)
    put_in, arrived = np.zeros((8, 300)), np.zeros((8, 300))
    for _ in range(100):
        moved = (1e-3 * (drift + rng.standard_normal((8, 300)))).astype(np.float32)
        put_in += moved
        sent = through(moved + rest, codec)
        rest = moved + rest - sent
        arrived += sent
    # What is missing is what the last round left, which is no more than one round loses. Of two bits it may be all of a round:
    # what is always above the highest level waits until the rest has lifted that.
    np.testing.assert_allclose(put_in - arrived, rest, atol=1e-6)
    lost = {**ROUND, "int2": 1.0}[codec] * np.sqrt(2) * 1e-3 * np.sqrt(8 * 300)
    assert np.linalg.norm(put_in - arrived) <= 1.1 * lost + 1e-5
    assert np.linalg.norm(put_in - arrived) <= 0.02 * np.linalg.norm(put_in)


@pytest.mark.parametrize("codec", ["int2", "int4"])
def test_what_feedback_carries_on_stays_bounded_where_one_value_is_all(codec: str) -> None:
    spike = np.zeros((1, 256), np.float32)
    spike[0, 9] = 1.0
    rest = np.zeros_like(spike)
    for _ in range(200):
        rest = spike + rest - through(spike + rest, codec)
    assert np.linalg.norm(rest) <= 25


@pytest.mark.parametrize(("codec", "share"), [("fp32", 1.001), ("bf16", 0.501), ("int8", 0.26), ("int4", 0.13), ("int2", 0.07)])
def test_a_large_matrix_weighs_its_share_of_float32_and_the_size_is_known_beforehand(codec: str, share: float) -> None:
    value = normal({"w": (512, 512), "s": (7,)})
    data = encode(value, codec)
    assert len(data) == encoded_size(shapes_of(value), codec)
    assert len(data) <= share * value["w"].nbytes


@pytest.mark.parametrize("codec", CODECS)
def test_what_has_fewer_than_two_dimensions_or_would_not_get_smaller_is_exact(codec: str) -> None:
    value = normal({"vector": (1000,), "scalar": (), "empty": (0, 4), "none": (0,)} | ({} if codec == "bf16" else {"tiny": (2, 3)}))
    found = decode(encode(value, codec), shapes_of(value))
    for name in value:
        np.testing.assert_array_equal(found[name], value[name])


@pytest.mark.parametrize("codec", CODECS)
def test_the_writer_returns_what_the_reader_gets(codec: str, tmp_path: Path) -> None:
    value = normal()
    path = tmp_path / "d"
    with open(path, "wb") as f, DifferenceWriter(f, shapes_of(value), codec) as writer:
        sent = {name: writer.put(name, v) for name, v in value.items()}
    backwards = dict(reversed(list(shapes_of(value).items())))
    with DifferenceReader(path, backwards) as reader:
        reader.verify()
        assert reader.codec == codec
        assert reader.names == [name for name, _ in reader] == list(value)
        room = np.empty(SMALL["m"], np.float32)
        assert reader.get("m", room) is room
        for name in ["m", "w", "s", "m"]:
            np.testing.assert_array_equal(reader.get(name).view(np.int32), sent[name].view(np.int32))
    assert path.read_bytes() == encode(value, codec)


@pytest.mark.parametrize("codec", CODECS)
def test_the_bytes_do_not_depend_on_where_a_tensor_lies_or_on_threads(codec: str, tmp_path: Path) -> None:
    value = normal({"w": (300, 301)})
    data = encode(value, codec)
    np.save(tmp_path / "w.npy", value["w"])
    mapped = np.load(tmp_path / "w.npy", mmap_mode="r")
    before = mapped.copy()
    assert encode({"w": mapped}, codec) == data
    assert encode({"w": torch.from_numpy(before).requires_grad_()}, codec) == data
    assert encode({"w": np.asfortranarray(before)}, codec) == data
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: encode(value, codec), range(8))) == {data}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert encode(value, codec) == data
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(value["w"], before)


DIGESTS = {
    "fp32": "70d82429eaf9b0ac",
    "bf16": "312e37a18706ce3e",
    "int8": "a621d2a5b8e5923c",
    "int4": "af4ae265e85b7c0c",
    "int2": "740249ae416f8ba5",
}


@pytest.mark.parametrize("codec", CODECS)
def test_the_bytes_do_not_depend_on_how_much_is_worked_on_at_once(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = normal({"w": (300, 301)})  # 352.7 groups
    data, sent = encode(value, codec), decode(encode(value, codec), {"w": (300, 301)})["w"]
    for groups in (1, 5, 100_000):
        monkeypatch.setattr("windfall.wire.rounding._ON_CPU", groups * 256)
        assert encode(value, codec) == data
        np.testing.assert_array_equal(decode(data, {"w": (300, 301)})["w"], sent)


def test_the_format_stays_what_it_is() -> None:
    value = normal({"w": (4, 200), "s": (3,)}, seed=5)
    # Files of one version must be readable by the next: a change here needs another format number.
    digests = {codec: hashlib.sha256(encode(value, codec)).hexdigest()[:16] for codec in CODECS}
    assert digests == DIGESTS


def test_memory_beyond_a_tensor_and_its_result_is_small() -> None:
    value = normal({"w": (1000, 4000)})["w"]
    for codec in CODECS:
        sent = np.empty_like(value)
        tracemalloc.start()
        writer = DifferenceWriter(Nowhere(), {"w": value.shape}, codec)
        writer.put("w", value, sent)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000  # of 16 MB; torch's own pieces, which are as small, are not counted


class Nowhere:
    def write(self, data: memoryview, /) -> None:
        pass


def test_a_tensor_out_of_turn_or_of_another_kind_is_refused() -> None:
    def put(name: str, value: Any) -> Any:
        return DifferenceWriter(io.BytesIO(), {"w": (2, 3), "s": (4,)}, "int8").put(name, value)

    w = np.zeros((2, 3), np.float32)
    with pytest.raises(Refused, match="the turn of w"):
        put("s", np.zeros(4, np.float32))
    with pytest.raises(Refused, match="float64"):
        put("w", w.astype(np.float64))
    with pytest.raises(Refused, match="bfloat16"):
        put("w", torch.zeros(2, 3, dtype=torch.bfloat16))
    with pytest.raises(Refused, match="float32"):
        put("w", w.T)
    with pytest.raises(Refused, match="unknown codec 'int3'"):
        DifferenceWriter(io.BytesIO(), {}, "int3")
    writer = DifferenceWriter(io.BytesIO(), {"w": (2, 3), "s": (4,)}, "int8")
    writer.put("w", w)
    with pytest.raises(Refused, match="1 tensors have not been written, the first of them s"):
        writer.close()
    writer.put("s", np.zeros(4, np.float32))
    with pytest.raises(Refused, match="all tensors"):
        writer.put("s", np.zeros(4, np.float32))
    writer.close()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
def test_values_that_are_not_finite_or_no_differences_are_not_written(codec: str, bad: float) -> None:
    for name, place in (("w", 269), ("s", 2), ("m", 256)):
        value = normal()
        value[name].flat[place] = bad
        with pytest.raises(Refused, match=rf"^{name} has values"):
            encode(value, codec)


def flips(data: bytes) -> Iterator[bytes]:
    for i in range(len(data)):
        yield data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :]


@pytest.mark.parametrize("codec", ["fp32", "int8", "int2"])
def test_a_file_changed_in_any_byte_or_cut_anywhere_is_refused(codec: str, tmp_path: Path) -> None:
    shapes = {"w": (2, 40), "s": (3,)}
    data = encode(normal(shapes), codec)
    for bad in [*flips(data), *(data[:n] for n in range(len(data))), data + b"\0", data[1:]]:
        with pytest.raises((DataError, Refused)):
            decode(bad, shapes)
    path = tmp_path / "d"
    for bad in [*list(flips(data))[::9], *(data[:n] for n in range(0, len(data), 13))]:
        path.write_bytes(bad)
        with pytest.raises((DataError, Refused)), DifferenceReader(path, shapes) as reader:
            reader.verify()


@given(st.binary(max_size=300), st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_rubbish_is_refused(rubbish: bytes, at: int) -> None:
    data = encode(normal({"w": (2, 10)}), "int8")
    for bad in (rubbish, data[:at] + rubbish):
        if bad != data:
            with pytest.raises((DataError, Refused)):
                decode(bad, {"w": (2, 10)})


def forged(header: Any, body: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    """A file whose header's checksum is right."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    numbers = struct.pack("<II", version, len(head) if length is None else length)
    return b"WFDIFF\n\0" + numbers + hashlib.sha256(numbers + head).digest() + head + body


def said(codec: Any = "fp32", group: Any = 256, tensors: Any = (("w", [2, 3], "fp32", 24),)) -> dict[str, Any]:
    return {"codec": codec, "group": group, "tensors": tensors}


ZEROS = bytes(24) + hashlib.sha256(bytes(24)).digest()


def test_the_forger_can_write_what_is_taken() -> None:
    assert not decode(forged(said(), ZEROS), {"w": (2, 3)})["w"].any()


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (forged(said(), ZEROS, version=2), "format 2"),
        (forged(said(codec="zip"), ZEROS), "unknown codec 'zip'"),
        (forged(said(codec=["fp32"]), ZEROS), "unknown codec"),
        (forged(said(group=128), ZEROS), "groups of 128"),
        (forged(said(tensors=[]), ZEROS), "other tensors"),
        (forged(said(tensors=[("v", [2, 3], "fp32", 24)]), ZEROS), "other tensors than the model"),
        (forged(said(tensors=[("w", [2, 3], "fp32", 24)] * 2), ZEROS * 2), "named twice"),
        (forged(said(tensors=[(7, [2, 3], "fp32", 24)]), ZEROS), "by no name"),
        (forged(said(tensors=[(["w"], [2, 3], "fp32", 24)]), ZEROS), "unreadable header"),
        (forged(said(tensors=[("w", [2, 10**15], "fp32", 24)]), ZEROS), "has shape"),
        (forged(said(tensors=[("w", [-2, -3], "fp32", 24)]), ZEROS), "has shape"),
        (forged(said(tensors=[("w", [3, 2], "fp32", 24)]), ZEROS), "has shape"),
        (forged(said(tensors=[("w", [2, 3], "fp32", -24)]), ZEROS), "by fp32 it is"),
        (forged(said(tensors=[("w", [2, 3], "fp32", 10**18)]), ZEROS), "by fp32 it is"),
        (forged(said(tensors=[("w", [2, 3], "int8", 24)]), ZEROS), "by fp32 it is"),
        (forged(said(tensors=[("w",)]), ZEROS), "unreadable header"),
        (forged(said(tensors=7), ZEROS), "unreadable header"),
        (forged([], ZEROS), "unreadable header"),
        (forged(b"[" * 3000, ZEROS), "unreadable header"),
        (forged(b"{" + b"[" * 100, ZEROS), "unreadable header"),
        (forged(b"\xff\xfe", ZEROS), "unreadable header"),
        (forged(b'{"codec":' + b"9" * 4400 + b"}", ZEROS), "unreadable header"),
        (forged(said(), ZEROS, length=2**32 - 1), "a header of 4294967295 bytes"),
        (forged(said(), ZEROS, length=4000), "cut short in its header"),
        (forged(said(), ZEROS + b"x"), "too long"),
        (forged(said(), ZEROS[:-1]), "cut short"),
    ],
)  # fmt: skip
def test_a_dishonest_header_is_refused_before_anything_is_allocated(bad: bytes, why: str) -> None:
    tracemalloc.start()
    with pytest.raises((DataError, Refused), match=why):
        decode(bad, {"w": (2, 3)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_large_model_is_not_allocated_for_a_small_file() -> None:
    shapes = {"w": (10**6, 10**9)}  # 4 PB
    payload = 4 + 10**15 // 256 * 258
    with pytest.raises(DataError, match=f"not {encoded_size(shapes, 'int8')}: cut short"):
        decode(forged_like("int8", [("w", [10**6, 10**9], "int8", payload)]), shapes)


def forged_like(codec: str, tensors: Any) -> bytes:
    head = json.dumps(said(codec, tensors=tensors), separators=(",", ":")).encode()
    return forged(head)


def payload_of(factor: float, codes: bytes, scales: list[float]) -> bytes:
    payload = struct.pack("<f", factor) + codes + np.array(scales, np.float16).tobytes()
    return payload + hashlib.sha256(payload).digest()


@pytest.mark.parametrize(
    ("factor", "scale", "why"),
    [
        (1.0, np.inf, "scales that are"),
        (1.0, np.nan, "scales that are"),
        (1.0, -1.0, "scales that are"),
        (0.0, 1.0, "no power of two"),
        (np.nan, 1.0, "no power of two"),
        (np.inf, 1.0, "no power of two"),
        (-2.0, 1.0, "no power of two"),
        (3.0, 1.0, "no power of two"),
        (2.0**126, 60000.0, "far too large"),
    ],
)
@pytest.mark.parametrize("codec", ["int8", "int4", "int2"])
def test_scales_and_factors_that_are_no_numbers_are_refused(codec: str, factor: float, scale: float, why: str) -> None:
    width = {"int8": 256, "int4": 128, "int2": 64}[codec]
    shapes = {"w": (2, 256)}
    index = [("w", [2, 256], codec, 4 + 2 * (width + 2))]
    good = forged(said(codec, tensors=index), payload_of(0.5, b"\x80" * width * 2, [1.0, 2.0]))
    assert np.isfinite(decode(good, shapes)["w"]).all()
    bad = forged(said(codec, tensors=index), payload_of(factor, b"\x80" * width * 2, [1.0, scale]))
    with pytest.raises(Refused, match=rf"w has .*{why}"):
        decode(bad, shapes)


@given(st.sampled_from(CODECS), st.data())
@settings(max_examples=60, deadline=None)
def test_any_payload_with_a_right_checksum_gives_finite_values_or_is_refused(codec: str, data: st.DataObject) -> None:
    length = {"fp32": 4 * 512, "bf16": 2 * 512, "int8": 520, "int4": 264, "int2": 136}[codec]
    payload = data.draw(st.binary(min_size=length, max_size=length))
    if codec not in ("fp32", "bf16"):
        payload = struct.pack("<f", 2.0 ** data.draw(st.integers(-126, 127))) + payload[4:]
    index = [("w", [2, 256], codec, length)]
    try:
        found = decode(forged(said(codec, tensors=index), payload + hashlib.sha256(payload).digest()), {"w": (2, 256)})
    except Refused:
        return
    assert np.isfinite(found["w"]).all()


@pytest.mark.parametrize(("codec", "dtype"), [("fp32", np.float32), ("bf16", np.uint16)])
def test_plain_values_that_are_not_finite_are_refused(codec: str, dtype: Any) -> None:
    for bits in (0x7FC0, 0x7F80, 0xFF80):
        values = np.zeros(300, np.uint32)
        values[299] = bits << 16
        payload = values.tobytes() if codec == "fp32" else (values >> 16).astype(dtype).tobytes()
        index = [("w", [2, 150], codec, len(payload))]
        data = forged(said(codec, tensors=index), payload + hashlib.sha256(payload).digest())
        with (
            DifferenceReader(data, {"w": (2, 150)}, "cut 7 of a") as reader,
            pytest.raises(Refused, match=r"^cut 7 of a: w has values that are not finite"),
        ):
            reader.verify()


def test_a_missing_or_a_shrinking_file_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing: cannot be opened"):
        DifferenceReader(tmp_path / "nothing", SMALL)
    path = tmp_path / "d"
    path.write_bytes(encode(normal(), "int8"))
    with DifferenceReader(path, SMALL) as reader:
        path.write_bytes(b"")
        with pytest.raises(DataError, match="d: cut short in w"):
            reader.get("w")


def test_importing_the_codec_does_not_import_torch_and_float32_never_does() -> None:
    code = (
        "import sys; import windfall.wire.codec as c, numpy as np; w = {'w': np.ones((30, 40), np.float32)};"
        "assert 'torch' not in sys.modules; c.decode(c.encode(w, 'fp32'), {'w': (30, 40)}); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
