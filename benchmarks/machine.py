"""What the figures depend on: cores, versions, the disk."""

import os
import platform
import resource
import sqlite3
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("uvicorn", "uvloop", "httptools", "fastapi", "sqlalchemy", "pydantic", "orjson")
_FSYNCS = 50


@dataclass(frozen=True)
class Cores:
    """Where server and load run; None where the system cannot pin or has one core only."""

    server: int | None
    load: int | None

    @property
    def pinned(self) -> bool:
        return self.server is not None


def choose_cores() -> Cores:
    """The first core that we may use for the server, the last one for the load."""
    if not hasattr(os, "sched_setaffinity"):
        return Cores(None, None)
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[-1]) if len(usable) > 1 else Cores(None, None)


def pin(pid: int, core: int | None) -> None:
    """Keeps a process (0: this one) on `core`. Threads and children started afterwards inherit it."""
    if core is not None:
        os.sched_setaffinity(pid, {core})


def raise_file_limit() -> None:
    """Lets this process and its children have as many sockets open as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def memory_mb(pid: int) -> tuple[float, float] | None:
    """The process's memory now and at its highest, in MB; None where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    now, highest = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, highest


def cpu_seconds(pid: int) -> float | None:
    """The processor time that the process has used; None where the system does not tell."""
    told = Path(f"/proc/{pid}/stat")
    if not told.exists():
        return None
    fields = told.read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def facts(folder: Path) -> dict[str, object]:
    """The machine and the versions, as far as they matter for the figures."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{package: version(package) for package in _PACKAGES},
        "file_system": file_system(folder),
        "fsync_ms": round(fsync_ms(folder), 3),
    }


def file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`, or "unknown"."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    holding = [(point, kind) for point, kind in found if folder.resolve().is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]


def fsync_ms(folder: Path) -> float:
    """The median time of appending 4 KB and fsync."""
    path = folder / "fsync-probe"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_FSYNCS):
            started = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    path.unlink()
    return statistics.median(times) * 1000
