"""Flower's records: how an envelope travels in a message. Public Flower API only; nothing is pickled."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from windfall.store.files import Envelope

#: How the bytes of an envelope travel in an ArrayRecord.
STYPE = "windfall.envelope"


def pack(envelope: Envelope) -> RecordDict:
    """An envelope as Flower records: raw bytes, nothing pickled."""
    data = b"".join(envelope.parts())
    array = Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)
    return RecordDict({"envelope": ArrayRecord({"bytes": array}), "meta": ConfigRecord({"bytes": len(data)})})


def unpack(content: RecordDict) -> Envelope:
    """The envelope in a message's records. Raises DataError or KeyError if there is none."""
    record = content.array_records["envelope"]
    return Envelope.parse(record["bytes"].data, "message")
