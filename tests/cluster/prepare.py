"""`python -m cluster.prepare`: find or build the programs of the local cluster beforehand, and print where they lie.

A first build takes minutes, more than any test may; so `make test` does it before.
"""

import sys

from cluster.binaries import Binaries, ensure
from cluster.toolchain import BuildFailed


def main() -> int:
    try:
        binaries = ensure(lambda line: print(line, flush=True))
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    for name in Binaries.__slots__:
        print(f"{name.replace('_', '-'):<24} {getattr(binaries, name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
