"""Triggers: what may be written, what it means, and what is said of what may not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.config.trigger import Comparison, Joined, Trigger, parse_trigger

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True).filter(lambda n: n not in ("and", "or"))
LEVELS = st.one_of(st.integers(-(10**7), 10**7).map(float), st.floats(allow_nan=False, allow_infinity=False))
COMPARISONS = st.builds(Comparison, NAMES, st.sampled_from(["<", "<=", ">", ">="]), LEVELS)


def _join(how: str, parts: list[Trigger]) -> Trigger:
    """Joined as the grammar joins: a part of the same kind is taken in, not nested."""
    flat = [p for x in parts for p in (x.parts if isinstance(x, Joined) and x.how == how else (x,))]
    return Joined(how, tuple(flat))


TRIGGERS = st.recursive(
    COMPARISONS,
    lambda inner: st.builds(_join, st.sampled_from(["any", "all"]), st.lists(inner, min_size=2, max_size=3)),
    max_leaves=6,
)


def truth(trigger: Trigger, values: dict[str, float]) -> bool:
    if isinstance(trigger, Comparison):
        return trigger.holds(values[trigger.signal])
    return (any if trigger.how == "any" else all)(truth(p, values) for p in trigger.parts)


@given(TRIGGERS)
def test_what_a_trigger_writes_reads_back_as_the_same_trigger(trigger: Trigger) -> None:
    assert parse_trigger(trigger.text) == trigger


@given(
    st.recursive(
        st.sampled_from(["a < 1", "b >= 2", "c<=-3"]),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join), inner.map(lambda x: f"( {x})")
        ),
        max_leaves=6,
    ),
    st.fixed_dictionaries({n: st.sampled_from([-4.0, -3.0, 0.0, 1.0, 2.0, 3.0]) for n in "abc"}),
)
def test_a_trigger_means_what_the_same_words_mean_elsewhere(text: str, values: dict[str, float]) -> None:
    assert truth(parse_trigger(text), values) == eval(text, {}, values)  # the test's own text, from three comparisons


def test_and_binds_tighter_than_or_and_parentheses_tighter_than_both() -> None:
    a, b, c = (Comparison(n, "<", 1.0) for n in "abc")
    assert parse_trigger("a < 1 or b < 1 and c < 1") == Joined("any", (a, Joined("all", (b, c))))
    assert parse_trigger("(a < 1 or b < 1) and c < 1") == Joined("all", (Joined("any", (a, b)), c))
    assert parse_trigger("a < 1 or b < 1 or c < 1") == Joined("any", (a, b, c))
    assert parse_trigger("((a < 1))") == a


def test_a_trigger_knows_the_names_that_it_is_about() -> None:
    assert parse_trigger("moer < 100 and (price <= 0 or moer < 20)").names() == {"moer", "price"}


@pytest.mark.parametrize(("operator", "held"), [("<", [1]), ("<=", [1, 2]), (">", [3]), (">=", [2, 3])])
def test_each_operator_holds_on_its_side_of_the_level(operator: str, held: list[int]) -> None:
    c = parse_trigger(f"x{operator}2")
    assert isinstance(c, Comparison)
    assert [v for v in (1, 2, 3) if c.holds(v)] == held
    assert c.below == (1 in held)
    assert not c.holds(math.nan)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a signal's name is missing before the end"),
        ("moer", "one of < <= > >= is missing before the end"),
        ("moer <", "a number is missing before the end"),
        ("moer < price", "a number is missing before price"),
        ("moer < .5", "a number is missing before ."),
        ("moer < - 5", "a number is missing before -"),
        ("moer == 5", "one of < <= > >= is missing before ="),
        ("100 > moer", "a signal's name is missing before 100"),
        ("moer < 100 and", "a signal's name is missing before the end"),
        ("moer < 100 or or price < 0", "one of < <= > >= is missing before price"),
        ("(moer < 100", "`)` is missing before the end"),
        ("moer < 100)", ") is not expected there"),
        ("moer < 100 AND price < 0", "AND is not expected there; join comparisons with `and` or `or`"),
        ("moer < 100g", "g is not expected there"),
        ("moer < 100 -5", "-5 is not expected there"),
        ("0 < moer < 100", "a signal's name is missing before 0"),
        ("moer < 100 < price", "< is not expected there"),
        ("moer < 1e999", "the number after moer < is too large"),
        ("__import__('os')", "a signal's name is missing before _"),
    ],
)
def test_what_is_no_trigger_is_refused_with_the_place_where_it_stops_making_sense(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="trigger ") as caught:
        parse_trigger(text)
    assert said in str(caught.value)
    assert repr(text) in str(caught.value)


@given(st.text(alphabet="ab<=>() andor.0123456789e-", max_size=24))
def test_any_text_is_a_trigger_or_an_error_that_quotes_it(text: str) -> None:
    said = ""
    try:
        found = parse_trigger(text)
    except ValueError as e:
        said = str(e)
    if said:
        assert repr(text) in said
    else:
        assert parse_trigger(found.text) == parse_trigger(parse_trigger(found.text).text)
