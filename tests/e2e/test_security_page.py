"""The commands of docs/security.md in their order, against services that use their files."""

import re
import subprocess
from pathlib import Path

import pytest

from demo.sites import Sites
from slackwater.runtime.tls import TlsFiles
from tests.support.processes import wait_until
from tests.support.secured import flags
from tests.support.tools import require
from tests.support.typed import Typed

pytestmark = pytest.mark.timeout(180)

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text()
ISSUE, USE, NBD, ROTATE, AUTHORITY = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)


class Shell:
    """Runs blocks of the page in one directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.environment: dict[str, str] | None = None

    def __call__(self, block: str) -> str:
        done = subprocess.run(
            ["bash", "-eu", "-c", block],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def files(self, name: str) -> TlsFiles:
        where = self.directory
        return TlsFiles(where / f"{name}.pem", where / f"{name}.key", where / "ca.pem")


def test_the_commands_of_the_page_run_as_they_stand(tmp_path: Path) -> None:
    for tool in ("openssl", "nbdinfo"):
        require(tool)
    shell = Shell(tmp_path / "pki")
    shell(ISSUE)
    arguments = {role: flags(shell.files(role)) for role in ("primary", "secondary", "snapshot")}
    with Sites(tmp_path, arguments=arguments) as sites:
        sites.start()
        typed = Typed(sites)
        shell.environment = {**typed.environment, "NBD": sites.primary.endpoints.nbd}
        shell(USE)

        def is_streaming() -> bool:
            return "STREAMING" in shell("slackwater link get demo/site-b --output json")

        wait_until("the link streams", is_streaming)
        assert "export-size: 16777216" in shell(NBD)
        erp = " ".join(flags(shell.files("erp")))
        assert "every group" in shell(f"! slackwater group list {erp} 2>&1")  # it holds a few
        assert "demo" in shell(f"slackwater group get demo {erp}")
        functions = ISSUE[ISSUE.index("issue() {") : ISSUE.index("\nissue primary")]
        before = shell("openssl x509 -noout -serial -in primary.pem")
        served = shell(f"{functions}\n{ROTATE}")
        assert (
            served.splitlines()[-1] == shell("openssl x509 -noout -serial -in primary.pem").strip()
        )
        assert served.splitlines()[-1] != before.strip()
        sites.secondary.restart(kill=True)  # the Primary dials with its new certificate
        wait_until("the link streams again", is_streaming)
        shell(AUTHORITY)
        newer = functions.replace("-CA ca.pem", "-CA new-ca.pem")
        shell(f"{newer}\nissue operator operator.example slackwater://role/operate")
        assert "demo" in shell("slackwater group list")  # by the new authority, without a restart
