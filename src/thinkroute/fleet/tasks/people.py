"""Multi-hop relations over a fixed base of facts that a member must know by heart.

Relations are drawn without replacement, so that each hop's relation is its unique key.
"""

from __future__ import annotations

import re
from random import Random

from thinkroute.fleet.tasks.language import FACTS, NAMES, PERSON_SENTENCE, RELATIONS, WHO_WORDS
from thinkroute.fleet.tasks.problem import FamilyName, Problem, level_of


class Relations:
    """`Who is the tutor of the neighbor of the mentor of Dora?`"""

    name: FamilyName = "relations"
    level_steps: tuple[int, ...] = (1, 2, 3, 4, 5)
    _pattern = re.compile(
        rf"(?:{'|'.join(' '.join(words) for words in WHO_WORDS)})"
        rf"((?: the (?:{'|'.join(RELATIONS)}) of)+) ({'|'.join(NAMES)})"
    )

    def sample(self, rng: Random, steps: int, *, broken_times: bool = False) -> Problem:
        """Draw a problem of `steps` different relations."""
        opening = " ".join(WHO_WORDS[rng.randrange(len(WHO_WORDS))])
        hops = rng.sample(RELATIONS, steps)
        return self._problem(opening, NAMES[rng.randrange(len(NAMES))], hops)

    def read(self, text: str) -> Problem | None:
        """Parse a normalised question."""
        match = self._pattern.fullmatch(text)
        if not match:
            return None
        hops = re.findall(r"the (\w+) of", match[1])[::-1]
        if len(hops) > self.level_steps[-1] or len(set(hops)) < len(hops):
            return None
        return self._problem(text[: match.start(1)], match[2], hops)

    def _problem(self, opening: str, person: str, hops: list[str]) -> Problem:
        """`hops` in the order they are walked, the reverse of how the question names them."""
        reached, parts = person, list[str]()
        for relation in hops:
            reached = FACTS[relation][reached]
            parts.append(f"{relation} {reached}")
        asked = " ".join(f"the {relation} of" for relation in reversed(hops))
        question = f"{opening} {asked} {person.title()}".capitalize()
        question = question[: -len(person)] + person.title()
        mark = "?" if opening.startswith("who") else "."
        trace = f"{person}: {', '.join(parts)}."
        sentence = PERSON_SENTENCE.format(answer=reached)
        level = level_of(len(hops), self.level_steps)
        return Problem(question + mark, trace, reached, sentence, self.name, len(hops), level)
