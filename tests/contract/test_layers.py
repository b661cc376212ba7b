"""Who may import whom holds: the walls of pyproject.toml, among them that decisions know no clock and no cluster."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"


def test_nobody_imports_what_is_behind_a_wall() -> None:
    done = subprocess.run([LINT_IMPORTS, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for wall in ("Decisions are pure", "The scheduler can be tested without a GPU, a clock or an event loop"):
        assert f"{wall} KEPT" in done.stdout
