"""A server that was given a gate's report loads the model that passed it, served as it was measured, and no other."""

from pathlib import Path

from headrace_server.config import GateConfig
from headrace_server.errors import ModelRefused
from headrace_server.evaluation import BadFile
from headrace_server.gate.options import differences
from headrace_server.gate.report import Signers, model_digest, objections, public_key_of_line, read_report

REMEDY = "give the report of a `headrace gate run` of this model with these options (docs/gate.md)"


def check(gate: GateConfig, model: Path) -> None:
    """Raises ModelRefused."""
    try:
        report = read_report(gate.report)
    except OSError as error:
        raise ModelRefused(f"--gate-report={gate.report}: {error.strerror}; {REMEDY}") from error
    except BadFile as broken:
        raise ModelRefused(f"--gate-report={broken}; {REMEDY}") from broken
    # A model may be hundreds of gigabytes: it is read only where nothing else is wrong.
    found = objections(report, None, _signers(gate)) + differences(report["body"], gate.options)
    if found := found or objections(report, _digest(model), None):
        raise ModelRefused(f"--gate-report={gate.report}: {'; '.join(found)}; {REMEDY}")


def _signers(gate: GateConfig) -> Signers | None:
    """None: nobody has to have signed."""
    keys = tuple(map(public_key_of_line, gate.public_keys))
    return Signers(keys, "a key of --gate-public-key") if keys else None


def _digest(model: Path) -> str:
    try:
        return model_digest(model)
    except OSError as error:
        raise ModelRefused(f"{error.filename}: {error.strerror}; name a folder that the server can read") from error
