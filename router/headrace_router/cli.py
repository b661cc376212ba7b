"""The `headrace` command: every installed Headrace distribution adds its subcommands through an entry point.

The programs never import each other, so each ships this dispatcher; a contract test keeps them equal.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

GROUP = "headrace.commands"  # entry point: name -> register(parser), which sets the default `run`


def commands() -> dict[str, list[EntryPoint]]:
    """Entry points by the distribution that brings them, both sorted by name."""
    grouped: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        owner = point.dist.name if point.dist else "unknown"
        grouped.setdefault(owner, []).append(point)
    return dict(sorted(grouped.items()))


def overview() -> str:
    """The help page: one line a command, grouped by distribution. Loads each command for its first docstring line."""
    lines = ["usage: headrace COMMAND [options]", "", "`headrace COMMAND --help` explains one command.", ""]
    for owner, points in commands().items():
        lines += [f"{owner}:", *(f"  {point.name:<12} {_summary(point)}" for point in points), ""]
    return "\n".join(lines)


def _summary(point: EntryPoint) -> str:
    return (point.load().__doc__ or "").strip().partition("\n")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns its exit status; 2 for an unknown command."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help", "help"}:
        sys.stdout.write(overview())
        return 0
    found = {point.name: point for points in commands().values() for point in points}.get(words[0])
    if found is None:
        sys.stderr.write(f"headrace: unknown command {words[0]!r}; `headrace --help` lists the commands\n")
        return 2
    register = found.load()
    parser = argparse.ArgumentParser(prog=f"headrace {words[0]}", description=register.__doc__)
    register(parser)
    options = parser.parse_args(words[1:])
    return int(options.run(options) or 0)
