"""bench/scaling.py counts what it says it counts. The cluster's part of it is run by hand, for it takes minutes."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import scaling
from demo.timeline import Sample
from elastic.pods import Lives
from elastic.rise import first, success_share
from elastic.streams import Tally, counted


def pod(uid: str, *, routable: bool, address: str | None = None) -> dict[str, Any]:
    labels = {"headrace.dev/routable": str(routable).lower()}
    status = {"podIP": address} if address else {}
    return {"metadata": {"uid": uid, "name": f"chat-{uid}", "labels": labels}, "status": status}


def test_a_pod_is_timed_from_the_first_event_of_each_kind() -> None:
    lives = Lives()
    lives.note("ADDED", pod("a", routable=True), 1.0)
    lives.note("ADDED", pod("b", routable=True), 2.0)
    lives.note("MODIFIED", pod("a", routable=True, address="127.0.0.9"), 3.0)
    lives.note("MODIFIED", pod("a", routable=False, address="127.0.0.9"), 4.0)
    lives.note("MODIFIED", pod("a", routable=False), 5.0)
    lives.note("DELETED", pod("a", routable=False), 6.0)
    a, b = lives.all()
    assert (a.came, a.left_service, a.gone, a.address) == (1.0, 4.0, 6.0, "127.0.0.9")
    assert (b.came, b.left_service, b.gone) == (2.0, None, None)
    assert lives.present() == [b]


def test_a_broken_watch_is_not_taken_for_silence() -> None:
    lives = Lives()
    lives.broken = OSError("reset")
    with pytest.raises(OSError, match="reset"):
        lives.present()


def test_a_stream_that_ends_early_without_an_error_is_broken() -> None:
    tally = Tally()
    tally.ended(900, 900, began=0.0)
    tally.ended(899, 900, began=0.0)
    assert len(tally.seconds) == 1
    assert dict(tally.broken) == {"899 of 900 tokens": 1}


def test_tokens_are_counted_by_the_last_event() -> None:
    assert counted([b'data: {"choices": [], "usage":{"completion_tokens":900}}\n']) == 900
    assert counted([]) == 0


@pytest.mark.parametrize(
    ("sent", "failed", "share"), [(10, 0, 1.0), (1_000_000, 1, 0.99999), (1000, 1, 0.999), (0, 0, None)]
)
def test_a_single_failure_is_never_rounded_away(sent: int, failed: int, share: float | None) -> None:
    assert success_share(sent, failed) == share


def test_the_time_to_all_replicas_is_that_of_the_first_sample_with_them() -> None:
    samples = [Sample(at, ready, 8, "-", "-", ()) for at, ready in ((0.0, 1), (9.04, 7), (11.26, 8), (12.0, 8))]
    assert (first(samples, "desired"), first(samples, "ready")) == (0.0, 11.3)
    assert first(samples[:2], "ready") is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "rise,fall"], "names fall; known: rise, streams, bursts, standby"),
        (["--scale-downs", "0"], "is 0; must be a whole number above 0"),
    ],
)
def test_work_that_cannot_be_done_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        scaling.parsed(arguments)
    assert told in capsys.readouterr().err
