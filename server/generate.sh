#!/usr/bin/env bash
# Writes the gRPC code beside each .proto. `make generate` calls this with the virtual environment's Python.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
common=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')  # google/rpc/status.proto
"$python" -m grpc_tools.protoc -I server -I "$common" \
  --python_out=server --pyi_out=server --grpc_python_out=server server/headrace_server/rpc/pb/*.proto
