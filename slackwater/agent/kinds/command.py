"""Kind `command`: a program quiesces the application, another resumes it.

Both get what VVR's scripts get: disk group, RVG, task name, and the RLINKs in one word with spaces
between; group and RVG are the same here. The resume program may be run more than once, and without
a quiesce before it: what dies midway is run again, and a quiesce that failed is undone.
"""

from slackwater.agent.keeper import Request
from slackwater.agent.kinds.kind import Patience, Resumption, Undo
from slackwater.agent.kinds.program import Program, end_unfinished

HOLD_VARIABLE = "SLACKWATER_HOLD_ID"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Command:
    """A pair of programs."""

    name = "command"

    def __init__(
        self, group: str, application: str, quiesce: str, resume: str, resume_seconds: float
    ) -> None:
        """Name them by absolute paths; `resume_seconds` bounds the resume."""
        self._group, self._application = group, application
        self._quiesce, self._resume = quiesce, resume
        self._resume_seconds = resume_seconds

    def check(self) -> None:
        """Both can be run and are nobody else's."""
        for path in (self._quiesce, self._resume):
            Program(path, (), {}).check()

    def undo(self, request: Request) -> Undo | None:
        """Run the resume program."""
        program = self._program(self._resume, request, "")
        return {
            "kind": self.name,
            "quiesce": self._quiesce,
            "path": program.path,
            "arguments": list(program.arguments),
            "environment": dict(program.environment),
            "seconds": self._resume_seconds,
        }

    def hold(self, request: Request, patience: Patience) -> str:
        """Run the quiesce program; its output is the evidence."""
        return self._program(self._quiesce, request, "").run(patience)

    def resume(self, request: Request, message: str, patience: Patience) -> Resumption:
        """Run the resume program; its output is the evidence."""
        return Resumption(True, self._program(self._resume, request, message).run(patience))

    def forget(self) -> None:
        """Nothing was kept."""

    def _program(self, path: str, request: Request, message: str) -> Program:
        task = request.task.removeprefix("tasks/")
        links = " ".join(request.links)
        environment = {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "SLACKWATER_GROUP": self._group,
            "SLACKWATER_APPLICATION": self._application,
            "SLACKWATER_TASK": task,
            HOLD_VARIABLE: request.hold_id,
            "SLACKWATER_MESSAGE_ID": message.rpartition("/")[2],
            "SLACKWATER_POSITION": "",
            "SLACKWATER_SNAPSHOT": "",
            "SLACKWATER_LINK": links,
        }
        arguments = (self._group, self._group, task or request.application, links)
        return Program(path, arguments, environment)


class RunResume:
    """The resume program, run by another process."""

    def __init__(self, undo: Undo) -> None:
        self._quiesce = str(undo["quiesce"])
        self._program = Program(undo["path"], undo["arguments"], undo["environment"])
        self._hold_id = str(undo["environment"][HOLD_VARIABLE])
        self._seconds = float(undo["seconds"])

    def run(self) -> str:
        """End a quiesce that the agent left running, then run it, and say so."""
        end_unfinished(self._quiesce, HOLD_VARIABLE, self._hold_id)
        printed = self._program.run(Patience(self._seconds))
        return f"ran {self._program.path}{': ' if printed else ''}{printed}"
