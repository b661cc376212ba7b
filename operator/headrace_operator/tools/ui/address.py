"""ADDRESS:PORT of the command line."""

import argparse


def listen(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8899` or `[::1]:8899`. Raises ArgumentTypeError."""
    host, separator, port = text.rpartition(":")
    if not (separator and host and port.isdecimal() and int(port) < 65536):
        raise argparse.ArgumentTypeError(f"must be ADDRESS:PORT such as 127.0.0.1:8899, not {text!r}")
    return host.strip("[]"), int(port)
