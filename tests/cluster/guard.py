"""Runs one command and takes it, and everything it started, down with the process that asked for it.

    asker ──(our stdin: a pipe that the asker holds open)──► guard ──(the same)──► command ──► its children

- The pipe closes (the asker ended, also by SIGKILL), or SIGTERM arrives: SIGTERM to the command, SIGKILL after GRACE.
- The command ends: what it left behind is killed. We are its subreaper, so orphans become our children.
- The guard itself is killed: the kernel kills the command (PR_SET_PDEATHSIG), whose stdin closes too.

A plain script, `python -I -S guard.py GRACE COMMAND...`, so that it starts in milliseconds.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TERMINATING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def spawn(command: list[str]) -> int:
    """Start the command; its stdin stays open exactly as long as this process lives."""
    guard = os.getpid()
    lifeline, _held_open = os.pipe()
    child = os.fork()
    if child:
        os.close(lifeline)
        return child
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it died before prctl took effect
            os._exit(1)
        os.dup2(lifeline, 0)
        # The asker hands us its locks, so that they last as long as the command; the command has no use for them.
        os.closerange(3, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 65536 else 65536)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error}\n".encode())
    os._exit(127)


def children() -> list[int]:
    """Everything whose parent we are, adopted orphans included."""
    me, found = str(os.getpid()), []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as stat:
            # The name in parentheses may hold spaces; state and parent follow its last parenthesis.
            if stat.read().rpartition(")")[2].split()[1] == me:
                found.append(int(entry))
    return found


def sweep() -> None:
    """Kill and reap until nothing is left: each death may hand us new orphans."""
    while True:
        for pid in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def reap(child: int) -> int | None:
    """Collect the dead. Returns the command's status once it is among them."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                return os.waitstatus_to_exitcode(status)
            if pid == 0:
                break
    return None


def watch(child: int, grace: float, wake: int) -> int:
    """Wait for the command's end, passing the wish to end on to it. Returns its status."""
    deadline = None
    watched = [0, wake]
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(watched, [], [], left)
        signals = os.read(wake, 512) if wake in ready else b""
        if (status := reap(child)) is not None:
            return status
        asker_gone = 0 in ready and not os.read(0, 512)
        if asker_gone:
            watched.remove(0)
        if deadline is None and (asker_gone or any(number in TERMINATING for number in signals)):
            os.kill(child, signal.SIGTERM)
            deadline = time.monotonic() + grace
        elif deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            deadline += 1.0  # and again, should it still be there


def main(grace: float, command: list[str]) -> int:
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake, write = os.pipe()
    for end in (wake, write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(write)
    for number in (*TERMINATING, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    status = watch(spawn(command), grace, wake)
    sweep()
    return status if status >= 0 else 128 - status  # a shell's way to say: ended by a signal


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
