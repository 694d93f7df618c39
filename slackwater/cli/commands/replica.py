"""`slackwater replica`: the copies of groups on a Secondary."""

import time
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command, confirm
from slackwater.cli.commands import replica_budget
from slackwater.cli.commands.group import DryRun, Yes
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.commands.link import replica_state
from slackwater.cli.session import Session
from slackwater.v1 import primary_pb2, resources_pb2, secondary_pb2

app = typer.Typer(
    help="Look at and remove the copies that a Secondary keeps.", no_args_is_help=True
)

Orphans = Annotated[
    bool,
    typer.Option(
        "--orphans", help="Only those that no stream feeds and no link of the Primary leads to."
    ),
]


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    replica_budget.add_to(app)
    root.add_typer(app, name="replica")


@command(app, "list", "slackwater replica list --orphans")
def list_replicas(session: Session, orphans: Orphans = False) -> None:
    """List the replicas of the Secondary."""
    replicas = session.pages(
        "secondary", session.secondary.ListReplicas, secondary_pb2.ListReplicasRequest(), "replicas"
    )
    nothing = "there are no replicas; a Primary makes one when a link is attached to it"
    if orphans:
        fed = _fed_groups(session)
        replicas = [one for one in replicas if not one.connected and one.group_uid not in fed]
        nothing = "there are no orphans; every replica has a group with a link on the Primary"
    rows = [
        (
            words.last(replica.name),
            replica_state(replica.state),
            words.position(replica.durable),
            words.position(replica.applied),
            words.size(replica.backlog_bytes),
            words.percent(replica.log.used_bytes, replica.log.capacity_bytes),
            str(replica.snapshot_count),
            "yes" if replica.connected else "no",
        )
        for replica in replicas
    ]
    session.screen.listing(
        "replicas",
        replicas,
        ("group", "state", "durable", "applied", "backlog", "log", "snapshots", "connected"),
        rows,
        nothing,
    )


def _fed_groups(session: Session) -> set[str]:
    """Return the uids of the Primary's groups that have a link."""
    answer = session.call(
        "primary", session.primary.GetStatus, primary_pb2.PrimaryServiceGetStatusRequest()
    )
    return {row.group.uid for row in answer.groups if row.links}


@command(app, "get", "slackwater replica get demo")
def get(session: Session, group: Group) -> None:
    """Show one replica."""
    request = secondary_pb2.GetReplicaRequest(name=words.group_name(group))
    answer = session.call(
        "secondary", session.secondary.GetReplica, request, hint="slackwater replica list"
    )
    _show(session, answer.replica)


@command(app, "delete", "slackwater replica delete demo --dry-run")
def delete(session: Session, group: Group, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a replica with its log, volumes and snapshots; says first what would be lost."""
    name = words.group_name(group)
    request = secondary_pb2.DeleteReplicaRequest(name=name, validate_only=True)
    hint = "slackwater replica list"
    answer = session.call("secondary", session.secondary.DeleteReplica, request, hint=hint)
    if not confirm(session, list(answer.losses), f"replica {words.last(name)}", yes, dry_run):
        return
    request.validate_only = False
    answer = session.call("secondary", session.secondary.DeleteReplica, request, hint=hint)
    session.screen.removed(f"replica {words.last(name)}", answer.losses)


def freeze_rows(freeze: resources_pb2.Freeze, now: float) -> list[tuple[str, str]]:
    """What is to be known of a freeze."""
    phase = words.word(resources_pb2.Freeze.Phase.Name(freeze.phase), "PHASE_")
    ends = (
        f"{words.clock(freeze.deadline)}, in {words.duration(freeze.remaining)}"
        if freeze.HasField("remaining")
        else "never by itself"
    )
    return [
        ("stands at", f"{words.position(freeze.position)}, message {freeze.message}"),
        ("waits for", f"{_WAITS.get(phase, phase)} (application {freeze.application})"),
        ("holder", freeze.holder),
        (
            "since",
            f"{words.clock(freeze.since)}, {words.age(freeze.since, now)}",
        ),
        ("ends", ends),
        ("backlog", f"{words.size(freeze.backlog_bytes)} received and not applied"),
    ]


_WAITS = {
    "UNREGISTERED": "the application to be registered here",
    "AWAITING_RECEIVER": "a receiver",
    "FROZEN": "the unfreeze",
}


def snapshots_kept(replica: resources_pb2.Replica) -> str:
    """How many snapshots there are, what they keep, and where that is in their budget."""
    kept = f"{replica.snapshot_count}, {words.size(replica.snapshot_bytes)}"
    if not replica.HasField("snapshot_budget"):
        return kept
    budget = replica.snapshot_budget
    state = words.word(resources_pb2.SnapshotBudget.State.Name(budget.state), "STATE_")
    return f"{kept} of {words.size(budget.limit_bytes)} ({state})"


def _show(session: Session, replica: resources_pb2.Replica) -> None:
    now = time.time()
    log = replica.log
    rows = [
        ("name", replica.name),
        ("state", replica_state(replica.state)),
        ("reason", replica.state_reason),
        ("group uid", replica.group_uid),
        ("epoch", str(replica.epoch)),
        ("durable", words.position(replica.durable)),
        ("applied", words.position(replica.applied)),
        ("backlog", words.size(replica.backlog_bytes)),
        ("apply lag", words.duration(replica.apply_lag)),
        ("log", f"{words.percent(log.used_bytes, log.capacity_bytes)} used"),
        (
            "volumes",
            words.listed(
                f"{words.last(volume.name)} {words.size(volume.size_bytes)}"
                for volume in replica.volumes
            ),
        ),
        ("snapshots", snapshots_kept(replica)),
        ("connected", "yes" if replica.connected else "no"),
        ("heard", words.age(replica.heard_time, now)),
    ]
    if replica.HasField("freeze"):
        rows += freeze_rows(replica.freeze, now)
    session.screen.resource(replica, rows)
    if replica.HasField("freeze") and replica.freeze.next_command and not session.screen.is_json:
        session.screen.next_step(replica.freeze.next_command)
