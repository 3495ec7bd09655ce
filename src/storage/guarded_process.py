"""Starts a child process that gives up root and does not outlive its parent."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

from storage.postgres_binaries import ServerUser

# Runs in a fresh interpreter between fork and exec, because Python code in a forked child of a
# threaded process can deadlock. The death signal is set after setuid, which clears it (prctl(2)).
_BECOME_AND_EXEC = """
import ctypes, os, signal, sys
parent, uid, gid = map(int, sys.argv[1:4])
program = sys.argv[4:]
if uid >= 0:
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
os.umask(0o077)
if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(1, int(signal.SIGINT), 0, 0, 0)
if os.getppid() != parent:
    sys.exit("the parent is gone")
os.execv(program[0], program)
"""


def spawn(
    command: Sequence[str],
    *,
    user: ServerUser | None,
    descriptors: Sequence[int],
    log: IO[bytes],
) -> subprocess.Popen[bytes]:
    """Start the command as `user`; SIGINT reaches it when the calling THREAD ends (Linux)."""
    uid, gid = (user.uid, user.gid) if user is not None else (-1, -1)
    shim = [sys.executable, "-I", "-S", "-c", _BECOME_AND_EXEC]
    arguments = [str(number) for number in (os.getpid(), uid, gid)]
    return subprocess.Popen(  # noqa: S603  our own programs and arguments, no shell
        [*shim, *arguments, *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=descriptors,
        cwd="/",
        # PG* variables of the caller's shell must not steer the server.
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
        # Ctrl-C in the terminal stops the owner, which stops the child when its work is done.
        start_new_session=True,
    )


def spawn_lasting(
    command: Sequence[str],
    *,
    user: ServerUser | None,
    descriptors: Sequence[int],
    log: IO[bytes],
) -> subprocess.Popen[bytes]:
    """Start the command from a thread that lives as long as the command does.

    The kernel sends the parent-death signal when the forking THREAD ends (prctl(2)); a start from a
    short-lived worker thread would stop the child as soon as that thread was done.
    """
    started: list[subprocess.Popen[bytes] | BaseException] = []
    ready = threading.Event()

    def run() -> None:
        try:
            process = spawn(command, user=user, descriptors=descriptors, log=log)
        except BaseException as error:
            started.append(error)
            ready.set()
            return
        started.append(process)
        ready.set()
        process.wait()

    threading.Thread(target=run, name=f"parent of {command[0]}", daemon=True).start()
    ready.wait()
    if isinstance(started[0], BaseException):
        raise started[0]
    return started[0]
