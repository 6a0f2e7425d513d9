"""Vessim's broker: it outlives its simulation, and a dead simulation must not look like a sunny one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from asking import Asking, T, ask, nobody, value
from servers import Fault, VessimServer

from windfall.grid.live import LiveSignal
from windfall.units import iso_utc

NOW = iso_utc(T).removesuffix("Z")


@pytest.fixture
def broker() -> Iterator[VessimServer]:
    with VessimServer() as made:
        yield made


def signal(asking: Asking, broker: VessimServer, **keys: Any) -> LiveSignal:
    given = {"microgrid": "mg", "period_s": 60.0, **keys}
    return asking.signal("vessim", type="surplus_power", url=broker.url, **given)


def test_the_surplus_of_the_last_step_is_the_reading(asking: Asking, broker: VessimServer) -> None:
    broker.step("mg", NOW + ".123456", 4200.0)
    s = signal(asking, broker)
    assert ask(s, T + 1) == ""
    r = s.at(T + 1)
    assert r
    assert (r.value, r.unit, r.source) == (4200, "W", f"vessim:mg.p_delta step {NOW}.123456")
    assert abs(r.valid_from - T) < 1


@pytest.mark.parametrize(
    ("field", "scale", "expected"),
    [
        ("actor_states.solar.power", 1.0, 5000),
        ("actor_states.server.1.power", -2.0, 1600),
        ("dispatch_states.grid.current_power", 1.0, 0),
    ],
)
def test_a_field_may_lie_deep_and_be_scaled(
    asking: Asking, broker: VessimServer, field: str, scale: float, expected: float
) -> None:
    broker.step("mg", NOW, 1.0)
    s = signal(asking, broker, field=field, scale=scale)
    assert ask(s, T) == ""
    assert value(s, T) == expected


def test_simulated_time_counts_once_it_has_been_seen_to_move(asking: Asking, broker: VessimServer) -> None:
    broker.step("mg", "2020-06-11T12:00:00", 9000.0)
    s = signal(asking, broker)
    assert "has not been seen to move yet" in ask(s, T)
    assert s.at(T) is None
    broker.step("mg", "2020-06-11T12:01:00", 9100.0)
    assert ask(s, asking.later(60)) == ""
    assert value(s, asking.clock.t) == 9100
    assert s.at(asking.clock.t).valid_from == asking.clock.t  # type: ignore[union-attr]


@pytest.mark.parametrize("times", [(NOW, NOW), ("2020-06-11T12:00:00", "2020-06-11T12:01:00")])
def test_a_simulation_that_died_grows_stale_though_its_broker_goes_on(
    asking: Asking, broker: VessimServer, times: tuple[str, str]
) -> None:
    s = signal(asking, broker)
    for text in times:
        broker.step("mg", text, 9000.0)
        ask(s, asking.clock.t)
        asking.later(30)
    seen = asking.clock.t
    for _ in range(20):
        ask(s, asking.later(60))
    r = s.at(asking.clock.t)
    assert r
    assert r.is_stale(asking.clock.t)
    assert r.valid_from <= seen


@pytest.mark.parametrize("bad", [None, "9000", float("nan"), float("inf"), True, {}])
def test_what_is_no_number_is_not_zero(asking: Asking, broker: VessimServer, bad: Any) -> None:
    broker.step("mg", NOW, bad)
    s = signal(asking, broker)
    assert ask(s, T)
    assert s.at(T) is None


def test_an_unknown_microgrid_one_without_data_and_an_unknown_field_are_told(asking: Asking, broker: VessimServer) -> None:
    broker.step("mg", NOW, 1.0)
    for keys, words in (({"microgrid": "other"}, "knows no such microgrid"), ({"microgrid": "empty"}, "no data of it yet"),
                        ({"field": "actor_states.wind.power"}, "has no `wind.power` (there: solar, server.1)")):  # fmt: skip
        s = signal(asking, broker, **keys)
        assert words in ask(s, T)
        assert s.at(T) is None


def test_a_dead_broker_and_faults_are_not_zero(asking: Asking, broker: VessimServer) -> None:
    broker.step("mg", None, 1.0)
    broker.faults += [Fault(500), Fault(200, "0.0"), Fault(200, "null"), Fault(drop=True)]
    for _ in range(5):
        s = signal(asking, broker)
        assert ask(s, T)
        assert s.at(T) is None
    with nobody() as url:
        s = asking.signal("vessim", type="surplus_power", url=url, microgrid="mg")
        assert "no connection" in ask(s, T)
        assert s.at(T) is None
