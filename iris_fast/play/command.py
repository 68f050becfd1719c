"""The work of the command after its arguments are read."""

from __future__ import annotations

import argparse

from iris_fast.config.validation import check_number
from iris_fast.errors import UserError
from iris_fast.training.device import plain_defaults

from .headless import record
from .loading import Player, load_player
from .recording import LONGEST, check_recordable
from .server import Place, needed, serve
from .session import Session

STEPS = 500


@plain_defaults()
def play(arguments: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C; with --record plays without it."""
    check_number("seed", f"--seed {arguments.seed}", arguments.seed)
    if arguments.temperature is not None:
        check_number("temperature", f"--temperature {arguments.temperature}", arguments.temperature)
    if arguments.record:
        return _record(arguments)
    if arguments.steps is not None:
        raise UserError(f"--steps {arguments.steps} is of no use without --record FILE.mp4")
    if not 0 <= arguments.port < 2**16:
        raise UserError(f"--port {arguments.port} is not a port: give 0 (any free one) to 65535")
    with needed():
        import starlette  # noqa: F401  (before the agent is loaded)
    player = _player(arguments)
    serve(
        Place(lambda: _session(player, arguments), player.media),
        host=arguments.host,
        port=arguments.port,
        open_browser=not arguments.no_browser,
    )
    return 0


def _record(arguments: argparse.Namespace) -> int:
    steps = STEPS if arguments.steps is None else arguments.steps
    if not 1 <= steps <= LONGEST:
        raise UserError(f"--steps {steps}: give 1 to {LONGEST}")
    if arguments.controls == "person":
        raise UserError("--controls person needs the page: leave --record out, and record there")
    if arguments.save:
        raise UserError("--save asks on the page: leave it out, since --record keeps every step")
    if arguments.mode == "episodes":
        raise UserError("--mode episodes has nothing to record: choose real, dream or fork")
    for path in arguments.record:
        check_recordable(path, steps)
    session = _session(_player(arguments), arguments)
    try:
        record(session, steps, arguments.record)
    finally:
        session.close()
    return 0


def _player(arguments: argparse.Namespace) -> Player:
    return load_player(arguments.run, arguments.game, arguments.device, arguments.num_heads)


def _session(player: Player, arguments: argparse.Namespace) -> Session:
    return Session(
        player,
        arguments.mode,
        arguments.controls,
        arguments.seed,
        arguments.temperature,
        arguments.panels,
        arguments.save,
    )
