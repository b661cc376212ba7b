"""Pure choices: which replica next, who is held, who is told no. No I/O, clock, Envoy or Kubernetes."""
