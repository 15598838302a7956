"""Which backbone answers: the one whose frames the alias `live` stands for (docs/reindex.md).

When the alias moves, the other backbone is loaded while the present one answers; then all new requests get the new
parts at once, and those under way end on the old ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from services.query.parts import Parts
from services.query.spaces import Collections
from shared.errors import IndexUnavailableError, SimilisError
from shared.settings import AnotherBackbone, VisionSettings
from shared.vector_index import collection_name
from shared.vector_index.aliases import LIVE_ALIAS
from shared.vector_index.port import Aliases
from shared.vision.weights import backbone_id

log = logging.getLogger(__name__)

Exchange = Callable[[VisionSettings, Parts], Awaitable[Parts]]
"""Parts that are the same but for the backbone, which is loaded for them."""


class HoldsParts(Protocol):
    """Where the routes find their parts: `app.state`."""

    parts: Parts | None


@dataclass(slots=True)
class LiveBackbone:
    """Follows the alias.

    Attributes:
        aliases: Those of the index.
        known: Backbones that may be loaded, by their collection of frames.
        current: The collection that is searched.
        poll_s: The alias is looked at this often.
    """

    aliases: Aliases
    known: Mapping[str, VisionSettings]
    current: str
    poll_s: float
    _default: str = field(init=False)
    _given_up: str | None = None
    _retired: list[Collections] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._default = self.current

    def choose(self) -> VisionSettings:
        """The backbone to start with; the configured one while the index does not answer. May block."""
        try:
            wanted = self.aliases.get(LIVE_ALIAS)
        except IndexUnavailableError:
            wanted = None
        if wanted in self.known:
            self.current = wanted
        elif wanted is not None:
            self._give_up(wanted, "it is not among SIMILIS_VISION__* and SIMILIS_QUERY__BACKBONES")
        return self.known[self.current]

    async def follow(self, state: HoldsParts, exchange: Exchange) -> None:
        """Exchange the parts whenever the alias moves; until it is cancelled."""
        while True:
            await asyncio.sleep(self.poll_s)
            try:
                await self.look(state, exchange)
            except IndexUnavailableError as error:
                log.warning("the live backbone is not known just now: %s", error)

    async def look(self, state: HoldsParts, exchange: Exchange) -> None:
        """Look once.

        Raises:
            IndexUnavailableError: the index did not answer.
        """
        wanted = await asyncio.to_thread(self.aliases.get, LIVE_ALIAS) or self._default
        if wanted == self.current:
            self._given_up = None
            return
        old = state.parts
        if wanted == self._given_up or old is None:
            return
        if wanted not in self.known:
            self._give_up(wanted, "it is not among SIMILIS_VISION__* and SIMILIS_QUERY__BACKBONES")
            return
        log.info("%s is live now: its backbone is being loaded", wanted)
        try:
            state.parts = await exchange(self.known[wanted], old)
        except IndexUnavailableError:
            raise
        except SimilisError as error:
            self._give_up(wanted, str(error))
            return
        # Requests under way still search them; a connection is all that they hold.
        self._retired.append(old.collections)
        self.current, self._given_up = wanted, None
        log.info("searches go to %s (research use only)", wanted)

    def close(self) -> None:
        """Release connections."""
        for collections in self._retired:
            collections.close()
        self.aliases.close()

    def _give_up(self, wanted: str, reason: str) -> None:
        self._given_up = wanted
        log.error("the index wants %s searched, which cannot be: %s. Searches go to %s", wanted, reason, self.current)


def follow_live(
    aliases: Aliases, vision: VisionSettings, others: tuple[AnotherBackbone, ...], poll_s: float
) -> LiveBackbone:
    """What follows the alias among the configured backbone and others. Reads weights to know their ids: may block.

    Raises:
        WeightsError: some are missing, or not the pinned ones.
    """
    configured = collection_name(backbone_id(vision))
    settings = [other.settings(vision) for other in others]
    known = {collection_name(backbone_id(one)): one for one in settings}
    return LiveBackbone(aliases, {**known, configured: vision}, configured, poll_s)
