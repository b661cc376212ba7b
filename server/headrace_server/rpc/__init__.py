"""The doors: gRPC and HTTP. The only room that knows either."""
