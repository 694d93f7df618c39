"""`slackwater attach`: volumes as mounted file systems, for as long as the command runs."""

import contextlib
import enum
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from slackwater.attach.attachment import Attachment, Plan
from slackwater.attach.system import AttachError
from slackwater.attach.ways import NBD_PORT, Export, Way, choose
from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.commands.agent import LogFormat, LogLevel
from slackwater.cli.failure import EXIT_FAILED, EXIT_PRECONDITION, Failure, usage
from slackwater.cli.session import Session
from slackwater.runtime import logs
from slackwater.v1 import primary_pb2

STATE = Path("/run/slackwater/attach")
LOOK_SECONDS = 0.5
AGENT_SECONDS = 40.0


class Make(enum.StrEnum):
    """A file system that can be made."""

    EXT4 = "ext4"
    XFS = "xfs"


def add_to(root: typer.Typer) -> None:
    """Add the command."""
    example = "slackwater attach demo/data=/srv/data --make ext4 --agent files"
    command(root, "attach", example)(attach)


def attach(
    session: Session,
    volumes: Annotated[
        list[str],
        typer.Argument(
            help="Which volume is mounted where; may be repeated.",
            metavar="GROUP/VOLUME=PATH",
            envvar="SLACKWATER_VOLUMES",
        ),
    ],
    via: Annotated[
        Way,
        typer.Option(help="The kernel's NBD client, or FUSE and a loop device."),
    ] = Way.AUTO,
    nbd: Annotated[
        str | None,
        typer.Option(
            help="Where the Primary serves NBD. [its host, port 10809]", metavar="HOST:PORT"
        ),
    ] = None,
    make: Annotated[
        Make | None,
        typer.Option(help="Make this file system where there is nothing at all."),
    ] = None,
    owner: Annotated[
        str,
        typer.Option(help="Of the root directory of one that is made.", metavar="UID:GID"),
    ] = "",
    options: Annotated[
        str, typer.Option("--mount-options", help="For mount.", metavar="OPTIONS")
    ] = "",
    read_only: Annotated[bool, typer.Option("--read-only", help="Write nothing.")] = False,
    patience: Annotated[
        str,
        typer.Option(
            help="How long an I/O waits for a Primary that is away, by FUSE.", metavar="DURATION"
        ),
    ] = "1h",
    leave: Annotated[
        str,
        typer.Option(help="How long the end waits for who still uses a path.", metavar="DURATION"),
    ] = "20s",
    agent: Annotated[
        str | None,
        typer.Option(
            help="Run an agent of this application beside it, which freezes the paths.",
            metavar="APP",
        ),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="A file that is there while everything is attached.", metavar="FILE"),
    ] = None,
    state_dir: Annotated[
        Path, typer.Option(help="Where it records what it attached.", metavar="DIRECTORY")
    ] = STATE,
    log_level: Annotated[LogLevel, typer.Option(help="Least severity.")] = LogLevel.INFO,
    log_format: Annotated[LogFormat, typer.Option(help="Form of the log.")] = LogFormat.TEXT,
) -> None:
    """Attach volumes and mount them until SIGTERM, which undoes it in order.

    A restart of the Primary is an I/O pause. What a killed attach left is undone at the next start.
    """
    seconds = words.parse_duration(patience, "--patience")
    of_made = _owner(owner, make)
    leave_seconds = words.parse_duration(leave, "--leave")
    if os.geteuid() != 0:
        raise Failure("attach needs root: it mounts", EXIT_PRECONDITION, next_step="use sudo")
    logs.configure(log_level.value, log_format.value)
    log = logs.get("attach")
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)  # a killed one left it
    with contextlib.ExitStack() as stack, _explained():
        way = choose(via)
        certificates = _certificates(session, state_dir)
        host, port = _address(session, nbd)
        pairs = [_pair(text) for text in volumes]
        plans = [
            Plan(
                volume,
                Export(host, port, _export_name(session, volume), certificates),
                where,
                way,
                make.value if make else "",
                of_made,
                options,
                read_only,
                seconds,
            )
            for volume, where in pairs
        ]
        attached = [Attachment(plan, state_dir) for plan in plans]
        for one in attached:
            kind = one.attach()
            stack.callback(_detach, one, leave_seconds)
            path = one.plan.where
            log.info("attached", volume=one.plan.volume, path=path, device=one.device, kind=kind)
        beside = stack.enter_context(_agent(session, agent, attached)) if agent else None
        if ready_file is not None:
            stack.callback(ready_file.unlink, missing_ok=True)
            ready_file.touch()
        while not ending.wait(LOOK_SECONDS):
            if beside is not None and beside.poll() is not None:
                raise Failure(f"the agent ended with {beside.returncode}", EXIT_FAILED)
            for one in attached:
                problem = one.problem()
                if problem:
                    raise Failure(f"{one.plan.volume}: {problem}", EXIT_FAILED)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except AttachError as error:
        raise Failure(
            str(error), EXIT_PRECONDITION, "FAILED_PRECONDITION", "CANNOT_ATTACH",
            next_step=error.next_step,
        ) from error  # fmt: skip


def _detach(one: Attachment, leave_seconds: float) -> None:
    log = logs.get("attach")
    if one.detach(leave_seconds):
        log.info("detached", volume=one.plan.volume)
    else:
        log.warning("detached while in use", volume=one.plan.volume, path=one.plan.where)


def _pair(text: str) -> tuple[str, Path]:
    volume, equals, where = text.partition("=")
    if not equals or volume.count("/") != 1 or not where.startswith("/"):
        raise usage(
            f"{text!r} is no GROUP/VOLUME=PATH", "for example demo/data=/srv/data", "volumes"
        )
    return volume, Path(where)


def _owner(text: str, make: Make | None) -> tuple[int, int] | None:
    if not text:
        return None
    user, _, group = text.partition(":")
    if not (user.isdecimal() and group.isdecimal()):
        raise usage(f"--owner: {text!r} is no UID:GID", "for example --owner 999:999", "--owner")
    if make is None:
        raise usage(
            "--owner is of a file system that is made", "give --make too, or chown it", "--owner"
        )
    return int(user), int(group)


def _export_name(session: Session, volume: str) -> str:
    """What the volume is called over NBD; one that is not there is found out here."""
    group, name = volume.split("/")
    request = primary_pb2.GetVolumeRequest(name=f"{words.group_name(group)}/volumes/{name}")
    answer = session.call("primary", session.primary.GetVolume, request)
    return answer.volume.name


def _address(session: Session, nbd: str | None) -> tuple[str, int]:
    text = nbd or f"{session.context.address('primary').rpartition(':')[0]}:{NBD_PORT}"
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise usage(f"--nbd: {text!r} is no host:port", "for example --nbd 10.0.0.1:10809", "--nbd")
    return host.strip("[]"), int(port)


def _certificates(session: Session, state: Path) -> Path | None:
    """The files of the session under the names that libnbd and GnuTLS look for; None: no TLS."""
    files = session.context.tls()
    if files is None:
        return None
    directory = state / "certificates"
    directory.mkdir(parents=True, exist_ok=True)
    for name, file in (
        ("ca-cert.pem", files.authority),
        ("client-cert.pem", files.certificate),
        ("client-key.pem", files.key),
    ):
        link = directory / name
        link.unlink(missing_ok=True)
        link.symlink_to(Path(file).absolute())
    return directory


@contextlib.contextmanager
def _agent(
    session: Session, application: str, attached: list[Attachment]
) -> Iterator[subprocess.Popen[bytes]]:
    """An agent that freezes the mount points; it ends, and thaws, before they are unmounted."""
    groups = {one.plan.volume.split("/")[0] for one in attached}
    if len(groups) > 1:
        raise usage("--agent is for volumes of one group", "attach them apart", "--agent")
    files = session.context.tls()
    tls = []
    if files is not None:
        tls = ["--tls-cert", files.certificate, "--tls-key", files.key, "--tls-ca", files.authority]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "slackwater.cli", "agent", "run",
            "--primary", session.context.address("primary"), *map(str, tls),
            "--group", groups.pop(), "--application", application,
            "fsfreeze", *(str(one.plan.where) for one in attached),
        ],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # so that ^C reaches it only through us, before the unmount
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(AGENT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
