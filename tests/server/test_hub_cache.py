"""hf://: a Hugging Face cache as `hf download` leaves it, with links from snapshots to blobs."""

import hashlib
from pathlib import Path

import pytest
from headrace_server.errors import ModelRefused
from headrace_server.hub_cache import checkpoint
from served_process import refused, serve_command, served

MODEL = Path(__file__).parents[2] / "examples" / "models" / "scripture-1m"
COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """models--headrace--scripture with two commits; refs/main names the first, the tag v2 the second."""
    for commit in (COMMIT, OTHER):
        _snapshot(tmp_path / "models--headrace--scripture", commit)
    refs = tmp_path / "models--headrace--scripture" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    (refs / "v2").write_text(OTHER)
    return tmp_path


def _snapshot(repository: Path, commit: str) -> None:
    """Every file a link to a blob that is named by its content."""
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in MODEL.iterdir():
        content = file.read_bytes()
        blob = hashlib.sha256(content).hexdigest()
        (repository / "blobs" / blob).write_bytes(content)
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", blob))


@pytest.mark.parametrize(
    ("model", "commit"),
    [
        pytest.param("hf://headrace/scripture", COMMIT, id="what refs/main names"),
        pytest.param("hf://headrace/scripture@v2", OTHER, id="a tag"),
        pytest.param(f"hf://headrace/scripture@{OTHER}", OTHER, id="a commit"),
    ],
)
def test_a_revision_is_a_folder_of_the_cache(cache: Path, model: str, commit: str) -> None:
    found = checkpoint(model, cache)
    assert found == cache / "models--headrace--scripture" / "snapshots" / commit
    assert (found / "config.json").read_bytes() == (MODEL / "config.json").read_bytes()


def test_a_directory_stays_what_it_is() -> None:
    assert checkpoint("/models/llama", None) == Path("/models/llama")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        pytest.param(
            "hf://headrace/other", r"fill it with `hf download headrace/other --cache-dir", id="another model"
        ),
        pytest.param(
            "hf://headrace/scripture@v9", r"hf download headrace/scripture --revision v9", id="another revision"
        ),
        pytest.param(f"hf://headrace/scripture@{'c' * 40}", r"is not in the cache", id="another commit"),
        pytest.param("hf://a--b/c", "Cannot have -- or", id="a name that no model can have"),
    ],
)
def test_what_the_cache_does_not_have_is_refused_with_the_command_that_fetches_it(
    cache: Path, model: str, says: str
) -> None:
    with pytest.raises(ModelRefused, match=says):
        checkpoint(model, cache)


def test_without_a_cache_there_is_nothing_to_look_in() -> None:
    with pytest.raises(ModelRefused, match=r"^hf://headrace/scripture is looked up .*name its folder with --hub-cache"):
        checkpoint("hf://headrace/scripture", None)


async def test_a_model_of_the_cache_is_served_and_nothing_is_written_there(cache: Path, tmp_path: Path) -> None:
    command = [word for word in serve_command(MODEL) if not word.startswith("--model")]
    logs = tmp_path / "logs"
    logs.mkdir()
    before = sorted(path.relative_to(cache) for path in (cache / "models--headrace--scripture").rglob("*"))
    async with served([*command, "--model=hf://headrace/scripture", f"--hub-cache={cache}"], logs):
        after = sorted(path.relative_to(cache) for path in (cache / "models--headrace--scripture").rglob("*"))
        assert after == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        pytest.param(["--tensor-parallel-size=2"], "set resources.gpus to 1", id="two devices"),
        pytest.param(
            ["--model=hf://a/b", "--hub-cache=/nowhere"], "hf download a/b --cache-dir /nowhere", id="no model"
        ),
    ],
)
def test_what_cannot_be_served_ends_with_78_and_its_reason(tmp_path: Path, flags: list[str], says: str) -> None:
    assert says in refused([*serve_command(MODEL), *flags], tmp_path)
