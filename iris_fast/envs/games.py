"""The games: plain names, the 26 of Atari 100k, and human-normalised scores."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec

from iris_fast.errors import UserError, nearest

CATCH = "Catch"

# (random, human) mean scores: Mnih et al. 2015 and Wang et al. 2016, as collected in the tables of the
# Atari 100k papers (Kaiser et al. 2020, Schwarzer et al. 2021, Micheli et al. 2023).
ATARI_100K_SCORES: dict[str, tuple[float, float]] = {
    "Alien": (227.8, 7127.7),
    "Amidar": (5.8, 1719.5),
    "Assault": (222.4, 742.0),
    "Asterix": (210.0, 8503.3),
    "BankHeist": (14.2, 753.1),
    "BattleZone": (2360.0, 37187.5),
    "Boxing": (0.1, 12.1),
    "Breakout": (1.7, 30.5),
    "ChopperCommand": (811.0, 7387.8),
    "CrazyClimber": (10780.5, 35829.4),
    "DemonAttack": (152.1, 1971.0),
    "Freeway": (0.0, 29.6),
    "Frostbite": (65.2, 4334.7),
    "Gopher": (257.6, 2412.5),
    "Hero": (1027.0, 30826.4),
    "Jamesbond": (29.0, 302.8),
    "Kangaroo": (52.0, 3035.0),
    "Krull": (1598.0, 2665.5),
    "KungFuMaster": (258.5, 22736.3),
    "MsPacman": (307.3, 6951.6),
    "Pong": (-20.7, 14.6),
    "PrivateEye": (24.9, 69571.3),
    "Qbert": (163.9, 13455.0),
    "RoadRunner": (11.5, 7845.0),
    "Seaquest": (68.4, 42054.7),
    "UpNDown": (533.4, 11693.2),
}
ATARI_100K = tuple(ATARI_100K_SCORES)

# ALE has these only for several players; loading one for a single player ends the process.
_MULTIPLAYER_ROMS = frozenset({"combat", "joust", "maze_craze", "warlords"})

INSTALL_ATARI = "pip install 'iris_fast[atari]'"


def plain_name(rom: str) -> str:
    """`"ms_pacman"` to `"MsPacman"`: the name under which gymnasium registers a ROM."""
    return rom.title().replace("_", "")


@cache
def atari_roms() -> dict[str, str]:
    """Plain name to ROM name (`"MsPacman": "ms_pacman"`) of every ALE game; empty without ale-py."""
    if find_spec("ale_py") is None:
        return {}
    from ale_py import roms

    names = sorted(set(roms.get_all_rom_ids()) - _MULTIPLAYER_ROMS)
    return {plain_name(rom): rom for rom in names}


def list_games() -> tuple[str, ...]:
    """Plain names of all games: Catch, the 26 of Atari 100k, then ALE's others if ale-py is installed."""
    others = tuple(name for name in atari_roms() if name not in ATARI_100K_SCORES)
    return (CATCH, *ATARI_100K, *others)


def resolve_game(name: str) -> str:
    """The plain name of a game.

    Args:
        name: in any case; older forms such as `ms_pacman`, `PongNoFrameskip-v4`, `Pong-v5` and `ALE/Pong-v5` work
        too.

    Raises:
        UserError: no such game; the message suggests the nearest names.
    """
    bare = re.sub(r"^ale/", "", name.strip(), flags=re.IGNORECASE)
    bare = re.sub(r"(-ram)?(NoFrameskip|Deterministic)?-v\d+$", "", bare, flags=re.IGNORECASE)
    bare = re.sub(r"[\s_-]", "", bare)
    games = list_games()
    for game in games:
        if game.lower() == bare.lower():
            return game
    hint = nearest(bare, games)
    if not atari_roms():
        hint += f"; games outside Atari 100k need ale-py: {INSTALL_ATARI}"
    raise UserError(f"unknown game {name!r}{hint or ': give a name such as Pong, Breakout or Catch'}")


def human_normalized_score(game: str, score: float) -> float | None:
    """`(score - random) / (human - random)` for a game of Atari 100k (plain name), None for any other."""
    if game not in ATARI_100K_SCORES:
        return None
    random_score, human_score = ATARI_100K_SCORES[game]
    return (score - random_score) / (human_score - random_score)
