"""A session of each mode: what steps show, what messages change, that a person takes over and hands back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iris_fast.imagination.dream import Dream
from iris_fast.imagination.engine import ImaginationStart
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.interop.files import write_weights
from iris_fast.play import worlds
from iris_fast.play.interface import MessageError, Update
from iris_fast.play.loading import Player, load_player
from iris_fast.play.session import Session
from iris_fast.play.worlds import PARTED
from iris_fast.randomness import PhiloxDraws
from tests.support.agents import micro_agent


@pytest.fixture()
def session(player: Player) -> Iterator[Session]:
    made = Session(player)
    yield made
    made.close()


def step(session: Session) -> Update:
    update = session.advance()
    assert update is not None
    return update


def test_the_real_game_is_shown_step_by_step_with_its_rewards_and_ends(session: Session) -> None:
    assert session.state()["actions"] == ["NOOP", "LEFT", "RIGHT"]
    for number in range(1, 10):
        update = step(session)
        assert update.info["step"] == number and update.info["end"] == (number == 9)
        assert update.images["observation"].shape == (64, 64, 3)
    assert update.info["return"] == update.info["reward"] and abs(float(str(update.info["reward"]))) == 1
    first = step(session)
    assert first.info["step"] == 0 and first.info["action"] is None and not first.info["end"]


def test_a_person_acts_and_the_agent_goes_on_with_the_state_of_what_was_seen(player: Player) -> None:
    alone, shared = Session(player, seed=3), Session(player, seed=3)
    policy = player.policy
    state = player.agent.actor_critic.initial_state(1)
    frame = shared._world.moment.frame  # type: ignore[union-attr]
    for number in range(6):
        if number == 2:
            shared.handle({"type": "handover"})
            shared.handle({"type": "action", "action": 2})
        if number == 4:
            shared.handle({"type": "handover"})
        state = policy(frame[None], state).state
        update = step(shared)
        frame = shared._world.moment.frame  # type: ignore[union-attr]
        assert (update.info["action"] == 2) or number not in (2, 3)
        if number < 2:
            assert update.info["action"] == step(alone).info["action"]
    torch.testing.assert_close(shared._world._loop.state, state)  # type: ignore[union-attr]
    alone.close()
    shared.close()


def test_a_person_takes_over_in_a_dream_and_hands_back(player: Player) -> None:
    """The dream follows the person's actions, and the agent goes on with the state of the frames it saw."""
    session = Session(player, "dream", seed=5)
    assert isinstance(session._world, worlds.Dream)
    state = player.agent.actor_critic.initial_state(1)
    dream = Dream(
        player.agent.world_model, session._world.dream.tokens, PhiloxDraws(session._world.dream.seed)
    )
    for number in range(6):
        if number in (2, 4):
            session.handle({"type": "handover"})
            session.handle({"type": "action", "action": 1})
        seen = session._world.dream.seen
        state = player.policy.on_reconstructions(seen, state).state
        update = step(session)
        assert update.info["action"] == 1 or number not in (2, 3)
        outcome = dream.step(torch.tensor([update.info["action"]]))
        assert outcome.tokens is not None and session._world.moment.tokens is not None
        assert np.array_equal(outcome.tokens[0].numpy(), session._world.moment.tokens)
    torch.testing.assert_close(session._world._loop.state, state)
    session.close()


def test_tabs_at_the_same_time_play_what_each_would_alone(player: Player) -> None:
    def played(number: int) -> list[np.ndarray]:
        session = Session(player, ("real", "dream", "fork")[number % 3], seed=number, panels=True)
        session.handle({"type": "set", "thoughts": True})
        frames = [image for _ in range(12) for image in step(session).images.values()]
        session.close()
        return frames

    alone = [played(number) for number in range(6)]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(played, range(6)))
    for one, other in zip(alone, together, strict=True):
        assert all(map(np.array_equal, one, other))


def test_closed_sessions_leave_nothing(player: Player) -> None:
    opened: list[weakref.ref[object]] = []
    for mode in ("real", "dream", "fork", "episodes"):
        session = Session(player, mode, save=True, panels=True)
        session.handle({"type": "set", "thoughts": True})
        session.advance()
        if mode != "episodes":
            opened.append(weakref.ref(session._world))
        session.close()
        opened.append(weakref.ref(session))
    del session
    gc.collect()
    assert not [one() for one in opened if one() is not None]


def test_a_fork_of_a_fork_starts_at_the_present_frame_of_the_game(player: Player) -> None:
    session = Session(player, seed=4)
    for message in ({"type": "fork"}, {"type": "fork"}):
        session.handle(dict(message))
        for number in (1, 2):
            fork: Any = step(session).info["fork"]
            assert fork["steps"] == number
    assert session._world.steps == 4
    session.close()


def test_panels_show_the_screen_and_what_the_agent_sees(session: Session, player: Player) -> None:
    session.handle({"type": "set", "paused": True, "panels": True})
    update = step(session)  # the same moment again
    assert update.info["step"] == 0 and session.advance() is None
    assert set(update.images) == {"observation", "screen", "reconstruction"}
    frame = torch.from_numpy(update.images["observation"].transpose(2, 0, 1))[None]
    seen = (player.agent.reconstruct(frame)[0] * 255).round().byte().numpy()
    assert np.array_equal(update.images["reconstruction"], seen.transpose(1, 2, 0))


def test_pause_single_steps_reset_and_speed(session: Session) -> None:
    session.handle({"type": "set", "paused": True, "fps": 60})
    assert session.interval == 1 / 60
    while session.advance() is not None:
        pass
    session.handle({"type": "step"})
    assert step(session).info["step"] == 1 and session.advance() is None
    session.handle({"type": "reset"})
    assert step(session).info["step"] == 0 and session.advance() is None


def test_a_seed_is_the_same_game_again(session: Session) -> None:
    def played() -> list[Any]:
        session.handle({"type": "set", "seed": 5})
        return [step(session).images["observation"] for _ in range(12)]

    assert np.array_equal(played(), played())


def test_what_makes_no_sense_gets_a_sentence(session: Session) -> None:
    with pytest.raises(MessageError, match="Catch has 3 actions: there is no action 9"):
        session.handle({"type": "action", "action": 9})
    for temperature in (1e7, 10**400):
        with pytest.raises(MessageError, match="it must be at most 1e\\+06"):
            session.handle({"type": "set", "temperature": temperature, "fps": 60})
    assert session.fps != 60  # nothing of it was done


def test_a_closed_session_frees_its_environment(player: Player) -> None:
    session = Session(player)
    env = session._world._env  # type: ignore[union-attr]
    session.handle({"type": "set", "mode": "dream"})
    game = session._world._game  # type: ignore[union-attr]
    session.close()
    session.close()
    assert env.closed and game.closed


def test_atari_shows_the_emulators_screen(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    agent = micro_agent(num_actions=6)
    path = tmp_path / "agent.pt"
    write_weights(path, dict(agent.state_dict()), agent.config, agent.num_actions)
    session = Session(load_player(path, "Pong", "cpu"), panels=True)
    update = step(session)
    assert update.images["screen"].shape == (210, 160, 3) and update.images["screen"].max() > 0
    session.close()


def test_a_dream_is_the_engines_rollout_from_the_games_first_frame(player: Player) -> None:
    """The same seed gives the oracle's dream, past the context too, where the page is told."""
    session = Session(player, "dream", seed=7, temperature=1.0)
    assert isinstance(session._world, worlds.Dream)
    dream = session._world.dream
    start = ImaginationStart(torch.zeros(1, 0, 3, 64, 64), torch.zeros(1, 0, dtype=torch.bool), dream.tokens)
    expected = OracleEngine(player.agent).imagine(start, 12, dream.seed)
    contexts = []
    for number in range(11):
        update = step(session)
        assert update.info["action"] == int(expected.actions[0, number])
        assert update.info["reward"] == float(expected.rewards[0, number])
        assert update.info["end"] == bool(expected.ends[0, number])
        frame = (expected.observations[0, number + 1] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.abs(update.images["dream"].astype(int) - frame).max() <= 1  # rounding
        contexts.append(update.info["context"])
        if update.info["end"]:
            break
    blocks = player.config.world_model.max_blocks
    assert number + 1 >= 2 * blocks - 1, "the dream ended too early to show anything"
    assert contexts == [(n % (blocks - 1) == 0) and n > 0 for n in range(len(contexts))]
    session.close()


def test_thoughts_are_of_the_models_at_this_step(player: Player) -> None:
    for mode in ("dream", "real"):
        session = Session(player, mode, temperature=0.5)
        session.handle({"type": "set", "thoughts": True})
        thoughts: Any = step(session).info["thoughts"]
        for chances in (thoughts["probabilities"], thoughts["reward"], thoughts["end"]):
            assert sum(chances) == pytest.approx(1, abs=1e-3)
        assert len(thoughts["tokens"]) == len(thoughts["token_probabilities"]) == 16
        assert thoughts["entropy"] > 0 and min(thoughts["token_entropies"]) > 0
        moment = session._world.moment
        frame = torch.from_numpy(moment.frame[None])
        if mode == "real":
            coder = player.agent.coder
            assert torch.equal(coder.tokens_of(frame / 255)[0], torch.tensor(thoughts["tokens"]))
        session.close()


def test_the_world_model_follows_the_game_when_it_is_asked(player: Player) -> None:
    """What it expected equals the full pass over the game's tokens and actions."""
    session = Session(player, seed=2)
    session.handle({"type": "set", "thoughts": True})
    coder, frames, actions = player.agent.coder, [session._world.moment.frame], []
    for _ in range(3):
        actions.append(step(session).info["action"])
        frames.append(session._world.moment.frame)
    tokens = coder.tokens_of(torch.from_numpy(np.stack(frames)) / 255)
    with torch.no_grad():
        output = player.agent.world_model(tokens[None, :3], torch.tensor([actions]))
    logits = session._world.moment.logits
    assert logits is not None and logits.observations is not None
    torch.testing.assert_close(logits.rewards[0], output.logits_rewards[0, -1], atol=1e-4, rtol=1e-4)
    first = output.logits_observations[0, -1]  # the action's position predicts the next frame's first token
    torch.testing.assert_close(logits.observations[0, 0], first, atol=1e-4, rtol=1e-4)
    session.close()


def test_a_replaced_token_changes_the_frame_and_what_follows(player: Player) -> None:
    one, other = (Session(player, "dream", seed=1) for _ in range(2))
    before = step(one).images["dream"]
    assert np.array_equal(step(other).images["dream"], before)
    assert one._world.moment.tokens is not None
    code = (int(one._world.moment.tokens[5]) + 1) % player.config.tokenizer.vocab_size
    one.handle({"type": "set", "paused": True})
    one.handle({"type": "token", "index": 5, "code": code})
    changed = step(one)
    assert changed.info["step"] == 1 and not np.array_equal(changed.images["dream"], before)
    tokens = one._world.moment.tokens
    assert tokens is not None and tokens[5] == code
    one.handle({"type": "step"})
    step(one), step(other)
    mine, theirs = (session._world.moment.logits for session in (one, other))
    assert mine is not None and theirs is not None and not torch.equal(mine.rewards, theirs.rewards)
    with pytest.raises(MessageError, match="there is no code"):
        one.handle({"type": "token", "index": 5, "code": 10**6})
    one.close()
    other.close()


def test_tokens_of_the_game_are_refused(session: Session) -> None:
    with pytest.raises(MessageError, match="in a dream"):
        session.handle({"type": "token", "index": 0, "code": 0})


def test_a_fork_dreams_on_from_the_present_frame_with_the_same_actions(player: Player) -> None:
    session = Session(player, seed=4)
    for _ in range(3):
        step(session)
    frame, steps = session._world.moment.frame, session._world.steps
    session.handle({"type": "set", "paused": True})
    session.handle({"type": "fork"})
    update = step(session)
    assert update.info["step"] == steps and update.info["mode"] == "fork"
    assert np.array_equal(update.images["observation"], frame.transpose(1, 2, 0))
    tokens = player.agent.coder.tokens_of(torch.from_numpy(frame[None]) / 255)
    dream = Dream(player.agent.world_model, tokens, PhiloxDraws(4))
    session.handle({"type": "set", "paused": False})
    for number in range(1, 6):
        update = step(session)
        outcome = dream.step(torch.tensor([update.info["action"]]))
        assert outcome.tokens is not None and session._world.moment.tokens is not None
        assert torch.equal(outcome.tokens[0], torch.from_numpy(session._world.moment.tokens))
        fork: Any = update.info["fork"]
        assert fork["steps"] == number
        seen = player.agent.reconstruct(torch.from_numpy(session._world.moment.frame[None]))
        apart = float((seen - player.engine.frames_of(outcome.tokens)).abs().mean())
        assert fork["difference"] == pytest.approx(apart, abs=1e-4)
        if fork["first_frame"] == number:
            assert apart > PARTED
        if fork["first_reward"] == number:
            assert float(outcome.rewards[0]) != update.info["reward"]
    session.handle({"type": "set", "mode": "real"})
    assert step(session).info["step"] == steps + 6  # the game goes on
    session.close()


def test_modes_keep_their_worlds_and_a_seed_starts_them_again(player: Player) -> None:
    session = Session(player)
    for mode in ("real", "dream", "real", "dream"):
        session.handle({"type": "set", "mode": mode})
        step(session)
    assert session._world.steps == 2
    session.handle({"type": "set", "seed": 9})
    assert session._world.steps == 0 and session._real is None
    session.close()
