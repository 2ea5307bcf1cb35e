"""Verdicts in written pages: `` `item/claim` *holds* `` or, of one set, `` `item/claim@set` *holds* ``, in English or Chinese.

The word is typed where the sentence needs it and held against the shipped records by a test; the site puts effect and interval beside it and links the item.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dgnb.catalogue import load_catalogue

CHINESE = {"成立": "holds", "不成立": "fails", "噪声之内": "within noise", "未运行": "not run"}
WORDS = {word: word for word in CHINESE.values()} | CHINESE
SAID = re.compile(rf"`([\w-]+)/([\w-]+)(?:@([\w-]+))?` \*({'|'.join(WORDS)})\*")


@dataclass(frozen=True)
class Said:
    """A verdict as a page says it."""
    item: str
    claim: str
    data: str  # the set, "" for all
    word: str  # as written, English or Chinese

    @property
    def verdict(self) -> str:
        """The verdict in English."""
        return WORDS[self.word]


def said(text: str) -> Iterator[Said]:
    """Every verdict of a page."""
    yield from (Said(match[1], match[2], match[3] or "", match[4]) for match in SAID.finditer(text))


def recorded(one: Said, records: dict[str, dict]) -> list[dict]:
    """The claim's entries in the records; *not run* where there is none. A KeyError for a claim that the catalogue does not have."""
    items = {item.id: item for item in load_catalogue()}
    if one.item not in items or one.claim not in {claim.id for claim in items[one.item].claims}:
        raise KeyError(f"the catalogue has no claim {one.item}/{one.claim}")
    found = [claim for claim in records.get(one.item, {}).get("claims", []) if claim["id"] == one.claim and one.data in ("", claim.get("data", ""))]
    return found or [{"id": one.claim, "verdict": "not run"}]


def stale(text: str, records: dict[str, dict]) -> list[str]:
    """What a page says that the records do not, with the mend."""
    lines = []
    for one in said(text):
        verdicts = sorted({claim["verdict"] for claim in recorded(one, records)})
        if verdicts != [one.verdict]:
            lines.append(f"{one.item}/{one.claim}{'@' * bool(one.data)}{one.data}: the page says *{one.word}*, the record {' and '.join(verdicts)}; change the sentence, not only the word")
    return lines


def shown(text: str, records: dict[str, dict]) -> str:
    """A page with effects and links."""
    from .pages import effect

    def full(match: re.Match) -> str:
        one = Said(match[1], match[2], match[3] or "", match[4])
        first, *others = recorded(one, records)
        number = "" if others else effect(first)
        mark = f'<span class="verdict {one.verdict.replace(" ", "-")}">{one.word}</span>'
        return f"[{one.item}](../results/{one.item}.md) {mark}" + (f" {number}" if number else "")
    return SAID.sub(full, text)
