"""The work of the command after its arguments are read."""

from __future__ import annotations

import argparse

from iris_fast.config.validation import check_number
from iris_fast.errors import UserError
from iris_fast.training.device import plain_defaults

from .loading import load_player
from .server import Place, needed, serve
from .session import Session


@plain_defaults()
def play(arguments: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C."""
    check_number("seed", f"--seed {arguments.seed}", arguments.seed)
    check_number("temperature", f"--temperature {arguments.temperature}", arguments.temperature)
    if not 0 <= arguments.port < 2**16:
        raise UserError(f"--port {arguments.port} is not a port: give 0 (any free one) to 65535")
    with needed():
        import starlette  # noqa: F401  (before the agent is loaded)
    player = load_player(arguments.run, arguments.game, arguments.device, arguments.num_heads)

    def make_session() -> Session:
        return Session(
            player,
            arguments.mode,
            arguments.controls,
            arguments.seed,
            arguments.temperature,
            arguments.panels,
        )

    serve(
        Place(make_session, player.media),
        host=arguments.host,
        port=arguments.port,
        open_browser=not arguments.no_browser,
    )
    return 0
