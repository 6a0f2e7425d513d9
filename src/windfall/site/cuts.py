"""What a site hands in: its parameters as they were at a step boundary, less the version they are built on and what is on its way.

What is handed in is rounded by a codec. What rounding left out stays in the parameters, so it is part of what the next cut hands
in, without being carried anywhere: at all times

    parameters = version held + what was really sent and is not settled + the rest of rounding + open work

A cut is frozen in one place (a copy of the parameters) and worked out in another (``Frozen.write``), beside the next steps.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from windfall.site.held import reader_of
from windfall.site.outbox import InnerState, Outbox
from windfall.store.blobs import Blob, FileBlob
from windfall.store.files import Envelope
from windfall.store.streams import DurableFile
from windfall.store.tensors import Tensors
from windfall.wire.codec import DifferenceReader, DifferenceWriter, encoded_size
from windfall.wire.messages import ContributionHeader

#: Differences up to this size are worked out in memory.
_IN_MEMORY = 64 * 2**20


@dataclass(frozen=True)
class Frozen:
    """A cut, or what a snapshot is made of, at the step boundary at which it was taken."""

    header: ContributionHeader
    #: The copy of the parameters, and the exact inner state.
    later: Callable[[], tuple[Tensors, bytes | Blob]]
    #: The version that they are built on.
    base: Tensors
    #: What was sent before and is not settled.
    on_its_way: Sequence[Blob]
    inner: InnerState

    def write(self, outbox: Outbox, *, late: bool, kept: dict[str, bytes], more: dict[str, bytes]) -> Envelope:
        """Keep it in the outbox, with the blobs ``kept``; the contribution as it is to be sent, with ``more``, which are not kept.

        Raises:
            OSError: the disk is full.
            DataError: what was sent before is damaged.
        """
        weights, inner = self.later()
        folder = outbox.folder
        with ExitStack() as stack:
            rest = None
            if self.header.codec != "fp32":
                rest = DurableFile(folder / f".{self.header.cut:06d}.rest.part")
                stack.callback(rest.discard)
            delta = self._encoded(weights, folder, rest, stack)
            rest_file = None
            if rest is not None:
                rest.finish()
                rest.publish()
                rest_file = folder / f".{self.header.cut:06d}.rest.part"
            whole = Envelope.of(self.header.header(), {"delta": delta, **kept})
            outbox.save(self.header.generation, self.header.cut, whole, replace(self.inner, data=inner), rest=rest_file, late=late)
        sent: dict[str, Blob] = whole.all_blobs()
        if isinstance(delta, FileBlob) or sum(map(len, kept.values())) > _IN_MEMORY:
            sent = outbox.sent(self.header.generation, self.header.cut)
        return Envelope.of(self.header.header(), {**sent, **more})

    def snapshot(self, outbox: Outbox) -> None:
        """Keep it as the snapshot, whole (in float32). Raises as ``write``."""
        weights, inner = self.later()
        with ExitStack() as stack:
            delta = self._encoded(weights, outbox.folder, None, stack)
            outbox.snapshot(Envelope.of(self.header.header(), {"delta": delta}), replace(self.inner, data=inner))

    def _encoded(self, weights: Tensors, folder: Path, rest: DurableFile | None, stack: ExitStack) -> bytes | FileBlob:
        shapes = {name: value.shape for name, value in weights.items()}
        sent_before: list[DifferenceReader] = []
        for blob in self.on_its_way:
            reader = reader_of(blob, weights)
            stack.callback(reader.close)
            sent_before.append(reader)
        codec = self.header.codec
        if encoded_size(shapes, codec) <= _IN_MEMORY:
            room = io.BytesIO()
            self._write(room, weights, shapes, sent_before, rest)
            return room.getvalue()
        path = folder / f".{self.header.cut:06d}.delta.part"
        file = DurableFile(path, durable=False)
        stack.callback(file.discard)
        self._write(file, weights, shapes, sent_before, rest)
        made = file.finish()
        file.publish()
        stack.callback(path.unlink, missing_ok=True)
        return FileBlob(path, made.size, made.sha256)

    def _write(
        self, out: io.BytesIO | DurableFile, weights: Tensors, shapes: dict[str, tuple[int, ...]],
        sent_before: Sequence[DifferenceReader], rest: DurableFile | None,
    ) -> None:  # fmt: skip
        left = DifferenceWriter(rest, shapes, "fp32") if rest is not None else None
        with DifferenceWriter(out, shapes, self.header.codec) as writer:
            for name, value in weights.items():
                value -= self.base[name]
                for earlier in sent_before:
                    value -= earlier.get(name)
                sent = writer.put(name, value)
                if left is not None:
                    value -= sent
                    left.put(name, value)
        if left is not None:
            left.close()
