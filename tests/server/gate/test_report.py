"""The record of a gate: what is changed is noticed, what is not signed is not believed."""

import argparse
import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from gate_reports import BODY, key_pair
from headrace_server.evaluation import BadFile
from headrace_server.gate.report import (
    Signers,
    canonical,
    model_digest,
    objections,
    private_key,
    public_key,
    read_report,
    sealed,
)
from headrace_server.gate_command import register
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
SIMPLE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES
VALUES = st.recursive(SIMPLE, lambda part: st.lists(part, max_size=3) | st.dictionaries(NAMES, part, max_size=3))


def signers(*keys: Path) -> Signers:
    return Signers(tuple(map(public_key, keys)), "the key")


def test_a_passed_and_signed_report_lets_its_model_through(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "release")
    report = sealed(BODY, private_key(private))
    assert objections(report, "sha256:1", signers(public)) == []


def test_any_of_several_keys_will_do(tmp_path: Path) -> None:
    """While an old key is taken out of use, reports of both count."""
    (old, old_public), (new, new_public) = key_pair(tmp_path, "old"), key_pair(tmp_path, "new")
    for key in (old, new):
        assert objections(sealed(BODY, private_key(key)), None, signers(old_public, new_public)) == []


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_a_report_reads_the_same_however_it_was_laid_out(body: dict[str, Any]) -> None:
    report = json.loads(json.dumps(sealed(body, None), indent=3))
    assert canonical(report["body"]) == canonical(body)
    assert not any("was changed" in each for each in objections(report, None, None))


def test_a_figure_that_is_no_number_can_be_sealed() -> None:
    """A model that broke in conversion has no perplexity, and its report says so."""
    report = sealed({"passed": False, "quality": {"kl": math.nan, "perplexity": math.inf}, "checks": []}, None)
    assert json.loads(json.dumps(report, allow_nan=False))["body"]["quality"] == {"kl": "nan", "perplexity": "inf"}
    assert objections(report, None, None) == ["the gate was not passed: it has no checks"]


def _failed(report: dict[str, Any]) -> None:
    report["body"]["passed"] = False
    report["body"]["checks"][0]["passed"] = False


def _unsigned(report: dict[str, Any]) -> None:
    del report["ed25519"]


def _forged(report: dict[str, Any]) -> None:
    report["ed25519"] = base64.b64encode(bytes(64)).decode()


def _garbled(report: dict[str, Any]) -> None:
    report["ed25519"] = "no base64"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_failed, ["it was changed", "not passed: Quality", "not signed by the owner"]),
        (_unsigned, ["not signed by the owner"]),
        (_forged, ["not signed by the owner"]),
        (_garbled, ["not signed by the owner"]),
    ],
)
def test_what_was_changed_is_told(change: Any, says: list[str], tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "release")
    report = json.loads(json.dumps(sealed(BODY, private_key(private))))
    change(report)
    found = objections(report, "sha256:1", signers(public))
    assert len(found) == len(says)
    assert all(part in objection for part, objection in zip(says, found, strict=True))


def test_another_model_and_another_key_are_told(tmp_path: Path) -> None:
    private, _ = key_pair(tmp_path, "release")
    _, other = key_pair(tmp_path, "other")
    found = objections(sealed(BODY, private_key(private)), "sha256:2", signers(other))
    assert ["another model" in found[0], "not signed by the owner" in found[1]] == [True, True]


def test_keys_of_another_kind_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    pem = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem)
    with pytest.raises(BadFile, match="is no Ed25519 key; make one with: openssl genpkey -algorithm ed25519"):
        private_key(path)
    path.write_text("nothing")
    with pytest.raises(BadFile, match="is no private key in PEM"):
        private_key(path)
    with pytest.raises(BadFile, match="is no public key in PEM"):
        public_key(path)


def test_a_models_digest_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = model_digest(tmp_path)
    assert first == model_digest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert model_digest(tmp_path) != first


def test_a_model_has_the_same_digest_in_a_folder_and_as_links_in_a_hubs_cache(tmp_path: Path) -> None:
    folder, blobs, snapshot = (tmp_path / name for name in ("folder", "blobs", "snapshots"))
    for each in (folder, blobs, snapshot):
        each.mkdir()
    for number, name in enumerate(("config.json", "model-1.safetensors", "model-2.safetensors")):
        (folder / name).write_text(name)
        (blobs / str(number)).write_text(name)
        (snapshot / name).symlink_to(Path("..") / "blobs" / str(number))
    assert model_digest(snapshot) == model_digest(folder)


def test_how_an_embedder_makes_a_vector_counts(tmp_path: Path) -> None:
    """It is said in a folder of its own. A folder that nothing names counts as little as one that is not there."""
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]
    modules.append({"type": "x.Normalize", "path": "2_Normalize"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    for folder in ("1_Pooling", "onnx"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text("{}")
    first = model_digest(tmp_path)
    (tmp_path / "onnx" / "config.json").write_text("{ }")
    assert model_digest(tmp_path) == first
    (tmp_path / "1_Pooling" / "config.json").write_text("{ }")
    assert model_digest(tmp_path) != first


def test_a_list_of_modules_that_is_none_counts_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("{")
    first = model_digest(tmp_path)
    (tmp_path / "modules.json").write_text("[")
    assert model_digest(tmp_path) != first


def test_a_report_that_passed_with_a_check_that_did_not_lets_nothing_through() -> None:
    body = BODY | {"checks": [{"name": "Quality", "passed": True}, {"name": "PeakWait", "passed": False}]}
    assert objections(sealed(body, None), None, None) == ["the gate was not passed: PeakWait"]


NO_REPORTS = [
    "{", "[]", '{"body": {}}', '{"body": 1, "sha256": ""}', '{"body": {"rate": NaN}, "sha256": ""}',
    '{"body": {"rate": 1e999}, "sha256": ""}', '{"body": {"checks": 1}, "sha256": ""}',
    '{"body": {"checks": ["Quality"]}, "sha256": ""}',
]  # fmt: skip


@pytest.mark.parametrize("text", NO_REPORTS)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(BadFile, match=r"is not JSON|is no report"):
        read_report(path)


def test_verify_ends_with_what_a_pipeline_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    path = tmp_path / "report.json"
    path.write_text(json.dumps(sealed(BODY | {"model_digest": model_digest(model)}, None)))
    parser = argparse.ArgumentParser()
    register(parser)

    def verified(*words: object) -> int:
        options = parser.parse_args(["verify", *map(str, words)])
        return int(options.run(options))

    assert verified(path, "--model", model) == 0
    (model / "config.json").write_text("{ }")
    assert verified(path, "--model", model) == 1
    assert "it is about another model" in capsys.readouterr().err
    assert verified(tmp_path / "missing.json") == 2
