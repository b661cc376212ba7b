"""No program outlives its owner, in whatever way the owner ends; and a wait that fails shows the log."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster.processes import PACKAGES, Program, ProgramEnded, stop_all
from cluster.waiting import HANG, DeadlineMissed, wait_until

# A program with a child, and with a grandchild that detached itself as a daemon does.
FAMILY = ["bash", "-c", "sleep 600 & (setsid sleep 600 &) ; echo started; wait"]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that owns a program and its family."""
    script = f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(PACKAGES)!r})
        from cluster.processes import Program
        Program("family", {FAMILY!r}, Path({str(tmp_path / "family.log")!r})).start()
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)]) as process:
        yield process
        process.kill()


def family_of(pid: int, size: int) -> list[psutil.Process]:
    """All descendants, once there are `size` of them."""

    def descendants() -> list[psutil.Process] | None:
        found = psutil.Process(pid).children(recursive=True)
        return found if len(found) >= size else None

    found = wait_until(f"{size} descendants", descendants, timeout=HANG, evidence=str)
    assert found is not None
    return found


def assert_gone(processes: list[psutil.Process]) -> None:
    def left() -> list[psutil.Process]:
        return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

    wait_until("the end of all processes", lambda: not left(), timeout=HANG, evidence=lambda: str(left()))


def test_a_killed_owner_leaves_no_process(owner: "subprocess.Popen[bytes]") -> None:
    family = family_of(owner.pid, size=4)  # guard, bash, two sleeps
    owner.send_signal(signal.SIGKILL)
    assert_gone(family)


def test_a_killed_guard_takes_its_program_along(tmp_path: Path) -> None:
    program = Program("sleep", ["sleep", "600"], tmp_path / "log")
    program.start()
    sleep = wait_until("the program", lambda: psutil.Process(program.pid), timeout=HANG, evidence=str)
    psutil.Process(sleep.ppid()).kill()
    assert_gone([sleep])
    program.stop()


def test_stop_returns_when_the_whole_family_is_gone(tmp_path: Path) -> None:
    program = Program("family", FAMILY, tmp_path / "log")
    program.start()
    program.wait_ready("started", lambda: "started" in program.log.read_text(), HANG)
    family = psutil.Process(program.pid).children(recursive=True)
    program.stop()
    assert not [each for each in family if each.is_running()]


def test_a_program_that_ends_by_itself_leaves_no_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = Program("short", ["bash", "-c", f"setsid sleep 600 & echo $! > {pid}; exit 3"], tmp_path / "log")
    program.start()
    assert wait_until("its end", program.status, timeout=HANG, evidence=str) == 3
    assert not psutil.pid_exists(int(pid.read_text()))


def test_a_program_may_end_by_itself_within_its_grace(tmp_path: Path) -> None:
    program = Program(
        "polite", ["bash", "-c", "trap 'echo goodbye; exit' TERM; echo up; while :; do sleep 0.05; done"],
        tmp_path / "log", grace=HANG,
    )  # fmt: skip
    program.start()
    program.wait_ready("up", lambda: "up" in program.log.read_text(), HANG)
    program.stop()
    assert "goodbye" in program.log.read_text()


def test_a_program_that_ignores_its_grace_is_killed(tmp_path: Path) -> None:
    stubborn = ["bash", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"]
    programs = [Program(f"stubborn-{n}", stubborn, tmp_path / f"{n}.log", grace=0.2) for n in range(2)]
    for program in programs:
        program.start()
    for program in programs:
        program.wait_ready("up", lambda program=program: "up" in program.log.read_text(), HANG)
    processes = [psutil.Process(program.pid) for program in programs]
    stop_all(programs)
    assert not [each for each in processes if each.is_running()]


def test_waiting_for_a_program_that_ends_shows_its_last_words_at_once(tmp_path: Path) -> None:
    program = Program("broken", ["bash", "-c", "echo cannot find my configuration; exit 4"], tmp_path / "log")
    program.start()
    with pytest.raises(ProgramEnded, match=r"broken ended with status 4 before ready\n.*\ncannot find my config"):
        program.wait_ready("ready", lambda: False, timeout=600)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    program = Program("missing", [tmp_path / "no-such-program"], tmp_path / "log")
    program.start()
    with pytest.raises(ProgramEnded, match=r"cannot run .*/no-such-program"):
        program.wait_ready("ready", lambda: False, timeout=HANG)


def test_a_missed_deadline_shows_what_was_seen_and_the_end_of_the_log(tmp_path: Path) -> None:
    program = Program("slow", ["bash", "-c", "seq 100; sleep 600"], tmp_path / "log")
    program.start()
    program.wait_ready("counting", lambda: program.log.read_text().endswith("100\n"), HANG)

    def refused() -> bool:
        raise ConnectionRefusedError("nobody there")

    with pytest.raises(DeadlineMissed) as missed:
        program.wait_ready("listening", refused, timeout=0.1)
    program.stop()
    message = str(missed.value)
    assert "slow: listening: not within 0.1 s; last seen: ConnectionRefusedError: nobody there" in message
    assert message.endswith("\n98\n99\n100")
    assert "\n80\n" not in message


def test_a_bug_in_a_probe_is_not_waited_for() -> None:
    def buggy() -> bool:
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        wait_until("never", buggy, timeout=600, evidence=str)
