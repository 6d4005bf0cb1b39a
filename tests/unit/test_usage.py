"""The benchmarks' meter counts every process: those that still run, and those that have ended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.usage import cpu_seconds_of, peak_mebibytes, tree_cpu_seconds

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")

_BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
_WAIT = "print('burnt', flush=True); input()"


def test_what_a_child_used_counts_while_it_lives_and_when_it_has_ended() -> None:
    """Given a child that uses 0.3 s, then they are in the sum before and after its end, and not in our own."""
    own, began = cpu_seconds_of(os.getpid()) or 0.0, tree_cpu_seconds(os.getpid()) or 0.0
    command = [sys.executable, "-c", _BURN + _WAIT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "burnt\n"
        living = (tree_cpu_seconds(os.getpid()) or 0.0) - began
        child.communicate("\n")
    ended = (tree_cpu_seconds(os.getpid()) or 0.0) - began

    assert living >= 0.28
    assert ended >= 0.28
    assert (cpu_seconds_of(os.getpid()) or 0.0) - own < 0.2


def test_the_peak_of_memory_is_kept_when_it_is_free_again() -> None:
    """Given a process that had 60 MiB for a moment, then its peak shows them."""
    command = [sys.executable, "-S", "-c", f"block = bytearray(60 << 20); del block; {_WAIT}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        peak = peak_mebibytes(child.pid)
        child.communicate("\n")

    assert peak is not None
    assert 60 < peak < 120
