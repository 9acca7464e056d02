"""A disk that forgets what was never synced, that is slow, or that is full."""

import asyncio
import contextlib
import errno
import functools
import importlib.util
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.process import PlatformProcess

SHIM = Path(__file__).with_name("powercut.c")
BLOCK = 4096
SHARES = (0.0, 0.0, 0.3, 0.8)
"""How much of what was never synced has reached the disk all the same, by chance."""

MEGABYTE = 1 << 20

FILLING_TRIES = 100


class NoCompiler(Exception):
    """Nothing here compiles C."""


def compiler() -> Sequence[str]:
    """The command of the machine's C compiler, or of the one that the extra `torture` installs."""
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise NoCompiler("There is no C compiler: install one, or `pip install -r requirements-torture.lock`.")


@functools.lru_cache(maxsize=1)
def shim() -> Path:
    """The compiled powercut.c. Raises NoCompiler."""
    folder = tempfile.TemporaryDirectory(prefix="torture-")
    _FOLDERS.append(folder)
    library = Path(folder.name) / "powercut.so"
    command = [*compiler(), "-shared", "-fPIC", "-O2", "-o", str(library), str(SHIM), "-ldl"]
    subprocess.run(command, check=True, timeout=120)
    return library


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def slow_disk(milliseconds: int) -> dict[str, str]:
    """Variables for a platform whose every fsync takes so much longer."""
    return {"LD_PRELOAD": str(shim()), "POWERCUT_DELAY_MS": str(milliseconds)}


@dataclass
class ForgetfulDisk:
    """A data folder, and the image of what a power cut would leave of it."""

    data: Path
    image: Path

    def __post_init__(self) -> None:
        self.image.mkdir()

    @property
    def in_effect(self) -> bool:
        """Whether the platform's syncs have come to the image."""
        return (self.image / "trunkline.db").exists()

    async def wait_for_writes(self) -> None:
        """Waits, a second at most, until something has been written and not yet synced."""
        log, image = self.data / "trunkline.db-wal", self.image / "trunkline.db-wal"
        for _ in range(500):
            if log.exists() and image.exists() and log.stat().st_size != image.stat().st_size:
                return
            await asyncio.sleep(0.002)

    def variables(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(shim()), "POWERCUT_DIR": str(self.data), "POWERCUT_IMAGE": str(self.image),
            # So that a cut comes while something waits to be synced.
            "POWERCUT_DELAY_MS": "20",
        }  # fmt: skip

    def cut(self, chance: random.Random) -> int:
        """Puts the data folder into the state after a power cut; the platform is dead. Returns the number of
        blocks that were written and are lost."""
        share = chance.choice(SHARES)
        lost = 0
        for file in sorted(self.data.iterdir()):
            image = self.image / file.name
            # The index of the log, -shm, is made anew at every start.
            if file.name.endswith("-shm") or not image.exists():
                file.unlink()
            else:
                lost += _merge(image, file, share, chance)
        for image in self.image.iterdir():
            shutil.copyfile(image, self.data / image.name)
        return lost


def _merge(image: Path, file: Path, share: float, chance: random.Random) -> int:
    """Gives the image some of the blocks that only the file has; returns how many it does not get."""
    lost = 0
    with image.open("r+b") as durable, file.open("rb") as volatile:
        while True:
            at = volatile.tell()
            now = volatile.read(BLOCK)
            durable.seek(at)
            if durable.read(BLOCK) != now:
                if chance.random() < share:
                    durable.seek(at)
                    durable.write(now)
                else:
                    lost += 1
            if len(now) < BLOCK:
                return lost


def integrity_faults(database: Path) -> list[str]:
    """What SQLite finds wrong with a database that nobody uses."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    return [] if found == ["ok"] else found[:5]


class SmallDisk:
    """A data folder's disk that can be full: a small file system of its own where this may be mounted,
    otherwise a limit on the size of the platform's files."""

    def __init__(self, folder: Path, *, mounted: bool) -> None:
        self.folder = folder
        self.mounted = mounted

    @property
    def kind(self) -> str:
        return "tmpfs" if self.mounted else "RLIMIT_FSIZE"

    def fill(self, platform: PlatformProcess, room: int) -> None:
        """Leaves about `room` bytes."""
        if not self.mounted:
            log = platform.data_dir / "trunkline.db-wal"
            _limit(platform, (log.stat().st_size if log.exists() else 0) + room)
            return
        with self._filler.open("wb") as file:
            for _ in range(FILLING_TRIES):
                about = os.statvfs(self.folder)
                length = about.f_bavail * about.f_frsize - room
                if length <= 0:
                    return
                try:
                    os.posix_fallocate(file.fileno(), 0, length)
                except OSError as error:  # the platform has written meanwhile
                    if error.errno != errno.ENOSPC:
                        raise
                else:
                    return
        raise AssertionError("the disk could not be filled")

    def free(self, platform: PlatformProcess) -> None:
        """There is room again."""
        if self.mounted:
            self._filler.unlink(missing_ok=True)
        elif platform.running:
            _limit(platform, resource.RLIM_INFINITY)

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"


def _limit(platform: PlatformProcess, size: int) -> None:
    resource.prlimit(platform.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """A disk of that size at `folder`."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder)]
    try:
        done = subprocess.run(["mount", *options], check=False, capture_output=True, timeout=10)
        mounted = done.returncode == 0
    except (FileNotFoundError, PermissionError):
        mounted = False
    try:
        yield SmallDisk(folder, mounted=mounted)
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True, timeout=30)
