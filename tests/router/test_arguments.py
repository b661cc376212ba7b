"""What `headrace route` is told on its command line, and what it says of what cannot be."""

import argparse
import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from headrace_router.__main__ import register
from headrace_router.arguments import settings
from headrace_router.cli import main
from headrace_router.errors import BadArguments
from headrace_router.settings import Settings, Trust
from routed import command


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), ("--deployment", "--replica", "required")),
        (("--deployment=scripture",), ("--deployment", "NAMESPACE/NAME")),
        (("--deployment=a/b/c",), ("--deployment", "NAMESPACE/NAME")),
        (("--replica=host:1",), ("--replica", "ADDRESS:GRPC_PORT:HTTP_PORT")),
        (("--replica=host:1:70000",), ("--replica",)),
        (("--replica=[::1]:1:x",), ("--replica",)),
        (("--replica=a", "--hold-seconds=-1"), ("--hold-seconds", "0")),
        (("--replica=a", "--mirror=b:1"), ("--mirror", "ADDRESS:GRPC_PORT:HTTP_PORT")),
        (("--replica=a", "--mirror-share=110%"), ("--mirror-share", "100%")),
        (("--deployment=a/b", "--mirror=b"), ("--mirror", "operator")),
        (("--replica=a", "--tls-cert=x"), ("--tls-key", "both")),
        (("--replica=a", "--replica-ca=x"), ("--replica-ca", "--replica-name")),
        (("--replica=a", "--replica-name=x"), ("--replica-name", "--replica-ca")),
        (("--replica=a", "--replica-ca=x", "--replica-name=10.0.0.1"), ("--replica-name", "10.0.0.1", "DNS name")),
        (("--replica=a", "--replica-ca=x", "--replica-name=::1"), ("--replica-name", "::1", "DNS name")),
        (("--replica=a", "--replica-ca=x", "--replica-name=*.a.svc"), ("--replica-name", "*.a.svc", "DNS name")),
        (("--replica=a", "--models=x"), ("not allowed",)),
        (("--models=/nowhere",), ("--models", "/nowhere")),
        (("--models=/nowhere", "--replica-name=x"), ("--replica-name", "--replica-ca")),
        (("--replica=a", "--tls-cert=/nowhere", "--tls-key=/nowhere"), ("/nowhere", "cannot be read")),
        (("--replica=a", "--replica-ca=/dev/null", "--replica-name=x"), ("--replica-ca", "PEM")),
        (("--replica=a", "--replica-ca=/nowhere", "--replica-name=x"), ("--replica-ca", "/nowhere", "cannot be read")),
        (("--replica=a", "--threads=0"), ("--threads", "1")),
        (("--replica=a", "--deployment=a/b"), ("not allowed",)),
    ],
)
def test_what_cannot_be_is_refused_with_its_flag(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    status: object = None
    with contextlib.suppress(SystemExit):
        status = main(["route", *flags])
    said = capsys.readouterr().err
    assert status in (None, 2)  # None: argparse ended it, which it does with 2
    assert all(word in said for word in words), said


CA, OTHER, BESIDE = Path("/ca.crt"), Path("/other.crt"), Path("b/ca.crt")


@pytest.mark.parametrize(
    ("model", "flags", "trust"),
    [
        pytest.param({"deployment": "a/b"}, (), None, id="plain text"),
        pytest.param({"deployment": "a/b", "replicaCa": "/ca.crt"}, (), Trust(CA, "b.a.svc"), id="by its Service"),
        pytest.param({"deployment": "a/b", "replicaCa": "b/ca.crt"}, (), Trust(BESIDE, "b.a.svc"), id="beside it"),
        pytest.param(
            {"deployment": "a/b", "replicaCa": "/ca.crt", "replicaName": "x"}, (), Trust(CA, "x"), id="by another name"
        ),
        pytest.param({"deployment": "a/b"}, ("--replica-ca=/other.crt",), Trust(OTHER, "b.a.svc"), id="as all others"),
        pytest.param(
            {"deployment": "a/b", "replicaCa": "/ca.crt"},
            ("--replica-ca=/other.crt", "--replica-name=x"), Trust(CA, "b.a.svc"), id="unlike all others",
        ),
        pytest.param(
            {"replicas": ["a"], "replicaName": "y"},
            ("--replica-ca=/other.crt", "--replica-name=x"), Trust(OTHER, "y"), id="with a name of its own",
        ),
    ],
)  # fmt: skip
def test_a_model_says_whom_its_replicas_are_trusted_by(
    tmp_path: Path, model: dict[str, object], flags: tuple[str, ...], trust: Trust | None
) -> None:
    (told,) = parsed(tmp_path, model, *flags).models
    expected = trust and Trust(tmp_path / trust.authority, trust.name)
    assert told.trust == expected


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"replicas": ["a"], "replicaCa": "/ca.crt"}, ("models.small.replicaCa needs", "models.small.replicaName")),
        ({"deployment": "a/b", "replicaName": "x"}, ("models.small.replicaName is for", "give", "replicaCa, too")),
    ],
)
def test_half_of_what_a_models_tls_needs_is_refused(
    tmp_path: Path, model: dict[str, object], words: tuple[str, ...]
) -> None:
    with pytest.raises(BadArguments) as refused:
        parsed(tmp_path, model)
    assert all(word in str(refused.value) for word in words), refused.value


def parsed(tmp_path: Path, model: dict[str, object], *flags: str) -> Settings:
    file = tmp_path / "models.yaml"
    file.write_text(yaml.safe_dump({"models": {"small": model}, "default": "small"}))
    parser = argparse.ArgumentParser()
    register(parser)
    return settings(parser.parse_args([f"--models={file}", *flags]), tmp_path)


def test_no_way_to_the_api_server_ends_it_with_the_remedy() -> None:
    wrong = command("--deployment=a/b", "--kubeconfig=/nowhere")
    done = subprocess.run(wrong, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert "--kubeconfig" in done.stderr


def test_help_waits_for_neither_envoy_nor_kubernetes() -> None:
    program = """
import sys, headrace_router.cli
try:
    headrace_router.cli.main(["route", "--help"])
except SystemExit:
    pass
print(sorted({"kubernetes", "aiohttp", "uvloop"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
