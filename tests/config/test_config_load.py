"""Configuration: every error at once, each with its line, what is wrong and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from windfall.config.accepted import accepted
from windfall.config.backtest import BacktestTable, TrainerTable
from windfall.config.federation import FederationTable
from windfall.config.lines import key_lines
from windfall.config.load import ConfigProblems, fingerprint, load, loads, to_toml
from windfall.config.policy import PolicyTable
from windfall.config.recipe import DataTable, ModelTable, TrainTable
from windfall.config.schema import FleetTable, LimitsTable, RunTable, SiteTable
from windfall.config.signals import SignalTable
from windfall.config.template import TEMPLATE
from windfall.errors import ConfigError

HERE = Path()
SITE = """
[[site]]
name = "a"
region = "R"
spin_up_s = 300
train_power_w = 2000
idle_power_w = 400
tokens_per_s = 10
[site.signal]
kind = "synthetic"
"""
GOOD = '[run]\nbudget_tokens = 1000\nstart = "2026-01-01T00:00Z"\n' + SITE


def problems(text: str) -> dict[str, tuple[int, str]]:
    with pytest.raises(ConfigProblems) as caught:
        loads(text, "x.toml", HERE)
    return {p.key: (p.line, p.message) for p in caught.value.problems}


def test_a_small_file_is_enough() -> None:
    config = loads(GOOD, "x.toml", HERE)
    assert config.policy.name == "learned"
    assert config.budget_blocks * config.tokens_per_block >= 1000


def test_every_error_is_told_at_once_with_its_line() -> None:
    text = GOOD.replace("spin_up_s = 300", "spin_up_min = 5").replace("train_power_w = 2000", 'train_power_w = "2 kW"')
    found = problems(text.replace("idle_power_w = 400", "idle_power_w = -400"))
    assert found["site[0].spin_up_min"] == (8, "unknown key; did you mean `spin_up_s`?")
    assert found["site[0].spin_up_s"][0] == 5
    assert "missing" in found["site[0].spin_up_s"][1]
    assert found["site[0].train_power_w"] == (9, "got '2 kW'; accepted: watts, above 0 (whole site while training)")
    assert found["site[0].idle_power_w"] == (
        10, "got -400; accepted: watts, at least 0 (whole site while on and not training)",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        (("budget_tokens", "budget_token"), "run.budget_token", "did you mean `budget_tokens`"),
        (
            ("[run]", "[policy]\nname = 'breakevn'\n[run]"),
            "policy.name",
            'did you mean \'breakeven\'?; accepted: "breakeven", "threshold", "paper"',
        ),
        (('kind = "synthetic"', 'kind = "trace"'), "site[0].signal", "a trace needs path and column"),
        (("[run]", "[train]\nbatch_sequences = 9\n[run]"), "train", "does not divide"),
        (("[run]", "[policy]\nstart_g_per_kwh = 100\nstop_g_per_kwh = 50\n[run]"), "policy", "must not be below"),
        (("spin_up_s = 300", "spin_up_s = 300\nload_s = 400"), "site[0]", "cannot be longer"),
        (("start =", "# start ="), "(file)", "synthetic signals need run.start"),
        (("2026-01-01T00:00Z", "tomorrow"), "run.start", "got 'tomorrow'; accepted: an instant in ISO 8601, as 2026-01-11T17:00Z"),
        (("[run]", "[nonsense]\n[run]"), "nonsense", "unknown key"),
    ],
)
def test_each_mistake_is_told_in_words_that_help(change: tuple[str, str], key: str, said: str) -> None:
    found = problems(GOOD.replace(*change))
    assert said in found[key][1]


def test_two_sites_of_one_name_are_refused() -> None:
    assert problems(GOOD + SITE)["site[1].name"] == (16, "two sites are named a; give each site a name of its own")


def test_a_missing_trace_is_told_with_its_line(tmp_path: Path) -> None:
    text = GOOD.replace('kind = "synthetic"', 'path = "no.csv"\ncolumn = "g"')
    with pytest.raises(ConfigProblems, match=r"x\.toml:13: site\[0\]\.signal\.path \(site a\): no such file"):
        loads(text, "x.toml", tmp_path)


def test_a_missing_or_broken_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; `windfall init"):
        load(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("[run\n")
    with pytest.raises(ConfigError, match=r"bad\.toml:1: \(syntax\): `\[run` is no header of a table; write \[run\]"):
        load(tmp_path / "bad.toml")


def test_the_template_is_valid_and_names_every_key() -> None:
    loads(TEMPLATE, "t.toml", HERE)
    for table in (
        RunTable, PolicyTable, ModelTable, DataTable, TrainTable, FederationTable,
        FleetTable, BacktestTable, TrainerTable, SiteTable, LimitsTable, SignalTable,
    ):  # fmt: skip
        for key, field in table.model_fields.items():
            if key in ("trainer", "signal"):
                continue
            assert f"{key} =" in TEMPLATE or f"{key}]]" in TEMPLATE, key
            assert field.description, key
            assert field.description in TEMPLATE, key
            # With its unit and everything that it may be.
            assert (
                any(
                    re.match(rf"(# )?{key} =", line) and line.endswith(f"[{accepted(field, key)}]")
                    for line in TEMPLATE.splitlines()
                )
                or f"{key}]]" in TEMPLATE
            ), key


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        (RunTable, "clock", '"real" or "scaled"'),
        (RunTable, "tick_s", "seconds, above 0"),
        (RunTable, "start", "an instant in ISO 8601, as 2026-01-11T17:00Z"),
        (RunTable, "threshold_g_per_kwh", "g CO2/kWh, above 0"),
        (PolicyTable, "duty", "a number, above 0 and at most 1"),
        (PolicyTable, "worth_per_mwh", "currency per MWh"),
        (LimitsTable, "max_power_w", "watts, above 0"),
        (ModelTable, "depth", "a whole number, at least 1 and at most 512"),
        (DataTable, "sample_prompt", "text of at most 500 characters"),
        (TrainTable, "compile", "true or false"),
        (BacktestTable, "deadlines_h", "a list, each hours, above 0"),
        (SiteTable, "ramp_w_per_min", "watts per minute, above 0"),
        (SiteTable, "tokens_per_s", "tokens/s, above 0"),
        (SignalTable, "currency", "three capital letters"),
        (SignalTable, "latitude", "degrees, at least -90 and at most 90"),
        (SignalTable, "headers_from_env", "a table, each value text"),
    ],
)
def test_what_a_key_accepts_is_told_with_its_unit(table: type[BaseModel], key: str, said: str) -> None:
    assert accepted(table.model_fields[key], key) == said


@pytest.mark.parametrize("text", [GOOD, TEMPLATE])
def test_the_resolved_file_reads_back_as_the_same_configuration(text: str) -> None:
    config = loads(text, "x.toml", HERE)
    assert loads(to_toml(config), "y.toml", HERE) == config


def test_what_is_trained_makes_the_fingerprint_and_patience_does_not() -> None:
    base = fingerprint(loads(GOOD, "x", HERE))
    assert fingerprint(loads("[fleet]\nstart_timeout_s = 9\n" + GOOD, "x", HERE)) == base
    assert fingerprint(loads(GOOD.replace("1000", "2000000"), "x", HERE)) != base
    assert fingerprint(loads("[model]\ndepth = 3\n" + GOOD, "x", HERE)) != base
    # What the default was before, written out or not, is the same run.
    assert fingerprint(loads('[train]\nprecision = "fp32"\n' + GOOD, "x", HERE)) == base
    assert fingerprint(loads('[train]\nprecision = "bf16"\n' + GOOD, "x", HERE)) != base
    assert fingerprint(loads('[data]\nsample_tokens = 3\nsample_prompt = "x"\n' + GOOD, "x", HERE)) == base


def test_key_lines_follow_tables_arrays_and_multiline_strings() -> None:
    text = 'a = """\nb = 1\n"""\n[t]\nc = 1\n[[s]]\nd = 1\n[s.u]\ne = 1\n[[s]]\nd = 2\n'
    assert key_lines(text) == {
        ("a",): 1, ("t",): 4, ("t", "c"): 5, ("s", 0): 6, ("s",): 6, ("s", 0, "d"): 7, ("s", 0, "u"): 8,
        ("s", 0, "u", "e"): 9, ("s", 1): 10, ("s", 1, "d"): 11,
    }  # fmt: skip


@pytest.mark.parametrize(
    "bus",
    [
        "redis://h/0?password=hunter2",
        "redis://u:hunter2@h:6379/0",
        "redis://:hunter2@h",
        "http://u:hunter2@h",
        "rediss://h?ssl_keyfile=/k&ssl_password=hunter2",
    ],
)
def test_a_secret_in_the_bus_url_is_refused_and_not_repeated(bus: str) -> None:
    ((_, message),) = [problems(GOOD.replace("[run]", f'[run]\nbus = "{bus}"'))["run.bus"]]
    assert "hunter2" not in message
    assert "WINDFALL_REDIS_PASSWORD" in message or "redis://HOST:PORT" in message


def with_bus(url: str, more: str = "") -> str:
    return GOOD.replace("[run]", f'[run]\nbus = "{url}"') + more


def test_a_bus_url_may_name_certificates_from_the_configurations_own_folder_on() -> None:
    url = "rediss://h:6380/0?ssl_ca_certs=/etc/ca.pem"
    assert loads(with_bus(url), "x.toml", HERE).run.bus == url
    found = loads(with_bus("rediss://h?ssl_min_version=771&ssl_ca_certs=certs/ca.pem"), "x.toml", Path("/a b")).run.bus
    assert found == "rediss://h?ssl_min_version=771&ssl_ca_certs=/a%20b/certs/ca.pem"


@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_check_hostname=False"])
def test_a_bus_that_would_trust_whoever_answers_is_refused(option: str) -> None:
    assert "would trust whoever answers" in problems(with_bus(f"rediss://h?{option}"))["run.bus"][1]


def test_a_redis_elsewhere_without_tls_is_refused_unless_one_says_so_and_one_on_this_machine_is_not() -> None:
    _, message = problems(with_bus("redis://redis.lab:6379/0"))["run.bus"]
    assert message.startswith("Redis at redis.lab is not on this machine, and without TLS anybody on the way could read")
    assert message.endswith('write rediss://, or set network.insecure = "I know"')
    known = with_bus("redis://redis.lab:6379/0", '\n[network]\ninsecure = "I know"\n')
    for good in (known, *(with_bus(f"redis://{h}:6379/0") for h in ("localhost", "127.0.0.1", "[::1]"))):
        assert loads(good, "x.toml", HERE).run.bus.startswith("redis://")


def test_a_certificate_of_this_machines_own_is_not_for_sites_elsewhere() -> None:
    url = "rediss://h?ssl_certfile=/c.pem"
    assert loads(with_bus(url), "x.toml", HERE).run.bus == url
    away = with_bus(url).replace("[[site]]", '[[site]]\ndriver = "resident"', 1)
    assert "sites elsewhere have none" in problems(away)["run.bus"][1]
