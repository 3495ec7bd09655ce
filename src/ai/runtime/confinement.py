"""Takes away from the inference child all that inference does not need (Linux).

A model is data from elsewhere run by a large C++ library: if it goes wrong it must not reach the
network, other processes or the file system. In order: an empty network namespace, resource limits,
an unprivileged user, no new privileges, and a system-call filter that refuses sockets, new
processes, debugging and opening files for writing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from dataclasses import asdict, dataclass

NOBODY = 65534
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS, _SET_MODE_FILTER, _ALL_THREADS = 38, 1, 1
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# System calls refused with EPERM, by architecture.
_REFUSED = {
    "x86_64": {
        "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "sendmsg": 46, "bind": 49,
        "listen": 50, "socketpair": 53, "clone": 56, "fork": 57, "vfork": 58, "execve": 59,
        "kill": 62, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86, "unlink": 87,
        "symlink": 88, "chmod": 90, "chown": 92, "ptrace": 101, "mknod": 133, "mount": 165,
        "tkill": 200, "unshare": 272, "accept4": 288, "renameat": 264, "unlinkat": 263,
        "mkdirat": 258, "process_vm_readv": 310, "process_vm_writev": 311, "renameat2": 316,
        "bpf": 321, "execveat": 322, "io_uring_setup": 425, "clone3": 435, "openat2": 437,
    },
    "aarch64": {
        "socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "accept": 202,
        "connect": 203, "sendto": 206, "sendmsg": 211, "clone": 220, "execve": 221, "kill": 129,
        "tkill": 130, "mknodat": 33, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37,
        "renameat": 38, "mount": 40, "unshare": 97, "ptrace": 117, "accept4": 242,
        "process_vm_readv": 270, "process_vm_writev": 271, "renameat2": 276, "bpf": 280,
        "execveat": 281, "io_uring_setup": 425, "clone3": 435, "openat2": 437,
    },
}  # fmt: skip
# openat with any of O_WRONLY, O_RDWR, O_CREAT, O_TRUNC; x86-64 also has open.
_OPENAT = {"x86_64": 257, "aarch64": 56}
_OPEN = {"x86_64": 2}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Isolation:
    """What was achieved; told to the parent, which logs it and tests check it."""

    user: int
    network_namespace: bool
    system_call_filter: bool
    memory_limit_bytes: int

    def as_dict(self) -> dict[str, int | bool]:
        return asdict(self)


def leave_network() -> bool:
    """Move this process to an empty network namespace; say whether that was permitted.

    A namespace belongs to a thread: call this before anything starts threads.
    """
    if sys.platform != "linux":
        return False
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
    failed: int = ctypes.CDLL(None, use_errno=True).unshare(flags)
    return failed == 0


def confine(
    memory_limit_bytes: int, cpu_limit_seconds: int, *, network_namespace: bool
) -> Isolation:
    """Confine this process for good. What the platform refuses is reported, not raised."""
    _limit_resources(memory_limit_bytes, cpu_limit_seconds)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    has_filter = sys.platform == "linux" and _filter_system_calls()
    return Isolation(os.geteuid(), network_namespace, has_filter, memory_limit_bytes)


def limit_next_run(seconds: float) -> None:
    """Let the kernel end this process when one run takes much more CPU time than it may."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(usage.ru_utime + usage.ru_stime + seconds) + 2
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _limit_resources(memory_limit_bytes: int, cpu_limit_seconds: int) -> None:
    for name, limit in (
        (resource.RLIMIT_AS, memory_limit_bytes),
        (resource.RLIMIT_CPU, cpu_limit_seconds),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_FSIZE, 1 << 20),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(name)
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (value, value))


def _filter_system_calls() -> bool:
    """Install the filter on all threads, those that ONNX Runtime started too."""
    machine = platform.machine()
    if machine not in _AUDIT_ARCH:
        return False
    library = ctypes.CDLL(None, use_errno=True)
    program = _program(machine)
    code = ctypes.create_string_buffer(b"".join(program))

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    wanted = Filter(len(program), ctypes.addressof(code))
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    failed: int = library.syscall(
        _SECCOMP[machine], _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(wanted)
    )
    return failed == 0


def _program(machine: str) -> list[bytes]:
    """Return classic BPF over seccomp_data: number at 0, architecture at 4, arguments at 16."""
    load, equal, any_set, answer = 0x20, 0x15, 0x45, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000

    def line(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    program = [
        line(load, 4),
        line(equal, _AUDIT_ARCH[machine], 1, 0),
        line(answer, kill),
        line(load, 0),
    ]
    for number in sorted(_REFUSED[machine].values()):
        program += [line(equal, number, 0, 1), line(answer, refuse)]
    for call, argument in ((_OPENAT[machine], 2), (_OPEN.get(machine), 1)):
        if call is not None:
            program += [
                line(equal, call, 0, 4),
                line(load, 16 + 8 * argument),
                line(any_set, _WRITING, 0, 1),
                line(answer, refuse),
                line(answer, allow),
            ]
    program.append(line(answer, allow))
    return program
