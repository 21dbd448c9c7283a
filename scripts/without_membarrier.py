#!/usr/bin/env python3
"""Runs a command, and the processes that it starts, with membarrier(2) refused (EPERM).

The seccomp profile of a container may refuse it in the same way.

    scripts/without_membarrier.py cargo test
"""

import ctypes
import os
import platform
import struct
import sys

NUMBERS = {"x86_64": 324, "aarch64": 283}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
ERRNO_EPERM, ALLOW = 0x0005_0001, 0x7FFF_0000


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def main() -> None:
    number = NUMBERS.get(platform.machine())
    if len(sys.argv) < 2 or sys.platform != "linux" or number is None:
        sys.exit(f"usage: {sys.argv[0]} COMMAND...   (Linux on {' or '.join(NUMBERS)})")
    # The filter's input starts with the number of the system call.
    steps = [
        (LOAD, 0, 0, 0),
        (EQUAL, 0, 1, number),
        (RETURN, 0, 0, ERRNO_EPERM),
        (RETURN, 0, 0, ALLOW),
    ]
    program = Program(len(steps), b"".join(struct.pack("HBBI", *step) for step in steps))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) or libc.prctl(
        PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program), zero, zero
    ):
        sys.exit(f"the filter was refused: {os.strerror(ctypes.get_errno())}")
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error.strerror}")


if __name__ == "__main__":
    main()
