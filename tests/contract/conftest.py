"""Both implementations of the storage seam, each with an empty directory."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from slackwater.storage.real import RealStorage
from slackwater.storage.seam import Storage
from slackwater.storage.simulated import SimulatedStorage


@dataclass
class Place:
    """A storage, a directory of it, and the storage as another process would have it."""

    storage: Storage
    path: Path
    other: Storage


@pytest.fixture(params=["real", "simulated"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return an empty directory on either implementation."""
    if request.param == "real":
        return Place(RealStorage(), tmp_path, RealStorage())
    storage = SimulatedStorage()
    path = Path("/data")
    storage.make_directory(path)
    return Place(storage, path, storage.beside())
