"""The committed gRPC code is what `make generate` writes."""

import subprocess
import sys
import sysconfig
from pathlib import Path

SERVER = Path(__file__).parents[3] / "server"
PB = Path("headrace_server/rpc/pb")


def test_the_committed_code_is_generated_from_the_committed_protos(tmp_path: Path) -> None:
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    protos = sorted(map(str, (SERVER / PB).glob("*.proto")))
    includes = ["-I", str(SERVER), "-I", sysconfig.get_path("purelib")]
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes, *outputs, *protos]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    written = {path.name: path.read_text() for path in (tmp_path / PB).iterdir()}
    assert written == {name: (SERVER / PB / name).read_text() for name in written}
    assert len(written) == 3 * len(protos) == 9
