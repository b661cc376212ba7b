"""The results of an offline job survive whatever ended the process that wrote them."""

import json
from pathlib import Path

import pytest
from headrace_server.client.result_file import NotResults, ResultFile
from headrace_server.rpc.batches.lines import Code, answered, unanswered
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_what_was_appended_is_there_for_the_next_run(path: Path) -> None:
    with ResultFile(path) as results:
        results.append(answered("a", 200, "cmpl-1", {"text": "God\n你好"}))
        results.append(unanswered("b", Code.EXPIRED, "too late"))
    with ResultFile(path) as results:
        assert results.statuses == {"a": 200, "b": None}


@settings(deadline=None, max_examples=60)  # each one waits for the disk, often
@given(st.data())
def test_wherever_the_file_ends_whole_lines_stay_and_a_torn_one_goes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("torn") / "out.jsonl"
    with ResultFile(path) as results:
        for number in range(3):
            results.append(answered(str(number), 200, "", {"text": "naïve 你好 😀" * number}))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])

    with ResultFile(path) as results:
        kept = len(results.statuses)
        assert kept == whole[:cut].count(b"\n")
        results.append(answered("again", 200, "", {}))
    lines = [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]
    assert lines == [str(number) for number in range(kept)] + ["again"]


@pytest.mark.parametrize(
    "text",
    [
        "In the beginning\n",
        "a note without an end",
        '{"custom_id": "a"}\n',
        "[]\n",
        '{"custom_id": "a", "response": 5}\n',
    ],
)
def test_another_file_is_left_as_it_is(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(NotResults, match="line 1: is not a result of a batch; name another file"):
        ResultFile(path)
    assert path.read_text() == text


def test_a_request_with_two_results_is_refused(path: Path) -> None:
    line = json.dumps(answered("a", 200, "", {})) + "\n"
    path.write_text(line * 2)
    with pytest.raises(NotResults, match="line 2: a second result of 'a'"):
        ResultFile(path)


def test_two_runs_do_not_write_to_one_file(path: Path) -> None:
    with ResultFile(path), pytest.raises(NotResults, match="another run writes to it"):
        ResultFile(path)
    with ResultFile(path) as results:
        assert results.statuses == {}
