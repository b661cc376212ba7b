"""`headrace key new`: an API key, shown once, and the line that `headrace serve --api-keys` needs for it."""

import argparse
import sys

from headrace_server.errors import ModelRefused
from headrace_server.rpc.api_keys import expiry, line, new_key


def register(parser: argparse.ArgumentParser) -> None:
    """Make API keys for `headrace serve --api-keys`."""
    new = parser.add_subparsers(metavar="new", required=True).add_parser("new", help="make one; nothing is stored")
    new.add_argument("--tenant", required=True, help="who will be known by the key")
    new.add_argument("--expires", metavar="DATE", help="2027-01-31 or 2027-01-31T12:00:00Z (default: never)")
    new.set_defaults(run=_new)


def _new(options: argparse.Namespace) -> int:
    key = new_key()
    try:
        expires = None if options.expires is None else expiry(options.expires, "--expires")
        hashed = line(options.tenant, key, expires)
    except ModelRefused as refused:
        sys.stderr.write(f"headrace: {refused}\n")
        return 2
    # The key alone on stdout's first line, the file's line on its second, so that a script can take either.
    sys.stdout.write(f"{key}\n{hashed}\n")
    sys.stderr.write("The first line is the key, shown only now. The second goes into the file of --api-keys.\n")
    return 0
