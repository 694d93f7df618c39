"""A holder of leases: takes messages, beats, falls silent, hangs up, comes back, lets go."""

from typing import TYPE_CHECKING

from slackwater import errors
from slackwater.apply.replica import Replica
from slackwater.ibc.actions import Answer, Delivered, EndHold
from slackwater.ibc.messages import Behaviour, VerdictState
from tests.simulation.plan import APPLICATION

if TYPE_CHECKING:
    from tests.simulation.world import World

ENDS = (
    VerdictState.UNFROZEN,
    VerdictState.LEASE_LOST,
    VerdictState.FREEZE_TIMED_OUT,
    VerdictState.FREEZE_LOG_LIMIT,
    VerdictState.LINK_DETACHED,
)


class Holder:
    """One lease of the replica's present life."""

    def __init__(self, world: "World", replica: Replica, name: str, message_id: str) -> None:
        self._world, self._replica, self._name = world, replica, name
        self._message_id = message_id
        self._is_over = self._is_silent = False
        secondary = world.secondary
        assert secondary is not None
        self._life = secondary.life
        try:
            self._receiver = replica.hold(APPLICATION, name, message_id, self._told)
        except (errors.FailedPrecondition, errors.GroupFailed, OSError) as error:
            world.mark(f"hold refused {getattr(error, 'reason', 'no room')}")
            return
        self._beat()

    def _beat(self) -> None:
        if self._is_over or self._world.replica is not self._replica:
            return
        self._replica.heartbeat(self._receiver)
        if self._world.sim.chance(0.1):
            self._world.mark("holder falls silent")
            self._is_silent = True
            return
        if self._world.sim.chance(0.05):
            self._world.mark("holder hangs up")
            self._replica.cancel_receive(self._receiver)
            return
        self._world.sim.after(1.0, self._life, self._beat)

    def _told(self, news: Answer | EndHold) -> None:
        world = self._world
        if world.replica is not self._replica:
            return
        match news:
            case Answer(delivered=Delivered() as delivered):
                self._has(delivered)
            case EndHold(verdict=verdict) if verdict is not None:
                self._is_over = True
                assert verdict.state in ENDS, f"a freeze ended as {verdict.state}"
                world.mark(f"lease ended {verdict.state.value}")
                final = [row for row in self._replica.verdicts_of(self._message_id) if row.final]
                assert [row.state for row in final] == [verdict.state.value], "told, not durable"
                if world.leased == self._message_id:
                    world.leased = ""
            case _:
                self._is_over = True

    def _has(self, delivered: Delivered) -> None:
        world, message = self._world, delivered.message
        if message.behaviour is not Behaviour.FREEZE:
            self._is_over = True
        else:
            assert self._message_id in ("", message.message_id), "came back to another message"
            self._message_id = world.leased = message.message_id
            world.sim.after(world.sim.rng.choice((0.1, 3.0, 9.0)), self._life, self._let_go)
        world.handed(self._replica, delivered, self._name)

    def _let_go(self) -> None:
        if not (self._is_over or self._is_silent) and self._world.replica is self._replica:
            try:
                self._replica.release_hold(self._receiver)
            except (errors.GroupFailed, OSError):
                self._world.mark("lease let go without room")
