"""What is no TOML is told line by line with what to write instead, and hides nothing else."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from windfall.config.load import ConfigProblems
from windfall.config.look import look_at

GOOD = """[run]
budget_tokens = 1000
start = "2026-01-01T00:00Z"
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
HERE = Path()


def told(data: str | bytes) -> list[tuple[int, str, str]]:
    found = look_at(data if isinstance(data, bytes) else data.encode(), "x.toml", HERE)
    assert (found.config is None) == bool(found.problems)
    return [(p.line, p.key, p.message) for p in found.problems]


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n", "\r").encode(),
        GOOD.replace(" = ", "\t=\t").replace("name", "\tname").encode(),
        GOOD.replace('"2026-01-01T00:00Z"', "2026-01-01T00:00:00Z").encode(),
        GOOD.replace('"2026-01-01T00:00Z"', "2026-01-01").encode(),
        GOOD.replace("1000", "1e3").encode(),
    ],
    ids=["byte-order mark", "Windows", "old Mac", "tabs", "instant", "date", "whole number with an exponent"],
)
def test_what_editors_write_is_read(data: bytes) -> None:
    found = look_at(data, "x.toml", HERE)
    assert not found.problems
    assert found.config is not None
    assert (found.config.run.budget_tokens, found.config.site[0].name) == (1000, "a")


@pytest.mark.parametrize(
    ("line", "written", "fix"),
    [
        (2, "budget_tokens = 1000 tokens", "a number stands alone, without a unit: the key's name has it"),
        (7, "spin_up_s = 300,5", "write a point for the decimals: 300.5"),
        (7, "spin_up_s = .5", "a number has digits on both sides of its point: 0.5"),
        (7, "spin_up_s = 007", "a number does not begin with 0"),
        (6, "region = R", 'put text between quotes: "R"'),
        (6, 'region = "R', "the closing quote is missing"),
        (6, "region = “R”", 'put text between plain quotes: "…"'),
        (6, "region =", "a value is missing after ="),
        (12, 'kind = "synthetic"\npath = "C:\\temp\\x.csv"', "a backslash has a meaning between double quotes"),
        (12, 'kind = "synthetic"\nown = True', "write true or false, in small letters"),
        (12, 'kind = "synthetic"\nthis is text', "write a key, = and its value"),
    ],
)
def test_a_line_that_cannot_be_read_is_told_with_its_fix_and_with_the_other_mistakes(line: int, written: str, fix: str) -> None:
    lines = GOOD.replace("tokens_per_s = 10", "tokens_per_s = -10").split("\n")
    lines[line - 1] = written
    found = told("\n".join(lines))
    assert (line + written.count("\n"), "(syntax)") in [f[:2] for f in found]
    assert any(fix in message for _, _, message in found), found
    assert (10, "site[0].tokens_per_s", "got -10; accepted: tokens/s, above 0 (the site's speed, in run time)") in found
    assert len(found) == 2, found  # what could not be read is not called missing


def test_a_key_that_stands_twice_is_told_with_both_lines() -> None:
    assert told(GOOD.replace("[[site]]", "budget_tokens = 5\n[[site]]")) == [
        (4, "(syntax)", "`budget_tokens` stands twice (first in line 2); remove one of them")
    ]


def test_a_table_that_stands_twice_is_told_and_both_parts_are_checked() -> None:
    assert told(GOOD + "[run]\nseed = -1\n") == [
        (13, "(syntax)", "[run] stands twice (first in line 1); put its keys into one"),
        (14, "run.seed", "got -1; accepted: a whole number, at least 0 and below 9.22337e+18 (seeds the initial model, the data "
                         "order and every jitter)"),
    ]  # fmt: skip


def test_sites_in_single_brackets_are_told_how_to_be_several() -> None:
    one = GOOD.replace("[[site]]", "[site]")
    assert told(one) == [(4, "site", "one table stands here, and there may be several: write [[site]]")]
    two = one + one[one.index("[site]") :].replace('"a"', '"b"')
    assert told(two)[0] == (13, "(syntax)", "[site] stands twice (first in line 4); there may be several: write [[site]]")


def test_a_header_that_is_not_closed_is_told_and_what_stands_below_it_is_checked() -> None:
    assert told(GOOD.replace("[[site]]", "[[site]").replace("300", "-1")) == [
        (4, "(syntax)", "`[[site]` is no header of a table; write [[site]]"),
        (7, "site[0].spin_up_s", "got -1; accepted: seconds, at least 0 (from the decision to the first optimizer step)"),
    ]


def test_bytes_that_are_not_utf8_are_told_by_line_with_what_they_probably_are() -> None:
    data = GOOD.replace('"a"', '"a" # Zürich').encode("latin-1")
    assert told(data) == [(5, "(syntax)", 'byte 0xfc is not UTF-8 (`name = "a" # Zürich`?); save the file as UTF-8')]
    assert told(GOOD.encode("utf-16"))[0][2] == "the file is UTF-16, as some Windows programs write it; save it as UTF-8"
    assert len(told(GOOD.encode("utf-16"))) == 1


def test_what_nobody_can_read_is_still_one_message() -> None:
    assert told(b"\x00\x01\x02" * 50)[0][:2] == (1, "(syntax)")
    assert told("x = " + "[" * 5000)
    assert told('a = """\nnever closed\n' + GOOD)
    assert told("")  # nothing in it: what is missing is told


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        (("budget_tokens = 1000", 'budget_tokens = "1000"'), "run.budget_tokens", "got '1000', which is text: leave the quotes"),
        (("budget_tokens = 1000", "budget_tokens = 1000.5"), "run.budget_tokens", "got 1000.5; accepted: tokens, whole, above 0"),
        (("spin_up_s = 300", "spin_up_s = true"), "site[0].spin_up_s", "got true; accepted: seconds, at least 0"),
        (("spin_up_s = 300", "spin_up_s = [300]"), "site[0].spin_up_s", "got [300]; accepted: seconds, at least 0"),
        (("spin_up_s = 300", "spin_up_s = nan"), "site[0].spin_up_s", "got nan; accepted: seconds, at least 0"),
        (('region = "R"', "region = 7"), "site[0].region", "got 7, which is a number: put it between quotes"),
        (('name = "a"', 'name = "a b"'), "site[0].name", "got 'a b'; accepted: a name of at most 40 letters"),
        (('name = "a"', 'name = "a"\nown_signal = "true"'), "site[0].own_signal", "got 'true', which is text: leave the quotes"),
        (('name = "a"', 'name = "a"\nown_signal = 1'), "site[0].own_signal", "got 1; accepted: true or false"),
        (("[run]", "policy = 'breakeven'\n[run]"), "policy", "a table belongs here: write [policy], and its keys below it"),
        (("[run]", "[[run]]"), "run", "several tables stand here, and there is only one: write [run] once"),
        (("[run]", "[backtest]\npolicies = 'paper'\n[run]"), "backtest.policies", "got 'paper', which is no list"),
        (("[run]", "[backtest]\npolicies = ['papr']\n[run]"), "backtest.policies[0]", "got 'papr', did you mean 'paper'?"),
        (("[run]", "[backtest]\ndeadlines_h = [1, -2]\n[run]"), "backtest.deadlines_h[1]", "got -2; accepted: a list, each hours"),
        (("[run]", "[data]\npacking = 'best-fit'\n[run]"), "data.packing", "got 'best-fit', did you mean 'best_fit'?"),
        (("[run]", "[run]\nbus = 'redis://u:hunter2@h'"), "run.bus", "may hold no user, password or other secret"),
        (("[run]", "[run]\nbus = 7"), "run.bus", "got an address, which is a number"),
        (("[site.signal]", "[site.signals]"), "site[0].signals", "one table stands here, and there may be several: write"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_told_with_what_is_accepted(change: tuple[str, str], key: str, said: str) -> None:
    found = {k: message for _, k, message in told(GOOD.replace(*change))}
    assert found[key].startswith(said), found
    assert "hunter2" not in str(found)


def test_mistakes_that_hide_each_other_are_told_together(tmp_path: Path) -> None:
    text = GOOD.replace("idle_power_w = 400", 'idle_power_w = "400 W"\nload_s = 301\ntrigger = "price <"').replace(
        '[site.signal]\nkind = "synthetic"', '[site.signal]\npath = "no.csv"\ncolumn = "g"'
    )
    text += text[text.index("[[site]]") :] + "[federation]\nround_tokens = 1001\n[policy]\nname = 'always'\na_on = -1\n"
    text += "deadline = 2026-02-01\ndeadline_h = 3\n[limits]\nmax_power_w = 5\nmax_spend = 1\n"
    found = look_at(text.encode(), "x.toml", tmp_path)
    assert [(p.line, p.key, p.site) for p in found.problems] == [
        (9, "site[0].idle_power_w", "a"), (10, "site[0]", "a"), (11, "site[0].trigger", "a"), (14, "site[0].signal.path", "a"),
        (17, "site[1].name", "a"), (21, "site[1].idle_power_w", "a"), (22, "site[1]", "a"), (23, "site[1].trigger", "a"),
        (26, "site[1].signal.path", "a"), (29, "(file)", None), (32, "policy.a_on", None), (34, "policy", None),
        (36, "(file)", None), (37, "(file)", None),
    ]  # fmt: skip
    assert "round_tokens = 1001 is not a whole number of steps" in found.problems[9].message
    assert "[limits]" not in str(found.problems)
    with pytest.raises(ConfigProblems, match=r"x\.toml:10: site\[0\] \(site a\): load_s = 301 is part of spin_up_s = 300"):
        raise ConfigProblems("x.toml", found.problems)


def test_a_missing_file_names_one_that_is_nearly_called_so(tmp_path: Path) -> None:
    (tmp_path / "traces.csv").write_text("t,g\n")
    text = GOOD.replace('kind = "synthetic"', 'path = "trace.csv"\ncolumn = "g"')
    (problem,) = look_at(text.encode(), "x.toml", tmp_path).problems
    assert problem.text("x.toml") == (
        f"x.toml:12: site[0].signal.path (site a): no such file: {tmp_path}/trace.csv; did you mean traces.csv?"
    )
    (problem,) = look_at(text.replace("trace.csv", ".").encode(), "x.toml", tmp_path).problems
    assert "it is a folder; name the file in it" in problem.message
