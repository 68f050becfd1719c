"""Scores as published: raw Atari-100k scores of each method's runs, with the paper and the file they come from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from iris_fast.envs.games import ATARI_100K, human_normalized_score
from iris_fast.errors import UserError, nearest

# The paper's comparison (methods without look-ahead search), and the world models that came after it.
PAPER_METHODS = ("SimPLe", "CURL", "DrQ(ε)", "SPR", "IRIS")
NEWER_METHODS = ("IRIS", "TWM", "DreamerV3", "REM", "DIAMOND", "Δ-IRIS", "Simulus")


@dataclass(frozen=True)
class Method:
    """One method's scores: a list of its runs' scores for each game. Published ones have a paper and a source."""

    name: str
    scores: dict[str, list[float]]
    paper: str = ""
    preprint: str = ""
    source: str = ""

    def normalized(self, game: str) -> list[float]:
        """Human-normalised scores of the runs of a game: 0 is random play, 1 the human player."""
        values = [human_normalized_score(game, score) for score in self.scores[game]]
        return [value for value in values if value is not None]

    def on(self, games: Iterable[str]) -> Method:
        """The same method on those of `games` that it has."""
        kept = {game: self.scores[game] for game in games if game in self.scores}
        return Method(self.name, kept, self.paper, self.preprint, self.source)

    @property
    def fewest_runs(self) -> int:
        """The number of runs of the game that has fewest."""
        return min(len(scores) for scores in self.scores.values())


@cache
def published() -> dict[str, Method]:
    """Every published method by its name; read from the package, without a network."""
    text = (files(__package__) / "atari_100k.json").read_text(encoding="utf-8")
    return {name: Method(name, **content) for name, content in json.loads(text).items()}


def choose_methods(names: Sequence[str]) -> list[Method]:
    """The published methods of these names, in any case; UserError for any other name."""
    known = published()
    spelled = {name.lower(): name for name in known}
    spelled |= {"delta-iris": "Δ-IRIS", "drq": "DrQ(ε)", "drq(eps)": "DrQ(ε)"}
    chosen: dict[str, Method] = {}
    for name in names:
        found = spelled.get(name.strip().lower())
        if found is None:
            hint = nearest(name, list(known)) or f": known are {', '.join(known)}"
            raise UserError(f"--methods: there are no published scores of '{name}'{hint}")
        chosen[found] = known[found]
    return list(chosen.values())


def in_order(games: Iterable[str]) -> list[str]:
    """Games of Atari 100k in the benchmark's order."""
    wanted = set(games)
    return [game for game in ATARI_100K if game in wanted]
