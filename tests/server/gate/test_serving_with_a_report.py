"""`headrace serve --gate-report`: the model that passed is loaded as it was measured; anything else ends with 78."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import aiohttp
import headrace_server.__main__ as server
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from gate_reports import key_pair, line, passed
from headrace_server import gate_options
from headrace_server.config import GateConfig
from headrace_server.errors import ModelRefused
from headrace_server.gate import entry
from headrace_server.gate.options import differences, serve_options
from headrace_server.gate.report import model_digest
from headrace_server.machine import machine
from headrace_server.telemetry.gpu import GpuName
from minilm import minilm
from served_process import refused, serve_command, served

MODEL = Path(__file__).parents[3] / "examples" / "models" / "scripture-1m"
AS_MEASURED = ("--device=cpu", "--dtype=float32", "--max-running=64")


async def test_the_model_that_passed_is_served_and_the_check_is_timed(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "release")
    report = tmp_path / "report.json"
    report.write_text(passed(MODEL, private, *AS_MEASURED))
    command = serve_command(MODEL, f"--gate-report={report}", f"--gate-public-key={line(public)}")
    async with (
        served(command, tmp_path) as process,
        aiohttp.ClientSession() as session,
        session.get(f"http://{process.http}/metrics") as metrics,
    ):
        assert 'headrace_startup_phase_seconds{phase="gate"}' in await metrics.text()


Case = Callable[[Path, Path], tuple[str, ...]]  # the report and a private key -> words of the command line


def _edited(report: Path, key: Path) -> tuple[str, ...]:
    told = json.loads(passed(MODEL, key, *AS_MEASURED))
    told["body"]["signed_off_by"] = "somebody else"
    report.write_text(json.dumps(told))
    return ()


def _failed(report: Path, key: Path) -> tuple[str, ...]:
    checks = [{"name": "PeakWait", "passed": False}]
    report.write_text(passed(MODEL, key, *AS_MEASURED, passed=False, checks=checks))
    return ()


def _another_model(report: Path, key: Path) -> tuple[str, ...]:
    report.write_text(passed(MODEL.with_name("scripture-5m"), key, *AS_MEASURED))
    return ()


def _other_options(report: Path, key: Path) -> tuple[str, ...]:
    report.write_text(passed(MODEL, key, *AS_MEASURED))
    return ("--quantization=int8", "--max-running=65")


def _another_key(report: Path, key: Path) -> tuple[str, ...]:
    _, public = key_pair(report.parent, "another")
    report.write_text(passed(MODEL, key, *AS_MEASURED))
    return (f"--gate-public-key={line(public)}",)


def _unsigned(report: Path, key: Path) -> tuple[str, ...]:
    report.write_text(passed(MODEL, None, *AS_MEASURED))
    return (f"--gate-public-key={line(key.with_suffix('.pub'))}",)


def _missing(report: Path, key: Path) -> tuple[str, ...]:
    return ()


def _no_json(report: Path, key: Path) -> tuple[str, ...]:
    report.write_text("passed")
    return ()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param(_edited, "the body is not what its sha256 was made of: it was changed", id="edited"),
        pytest.param(_failed, "the gate was not passed: PeakWait", id="failed"),
        pytest.param(_another_model, "it is about another model: sha256:", id="of another model"),
        pytest.param(_another_key, "it was not signed by the owner of a key of --gate-public-key", id="another key"),
        pytest.param(_unsigned, "it was not signed by the owner of a key of --gate-public-key", id="unsigned"),
        pytest.param(_missing, "report.json: No such file or directory", id="missing"),
        pytest.param(_no_json, "is not JSON", id="no JSON"),
        pytest.param(
            _other_options,
            "it was measured with --max-running=64, and is served with --max-running=65; it was measured without "
            "--quantization, and is served with --quantization=int8",
            id="with other options",
        ),
    ],
)
def test_anything_else_ends_with_78_and_its_reason(tmp_path: Path, given: Case, says: str) -> None:
    private, _ = key_pair(tmp_path, "release")
    report = tmp_path / "report.json"
    words = given(report, private)
    reason = refused(serve_command(MODEL, f"--gate-report={report}", *words), tmp_path)
    assert f"--gate-report={report}: " in reason
    assert says in reason
    assert "give the report of a `headrace gate run` of this model with these options" in reason


def test_a_model_that_cannot_be_read_is_told_by_its_name(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(passed(MODEL, None, *AS_MEASURED))
    with pytest.raises(
        ModelRefused, match="nowhere: No such file or directory; name a folder that the server can read"
    ):
        entry.check(GateConfig(report, (), AS_MEASURED), tmp_path / "nowhere", None)


def test_an_embedder_needs_the_report_of_an_embedder(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(passed(minilm(), None, *AS_MEASURED))
    reason = refused(serve_command(minilm(), f"--gate-report={report}", "--task=embed"), tmp_path)
    assert "it was measured without --task, and is served with --task=embed" in reason


def test_a_draft_model_is_known_by_its_files(tmp_path: Path) -> None:
    """Wherever it lies; and a report that names none was measured without one."""
    words = (*AS_MEASURED, "--speculative=draft", "--speculative-tokens=4", "--speculative-max-batch=auto")
    gate = GateConfig(tmp_path / "report.json", (), words)
    gate.report.write_text(passed(MODEL, None, *words, draft_model_digest=model_digest(MODEL)))
    copied = tmp_path / "copied"
    shutil.copytree(MODEL, copied)
    entry.check(gate, MODEL, copied)
    (copied / "config.json").write_text("{}")
    with pytest.raises(ModelRefused, match=f"its --draft-model was another one: {model_digest(MODEL)}, not sha256:"):
        entry.check(gate, MODEL, copied)
    gate.report.write_text(passed(MODEL, None, *words))
    with pytest.raises(ModelRefused, match="its --draft-model was another one: None, not sha256:"):
        entry.check(gate, MODEL, MODEL)


HERE = machine()


@pytest.mark.parametrize(
    ("said", "gpu", "says"),
    [
        pytest.param(HERE, None, None, id="the same"),
        pytest.param(HERE | {"load_average": 99.0, "python": "2.7"}, None, None, id="the same, busier"),
        pytest.param(HERE | {"gpu": "NVIDIA H200"}, "NVIDIA H200", None, id="the same GPU"),
        pytest.param(
            {"cpu": "an abacus", "cores": 3},
            None,
            f"measured on 3 cores of an abacus, served on {HERE['cores']} cores of {HERE['cpu']}: quality holds here",
            id="another CPU",
        ),
        pytest.param(HERE | {"gpu": "NVIDIA H100"}, "NVIDIA H200", "and NVIDIA H100, served on ", id="another GPU"),
        pytest.param(HERE, "NVIDIA H200", "and NVIDIA H200: quality holds here", id="a GPU that was not told"),
        pytest.param(None, None, "measured on a machine that it does not name", id="no machine"),
    ],
)
def test_another_machine_is_told_and_not_refused(
    said: object, gpu: str | None, says: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    entry.tell_if_moved({"machine": said}, None if gpu is None else GpuName(gpu, "GPU-1"))
    assert len(caplog.messages) == (says is not None)
    assert (says or "") in caplog.text


async def test_a_server_on_another_machine_tells_it_and_serves(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(passed(MODEL, None, *AS_MEASURED, machine={"cpu": "an abacus", "cores": 3}))
    async with served(serve_command(MODEL, f"--gate-report={report}"), tmp_path):
        assert "measured on 3 cores of an abacus, served on" in (tmp_path / "server.log").read_text()


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    server.register(parser)
    return parser.parse_args(["--model=m", "--name=n", "--device=cpu", *words])


def test_without_a_report_nothing_is_asked_for() -> None:
    assert gate_options.gate_from(parsed()) is None


def test_options_become_the_config(tmp_path: Path) -> None:
    keys = [line(key_pair(tmp_path, name)[1]) for name in ("old", "new")]
    words = [f"--gate-public-key={key}" for key in keys]
    assert gate_options.gate_from(parsed("--gate-report=report.json", *words)) == GateConfig(
        Path("report.json"), tuple(keys), ("--device=cpu", "--dtype=bfloat16", "--max-running=64")
    )


def no_signing_key() -> str:
    """X25519: of the same family, for another purpose."""
    pem = X25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode().splitlines()[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--gate-public-key=KEY"], "--gate-public-key: nothing is signed without --gate-report"),
        (["--gate-report=r", "--gate-public-key=release.pub"], "--gate-public-key=release.pub: is no public key"),
        (["--gate-report=r", f"--gate-public-key={no_signing_key()}"], "is no Ed25519 key; give the second line of"),
        (["--gate-report=r", "--task=rerank"], "--gate-report: the gate measures models that generate or embed, not"),
        (["--gate-report=r", "--lora=poet=p"], "--lora: no gate has measured an adapter; leave it out"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_listens(words: list[str], says: str) -> None:
    with pytest.raises(ModelRefused, match=says):
        gate_options.gate_from(parsed(*words))


@pytest.mark.parametrize(
    "words",
    [
        ("--quantization=int4", "--quantization-group-size=32", "--quantization-exclude=lm_head"),
        ("--kv-cache-dtype=int8", "--kv-cache-mib=64"),
        ("--dtype=float16", "--max-running=3"),
        ("--speculative=ngram",),
        ("--speculative=draft", "--speculative-tokens=2", "--speculative-max-batch=8"),
        ("--batch-invariant", "--no-prefix-cache"),
        ("--task=embed",),
    ],
)
def test_a_server_with_the_options_of_a_report_is_as_it_was_measured(words: tuple[str, ...]) -> None:
    measured = serve_options(parsed(*words))
    assert differences({"serve_options": measured}, serve_options(parsed(*measured[1:]))) == []
    assert len(differences({"serve_options": measured}, serve_options(parsed()))) >= len(words)


@pytest.mark.parametrize(
    ("measured", "served", "says"),
    [
        pytest.param(
            [],
            ["--batch-invariant"],
            ["measured without --batch-invariant, and is served with --batch-invariant"],
            id="answers that depend on nobody",
        ),
        pytest.param(
            ["--no-prefix-cache"],
            [],
            ["measured with --no-prefix-cache, and is served without --no-prefix-cache"],
            id="prefixes that are kept",
        ),
        pytest.param(
            ["--speculative=ngram", "--speculative-tokens=2"],
            ["--speculative=ngram", "--speculative-max-batch=8"],
            [
                "with --speculative-max-batch=auto, and is served with --speculative-max-batch=8",
                "with --speculative-tokens=2, and is served with --speculative-tokens=4",
            ],
            id="other guesses",
        ),
        pytest.param(["--speculative=ngram"], ["--speculative=ngram", "--speculative-tokens=4"], [], id="a default"),
        pytest.param(
            [],
            ["--speculative=ngram"],
            [
                "without --speculative, and is served with --speculative=ngram",
                "without --speculative-max-batch, and is served with --speculative-max-batch=auto",
                "without --speculative-tokens, and is served with --speculative-tokens=4",
            ],
            id="guesses in a report from before they were recorded",
        ),
    ],
)
def test_other_options_are_told_with_both_values(measured: list[str], served: list[str], says: list[str]) -> None:
    found = differences({"serve_options": serve_options(parsed(*measured))}, serve_options(parsed(*served)))
    assert len(found) == len(says)
    assert all(part in told for part, told in zip(says, found, strict=True))


@pytest.mark.parametrize("body", [{}, {"serve_options": "--device=cpu"}, {"serve_options": [1]}])
def test_a_report_that_does_not_say_how_it_was_measured_lets_nothing_through(body: dict[str, object]) -> None:
    assert differences(body, AS_MEASURED) == ["it does not say with which options the model was measured"]
