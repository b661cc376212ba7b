"""Generated from inference.proto by `make generate`."""
