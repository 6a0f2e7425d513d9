"""Ports of this machine."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from windfall.wire import probe


def _given_to_who_asks_for_any() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.skipif(
    not Path("/proc/sys/net/ipv4/ip_local_port_range").is_file(), reason="only Linux says which ports it gives away"
)
def test_a_free_port_is_none_that_the_system_gives_to_anybody_before_it_is_used() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = {probe.free_port() for _ in range(20)}
    assert len(found) > 10, "two that ask at once have two"
    if first > 11_000:
        assert all(10_000 <= port < first for port in found)
    assert found.isdisjoint(_given_to_who_asks_for_any() for _ in range(20))


def test_where_the_system_gives_away_all_ports_one_of_them_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "range").write_text("1024\t65535\n")
    monkeypatch.setattr(probe, "_RANGE", tmp_path / "range")
    assert probe.port_is_free(probe.free_port())


def test_a_port_on_which_somebody_listens_is_not_free() -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.create_server((host, 0)) as server:
            assert not probe.port_is_free(server.getsockname()[1])
