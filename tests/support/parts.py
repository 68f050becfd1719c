"""Parts of a run for tests: on the replay's noise, and with any losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from iris_fast.agent import Agent
from iris_fast.config import resolve
from iris_fast.config.schema import PartConfig
from iris_fast.imagination.engine import ImaginationEngine
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.models.versioned import Versioned
from iris_fast.replay.cache import FrameCache
from iris_fast.training.measures import Sums
from iris_fast.training.parts import Losses, Part, make_parts
from tests.support.micro import micro_config


def micro_parts(
    agent: Agent, cache: FrameCache, *overrides: str, engine: ImaginationEngine | None = None
) -> dict[str, Part[Any]]:
    """The parts of the micro configuration with `overrides`, on the data of `cache`."""
    config = resolve(micro_config(*overrides))
    return make_parts(agent, config, cache, engine or OracleEngine(agent))


def losses_on(part: Part[Any], seed: int, batch: int | None = None) -> Losses:
    """The losses of a part that takes a batch in one piece."""
    (losses,) = part.losses(part.inputs(seed, batch))
    return losses


class GivenPart(Part[Any]):
    """A part called `tokenizer` whose losses are what a function of the seed, or of the inputs, gives."""

    name = "tokenizer"

    def __init__(
        self,
        module: Versioned,
        losses_of: Callable[[Any], Iterable[Losses]],
        inputs_of: Callable[[int], Any] = lambda seed: seed,
        precision: str = "float32",
        pieces: int = 1,
        **settings: Any,
    ):
        super().__init__(module, PartConfig(**({"learning_rate": 1e-3} | settings)), precision, pieces)
        self.losses_of, self.inputs_of = losses_of, inputs_of

    def inputs(self, seed: int, batch: int | None = None) -> Any:
        return self.inputs_of(seed)

    def losses(self, inputs: Any, sums: Sums | None = None) -> Iterator[Losses]:
        yield from self.losses_of(inputs)

    def _losses(self, piece: Any, sums: Sums | None) -> Losses:
        raise NotImplementedError
