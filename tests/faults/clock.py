"""A clock that a test sets for processes that it starts: a small library before libc, compiled where there is a gcc.

Only the time of day is another one. What the kernel keeps for itself, timers and the monotonic clock, goes on.
"""

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

import pytest

_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *step;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("STEPPED_CLOCK");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *memory = mmap(NULL, sizeof *step, PROT_READ, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) step = memory;
    close(file);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, id, now);
    if (!result && step && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *step;
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
"""


class SteppedClock:
    """The time of day of the processes that have ``variables`` in their environment. Skips the test without a gcc."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler to make a clock that can be stepped")
        library, self._file = folder / "clock.so", folder / "clock"
        source = folder / "clock.c"
        source.write_text(_SOURCE)
        made = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", library, source], capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            pytest.skip(f"the C compiler does not work: {made.stderr[-200:]}")
        self._file.write_bytes(struct.pack("q", 0))
        self.variables = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(self._file)}

    def step(self, hours: float) -> None:
        """Set it ``hours`` ahead of the machine's own, at once, for processes that run as well."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", round(hours * 3600)))
