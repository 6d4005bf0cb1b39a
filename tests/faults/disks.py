"""A disk of a few megabytes for a server's tablespace, to be filled."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replicator.demo.servers import Server
from tests.fixtures.servers import AnyServer


class Disk:
    """A file system in memory; ``folder`` belongs to the server's user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Leave not a byte on it."""
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def make_room(self) -> None:
        (self.folder / "filler").unlink()


@contextmanager
def small_disk(server: AnyServer, megabytes: int) -> Iterator[Disk]:
    """Mount one for the time of the block; skips the test where this process may not."""
    if not isinstance(server, Server) or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk, for an embedded server")
    mount = Path(tempfile.mkdtemp(prefix="replicator-disk-"))
    owner = server.folder.stat()
    options = f"size={megabytes}m,mode=0755"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", mount], capture_output=True, check=False)
    try:
        if done.returncode != 0:
            pytest.skip("mounting is not possible here")
        folder = mount / "space"
        folder.mkdir(mode=0o700)
        os.chown(folder, owner.st_uid, owner.st_gid)
        mount.chmod(0o755)
        yield Disk(folder)
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "--lazy", mount], check=True)
        mount.rmdir()
