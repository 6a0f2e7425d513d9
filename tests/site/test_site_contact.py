"""A site that nobody speaks to stops by itself, and one that watches its signal does so sooner."""

from __future__ import annotations

from windfall.site.contact import Contact

DEAD_MAN_S = 100.0


def test_any_word_of_the_coordinator_counts_and_a_sign_of_life_that_is_the_old_one_does_not() -> None:
    contact = Contact(0.0, DEAD_MAN_S)
    contact.beat(10.0, 1)
    contact.beat(50.0, 1)
    assert contact.lost(110.0, float) == ""
    assert contact.lost(111.0, float) == "nothing heard from the coordinator for 101 s"
    contact.message(111.0)
    assert contact.lost(200.0, float) == ""
    contact.beat(205.0, 2)
    assert contact.lost(300.0, float) == ""


def test_a_superlink_that_answers_holds_a_site_but_not_against_its_own_signal() -> None:
    asked: list[float] = []
    open_ = [True]

    def window(t: float) -> bool:
        asked.append(t)
        return open_[0]

    contact = Contact(0.0, DEAD_MAN_S, link=lambda: 1000.0, own_window=window)
    assert contact.lost(15.0, lambda: 7.0) == ""
    assert asked == [], "in touch, it obeys the coordinator alone"
    assert contact.lost(900.0, lambda: 7.0) == ""
    assert asked == [7.0]
    open_[0] = False
    assert contact.lost(900.0, lambda: 8.0).startswith("its own signal has left the window, and nothing was heard")
    contact.message(900.0)
    assert contact.lost(910.0, lambda: 9.0) == ""
    assert contact.lost(1101.0, lambda: 9.0) == "nothing heard from the coordinator for 101 s", "by the SuperLink, at 1000"
