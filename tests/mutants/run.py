"""Show that the tests go red: `python -m tests.mutants.run [part of a name ...]`.

Copies the tree, sees each named test green, then breaks one promise at a time in the copy and
expects that promise's test to fail. Exit code 1 if a mutant lives. Not collected by pytest.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants.budget import BUDGET
from tests.mutants.catalogue import MUTANTS, Mutant
from tests.mutants.checks import CHECKS
from tests.mutants.clones import CLONES
from tests.mutants.index import INDEX
from tests.mutants.restores import RESTORES
from tests.mutants.space import SPACE
from tests.mutants.tasks import TASKS
from tests.mutants.times import TIMES

ROOT = Path(__file__).parents[2]
PARTS = ("slackwater", "services", "demo", "tests", "pyproject.toml")
TEST_SECONDS = 300
PASSED, FAILED = 0, 1
ALL = MUTANTS + BUDGET + CHECKS + CLONES + INDEX + RESTORES + SPACE + TASKS + TIMES


def run(tree: Path, tests: list[str]) -> tuple[int, str]:
    """Run tests of a tree; pytest's exit code and what it said."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--show-capture=no", "--tb=line"]
    command += ["-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}", *tests]
    done = subprocess.run(
        command,
        cwd=tree,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def verdict(tree: Path, mutant: Mutant) -> str:
    """Break the promise in the copy, run its test, mend it again; what is wrong, or nothing."""
    module = tree / mutant.module
    whole = module.read_text()
    if whole.count(mutant.text) != 1:
        return f"its text is there {whole.count(mutant.text)} times"
    module.write_text(whole.replace(mutant.text, mutant.replacement))
    try:
        code, said = run(tree, [mutant.test])
    finally:
        module.write_text(whole)
    if code == FAILED:
        return ""
    return "LIVES" if code == PASSED else f"pytest ended with {code}\n{said}"


def main(wanted: list[str]) -> int:
    """Run the mutants whose names hold one of the words, or all."""
    mutants = [one for one in ALL if not wanted or any(word in one.name for word in wanted)]
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        tree = Path(directory)
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, tree / part)
        code, said = run(tree, sorted({mutant.test for mutant in mutants}))
        if code != PASSED:
            print(f"the tests are not green to begin with\n{said}")
            return 1
        for mutant in mutants:
            problem = verdict(tree, mutant)
            wrong += bool(problem)
            print(f"{'ok  ' if not problem else 'BAD '} {mutant.name} {problem}", flush=True)
    print(f"{len(mutants) - wrong} of {len(mutants)} mutants die")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
