"""The committed gRPC code is what `make generate` writes."""

import subprocess
import sys
from pathlib import Path

SERVER = Path(__file__).parents[3] / "server"
PB = Path("headrace_server/rpc/pb")


def test_the_committed_code_is_generated_from_the_committed_proto(tmp_path: Path) -> None:
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I",
        str(SERVER),
        *outputs,
        str(SERVER / PB / "inference.proto"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    written = {path.name: path.read_text() for path in (tmp_path / PB).iterdir()}
    assert written == {name: (SERVER / PB / name).read_text() for name in written}
    assert len(written) == 3
