"""`python -m cluster.prepare`: find or build the programs that the tests run beforehand, and print where they lie.

A first build takes minutes, more than any test may; so `make test` does it before.
"""

import sys

from cluster import browser, debian
from cluster.binaries import ensure
from cluster.toolchain import BuildFailed


def main() -> int:
    try:
        binaries = ensure(_say)
        prometheus = debian.ensure(_say)
        chromium = browser.ensure(_say)
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    for found in (binaries, prometheus):
        for name in found.__slots__:
            print(f"{name.replace('_', '-'):<24} {getattr(found, name)}")
    print(f"{'chromium':<24} {chromium.program}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
