from __future__ import annotations

import pytest

from iris_fast.envs import games
from iris_fast.envs.games import ATARI_100K, human_normalized_score, list_games, resolve_game
from iris_fast.errors import UserError
from tests.envs.conftest import needs_ale


def test_atari_100k_has_26_games_and_every_score_is_a_pair_with_human_above_random() -> None:
    assert len(ATARI_100K) == 26
    for game in ATARI_100K:
        random_score, human_score = games.ATARI_100K_SCORES[game]
        assert human_score > random_score, game


@pytest.mark.parametrize(
    ("name", "game"),
    [
        ("Pong", "Pong"),
        ("pong", "Pong"),
        ("PongNoFrameskip-v4", "Pong"),
        ("ALE/Pong-v5", "Pong"),
        ("ale/pong-v5", "Pong"),
        ("Pong-v5", "Pong"),
        ("Pong-ramDeterministic-v4", "Pong"),
        ("ms_pacman", "MsPacman"),
        ("up_n_down", "UpNDown"),
        ("UPNDOWN", "UpNDown"),
        (" Kung Fu Master ", "KungFuMaster"),
        ("catch", "Catch"),
    ],
)
def test_resolve_game_understands(name: str, game: str) -> None:
    assert resolve_game(name) == game


@pytest.mark.parametrize("game", ATARI_100K)
def test_resolve_game_keeps_plain_names(game: str) -> None:
    assert resolve_game(game) == game


def test_unknown_game_offers_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^unknown game 'Brekout' \(nearest: Breakout"):
        resolve_game("Brekout")


def test_unknown_game_without_neighbours_says_what_to_give() -> None:
    with pytest.raises(UserError, match=r"'Xqzzw'.*such as Pong"):
        resolve_game("Xqzzw")


@needs_ale
def test_all_of_ale_is_known_but_games_for_several_players() -> None:
    known = list_games()
    assert len(known) == len(set(known)) > 100
    assert {"MontezumaRevenge", "SpaceInvaders", "TicTacToe3D"} <= set(known)
    assert not {"Combat", "Joust", "MazeCraze", "Warlords"} & set(known)
    with pytest.raises(UserError, match="Joust"):
        resolve_game("Joust")


def test_without_ale_py_the_other_games_are_said_to_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(games, "atari_roms", dict)
    assert resolve_game("seaquest") == "Seaquest"
    with pytest.raises(UserError, match=r"MontezumaRevenge.*pip install 'iris_fast\[atari\]'"):
        resolve_game("MontezumaRevenge")


def test_human_normalized_score() -> None:
    assert human_normalized_score("Pong", -20.7) == 0.0
    assert human_normalized_score("Pong", 14.6) == pytest.approx(1.0)
    assert human_normalized_score("Breakout", 83.7) == pytest.approx(82.0 / 28.8)
    assert human_normalized_score("Catch", 1.0) is None
