"""Where a server listens: one side of a contract with `headrace serve`, which is told these numbers."""

GRPC_PORT = 50051
HTTP_PORT = 8000
ADMIN_PORT = 9090  # /metrics, /health, /ready, /drain, and golden prompts; plain text also where the others are not
