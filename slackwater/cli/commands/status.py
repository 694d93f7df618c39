"""`slackwater status`: everything on one screen, and what could not be seen."""

import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import grpc
import typer

from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.commands import restore
from slackwater.cli.commands.group import state as group_state
from slackwater.cli.commands.link import replica_state
from slackwater.cli.commands.link import state as link_state
from slackwater.cli.commands.replica import freeze_rows, snapshots_kept
from slackwater.cli.contexts import ROLES
from slackwater.cli.failure import EXIT_NOT_REACHABLE, Failure
from slackwater.cli.screen import Screen, as_dict
from slackwater.cli.session import Session
from slackwater.v1 import primary_pb2, resources_pb2, secondary_pb2, snapshot_pb2

PATIENCE_SECONDS = 5.0
_INDENT = 2


@dataclass
class Picture:
    """What the three services said, and why those that did not say anything did not.

    Attributes:
        answers: What each role said, with the time when it did.
        failures: Why the others did not.
    """

    answers: dict[str, tuple[Any, float]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    def answer(self, role: str) -> Any:
        """What a role said; None if nothing."""
        return self.answers[role][0] if role in self.answers else None


def add_to(root: typer.Typer) -> None:
    """Add the command."""
    command(root, "status", "slackwater status")(status)


def status(
    session: Session,
    group: Annotated[str | None, typer.Argument(help="Only this group.", metavar="GROUP")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again every second; Ctrl-C ends.")
    ] = False,
) -> None:
    """Show groups, links, replicas and freezes on one screen, and which services are missing.

    Ends with 3 if a service could not be reached; what the others know is shown all the same.
    """
    name = words.group_name(group) if group else ""
    while True:
        picture = _look(session, name)
        if watch and session.screen.is_terminal:
            session.screen.console.clear()
        _show(session, picture)
        if not watch:
            break
        time.sleep(1.0)
    _refuse_if_nothing(picture, group)
    if picture.failures:
        raise typer.Exit(EXIT_NOT_REACHABLE)


def _look(session: Session, group: str) -> Picture:
    """Ask all three at once."""
    patience = min(session.timeout_seconds, PATIENCE_SECONDS)
    calls: dict[str, Any] = {
        "primary": session.primary.GetStatus.future(
            primary_pb2.PrimaryServiceGetStatusRequest(group=group), timeout=patience
        ),
        "secondary": session.secondary.GetStatus.future(
            secondary_pb2.SecondaryServiceGetStatusRequest(group=group), timeout=patience
        ),
        "snapshot": session.snapshot.GetStatus.future(
            snapshot_pb2.SnapshotServiceGetStatusRequest(), timeout=patience
        ),
    }
    picture = Picture()
    for role, call in calls.items():
        try:
            picture.answers[role] = (call.result(), time.time())
        except grpc.RpcError as error:
            failure = session.failure(error, role, extra_seconds=patience - session.timeout_seconds)
            picture.failures[role] = failure
    return picture


def _refuse_if_nothing(picture: Picture, group: str | None) -> None:
    """A group that none of the services that answered knows is an error, not an empty screen."""
    if group is None or not picture.failures:
        return
    missing = [row for row in picture.failures.values() if row.code == "NOT_FOUND"]
    if missing and not (picture.answer("primary") or picture.answer("secondary")):
        raise missing[0]
    for role in [role for role, row in picture.failures.items() if row.code == "NOT_FOUND"]:
        del picture.failures[role]


def _show(session: Session, picture: Picture) -> None:
    screen = session.screen
    if screen.is_json:
        screen.json(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "services": [_service_json(session, picture, role) for role in ROLES],
                **{
                    role: as_dict(answer) if (answer := picture.answer(role)) is not None else None
                    for role in ROLES
                },
            }
        )
        return
    _show_services(session, picture)
    primary = picture.answer("primary")
    secondary = picture.answer("secondary")
    replicas = {row.name: row for row in secondary.replicas} if secondary else {}
    now = time.time()
    shown = set()
    for group in primary.groups if primary else ():
        shown.add(group.group.name)
        _show_group(screen, group, now)
        _show_replica(screen, replicas.get(group.group.name), now)
    for name, replica in replicas.items():
        if name not in shown:
            screen.line()
            screen.line((f"GROUP {words.last(name)}", "bold"), "  on its Secondary only")
            _show_replica(screen, replica, now)
    if primary and secondary and not primary.groups and not replicas:
        screen.line()
        screen.line("There are no groups yet.")
        screen.next_step("slackwater group create demo")
    _show_runs(screen, picture.answer("snapshot"), now)


def _service_json(session: Session, picture: Picture, role: str) -> dict[str, object]:
    failure = picture.failures.get(role)
    return {
        "service": role,
        "endpoint": session.context.address(role),
        "reachable": failure is None or _state_of(failure) != "UNREACHABLE",
        "problem": failure.message if failure else "",
        "nextStep": failure.next_step if failure else "",
    }


def _show_services(session: Session, picture: Picture) -> None:
    rows = []
    for role in ROLES:
        answer, failure = picture.answer(role), picture.failures.get(role)
        if answer is not None:
            about = [f"version {answer.version}", f"up {words.duration(answer.uptime)}"]
            if role == "snapshot":
                about += [_peer("primary", answer.primary), _peer("secondary", answer.secondary)]
            elif answer.site:
                about.append(f"site {answer.site}")
            rows.append((role, session.context.address(role), "ok", ", ".join(about)))
        else:
            assert failure is not None, "a service answered or failed"
            word = _state_of(failure)
            why = failure.message.rpartition(": ")[2] if failure.reason == "NOT_REACHABLE" else ""
            rows.append((role, session.context.address(role), word, why or failure.message))
    session.screen.table(("service", "endpoint", "state", "about"), rows)
    for role, failure in picture.failures.items():
        if failure.code != "NOT_FOUND":
            session.screen.line(
                ("next:  ", "dim"), f"{role}: ", (failure.next_step or failure.message, "cyan")
            )


def _state_of(failure: Failure) -> str:
    """What a service that gave no picture is, in one word."""
    if failure.code == "NOT_FOUND":
        return "ok"
    return "UNREACHABLE" if failure.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") else "FAILED"


def _peer(role: str, peer: snapshot_pb2.PeerStatus) -> str:
    if peer.reachable:
        return f"sees {role}"
    last = f"last {words.duration(peer.age)} ago" if peer.HasField("age") else "never"
    return f"{role} UNREACHABLE ({last})"


def _show_group(screen: Screen, row: primary_pb2.GroupStatus, now: float) -> None:
    group, log = row.group, row.log
    screen.line()
    about = [
        f"durable {words.position(group.durable)}",
        f"log {words.percent(log.used_bytes, log.capacity_bytes)}"
        f" of {words.size(log.capacity_bytes)}",
        _count(row.nbd_connections, "NBD client"),
        _count(row.pending_messages, "pending message"),
    ]
    screen.line(
        (f"GROUP {words.last(group.name)}", "bold"),
        "  ",
        (group_state(group), "green" if group_state(group) == "READY" else "bold red"),
        "  ",
        ", ".join(about),
    )
    rows = [
        ("reason", group.state_reason),
        (
            "volumes",
            words.listed(
                f"{words.last(volume.name)} {words.size(volume.size_bytes)}"
                for volume in row.volumes
            ),
        ),
        ("apps", words.listed(row.applications)),
        (
            "fence",
            f"writes held back for {words.duration(row.fence_held)}"
            if row.HasField("fence_held")
            else "",
        ),
        ("restore", restore.progress(row.restore) if row.HasField("restore") else ""),
    ]
    screen.facts(rows, indent=_INDENT)
    if row.links:
        screen.table(
            ("link", "state", "replica", "lag", "behind", "apply", "its log", "heard"),
            [_link_row(link, now) for link in row.links],
            indent=_INDENT,
        )
    else:
        screen.facts([("links", "none: nothing is replicated")], indent=_INDENT)
        screen.next_step(
            f"slackwater link create {words.last(group.name)}/site-b --endpoint HOST:PORT"
        )
    for link in row.links:
        if link.state_reason:
            screen.line(" " * _INDENT, f"{words.last(link.name)}: {link.state_reason}")


def _link_row(link: resources_pb2.Link, now: float) -> tuple[str, ...]:
    log = link.secondary_log
    return (
        words.last(link.name),
        link_state(link),
        replica_state(link.replica_state),
        words.size(link.lag_bytes),
        words.duration(link.lag),
        words.duration(link.apply_lag),
        words.percent(log.used_bytes, log.capacity_bytes),
        words.age(link.heard_time, now),
    )


def _show_replica(screen: Screen, replica: resources_pb2.Replica | None, now: float) -> None:
    if replica is None:
        return
    log = replica.log
    state = replica_state(replica.state)
    about = [
        f"{state} at {words.position(replica.applied)}",
        f"durable {words.position(replica.durable)}",
        f"backlog {words.size(replica.backlog_bytes)}",
        f"log {words.percent(log.used_bytes, log.capacity_bytes)}"
        f" of {words.size(log.capacity_bytes)}",
        f"snapshots {snapshots_kept(replica)}",
        ("" if replica.connected else "NOT CONNECTED, ")
        + f"heard {words.age(replica.heard_time, now)}",
    ]
    rows = [("replica", ", ".join(about)), ("reason", replica.state_reason)]
    if replica.HasField("sync"):
        sync = replica.sync
        rows.append(
            (
                "sync",
                f"{words.size(sync.done_bytes)} of {words.size(sync.total_bytes)}"
                f" ({words.percent(sync.done_bytes, sync.total_bytes)})",
            )
        )
    screen.facts(rows, indent=_INDENT)
    if replica.HasField("freeze"):
        screen.facts(freeze_rows(replica.freeze, now), indent=2 * _INDENT)
        if replica.freeze.next_command:
            screen.line(
                " " * 2 * _INDENT, ("next:  ", "dim"), (replica.freeze.next_command, "bold cyan")
            )


def _show_runs(
    screen: Screen, answer: snapshot_pb2.SnapshotServiceGetStatusResponse | None, now: float
) -> None:
    if answer is None or not answer.runs:
        return
    screen.line()
    screen.table(
        ("run", "group", "state", "step", "since"),
        [
            (
                words.last(run.name),
                words.last(run.group),
                words.word(snapshot_pb2.Run.State.Name(run.state), "STATE_"),
                run.steps[-1].step if run.steps else "-",
                words.age(run.create_time, now),
            )
            for run in answer.runs
        ],
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
