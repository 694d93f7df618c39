"""Generates `slackwater/v1` from `protos/`, or checks that what is committed is what would be made.

The folder under `protos/` is the proto package and the Python package, so the generated imports
are right as they come out of the compiler.
"""

import argparse
import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path("protos")
PACKAGE = Path("slackwater/v1")


def generate(target: Path) -> None:
    """Write the generated modules and their stubs below `target`."""
    sources = sorted((PROTOS / PACKAGE).glob("*.proto"))
    # protoc looks for protoc-gen-mypy beside this interpreter first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={PROTOS}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out={target}",
            f"--mypy_grpc_out={target}",
            *map(str, sources),
        ],
        check=True,
        env={**os.environ, "PATH": path},
    )


def generated(directory: Path) -> set[str]:
    """Names of the generated files in a package directory."""
    return {path.name for path in directory.glob("*_pb2*") if path.is_file()}


def differences() -> list[str]:
    """Files of the committed package that differ from freshly generated ones."""
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name))
        fresh = Path(name) / PACKAGE
        names = generated(fresh) | generated(PACKAGE)
        return sorted(
            str(PACKAGE / name)
            for name in names
            if not (fresh / name).exists()
            or not (PACKAGE / name).exists()
            or not filecmp.cmp(fresh / name, PACKAGE / name, shallow=False)
        )


def main() -> int:
    """Generate, or with --check compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, change nothing")
    if not parser.parse_args().check:
        generate(Path())
        return 0
    stale = differences()
    for path in stale:
        print(f"{path} is not what protos/ gives: run `make proto`")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
