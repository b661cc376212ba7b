"""Pure decisions: values and `now` in, values and reasons out. No I/O, clock, Kubernetes or logging."""
