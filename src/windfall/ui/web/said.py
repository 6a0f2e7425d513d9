"""What an open page is told as it changes: words by the id of the element that holds them, and whether there is more to ask for."""

from __future__ import annotations

from typing import Any

from windfall.ui.web.answers import KeptAnswer
from windfall.ui.web.look import RunLook
from windfall.ui.web.looks import Looks
from windfall.ui.web.words import words

#: A coordinator that is killed writes nothing: how it stands is looked at again after so long (s) all the same.
_AGAIN_S = 2.0


async def said(looks: Looks, look: RunLook) -> KeptAnswer:
    """The newest, worked out once for all who look."""
    look.look_against()

    def made() -> dict[str, Any]:
        mark = look.mark()
        w = look.whole()
        return {
            "words": words(w, look.against, look.against_why), "last_event": w.head.last_event, "samples": w.head.samples,
            "state": w.state.state, "mark": f"{hash((mark, look.against_mark)):x}",
        }  # fmt: skip

    return await looks.answer(look, ("said", look.against_mark), made, most_s=_AGAIN_S)
