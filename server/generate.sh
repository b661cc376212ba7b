#!/usr/bin/env bash
# Writes the gRPC code beside inference.proto. `make generate` calls this with the virtual environment's Python.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
"$python" -m grpc_tools.protoc -I server --python_out=server --pyi_out=server --grpc_python_out=server \
  server/headrace_server/rpc/pb/inference.proto
