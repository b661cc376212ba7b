"""`headrace gate`: may this model be released? Measured once, recorded, and asked for later."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from headrace_server import evaluate_command, speculative_options, task_scores
from headrace_server.errors import ModelRefused
from headrace_server.evaluation import BadFile, Thresholds, read_golden, read_thresholds, regressions
from headrace_server.gate import options as gate_options
from headrace_server.gate import play
from headrace_server.gate.baseline import read_baseline
from headrace_server.gate.checks import Check, Limits, Measured, checked, read_limits
from headrace_server.gate.machine import measuring
from headrace_server.gate.report import (
    Signers,
    model_digest,
    objections,
    private_key,
    public_key,
    read_report,
    sealed,
)
from headrace_server.gate.server_process import serving
from headrace_server.report_file import check_place, leave

FAILED, CANNOT = 1, 2  # exit statuses
CALM = 0.7  # of the capacity: the steady load
BEYOND = 1.5  # of the capacity: the peak


def register(parser: argparse.ArgumentParser) -> None:
    """Hold a model to its quality, minutes of load and more load than it carries; write a signed report."""
    commands = parser.add_subparsers(metavar="{run,verify}", required=True)
    _register_run(commands.add_parser("run", help="measure, and write the report; exit 1 when a check fails"))
    verify = commands.add_parser("verify", help="exit 1 unless this report lets a model through")
    verify.add_argument("report", type=Path, help="written by `headrace gate run --json`")
    verify.add_argument("--model", type=Path, help="folder of the model that it must be about")
    verify.add_argument("--public-key", type=Path, help="PEM of the Ed25519 key that must have signed it")
    verify.set_defaults(run=_verify)


def _register_run(parser: argparse.ArgumentParser) -> None:
    evaluate_command.register(parser)
    add = parser.add_argument_group("load").add_argument
    add("--minutes", type=_above_0, default=30.0, help="of steady load, at 70 %% of the capacity (default %(default)g)")
    add("--peak-minutes", type=_above_0, default=2.0, help="at 1.5 times the capacity (default %(default)g)")
    add("--capacity-minutes", type=_above_0, default=1.0, help="that measure the capacity (default %(default)g)")
    add("--limits", type=Path, help="JSON object of what else is allowed (default: docs/gate.md)")
    add("--baseline", type=Path, help="report of an earlier release on this machine: its speed is to be kept")
    gate_options.register(parser)
    add = parser.add_argument_group("report").add_argument
    add("--sign-off", metavar="NAME", required=True, help="who stands for this release")
    add("--key", type=Path, help="PEM of an Ed25519 private key that signs the report (default: a digest alone)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """1: a check failed; 2: it could not be measured."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("headrace gate: asked to stop"))  # and end the server
    try:
        check_place(options.json)
        key = None if options.key is None else private_key(options.key)
        body = _body(options)
        _write(options.json, sealed(body, key))
    except (BadFile, ModelRefused, OSError, aiohttp.ClientError) as refused:
        return _refused(refused)
    return 0 if body["passed"] else FAILED


def _refused(why: Exception) -> int:
    _tell(f"headrace gate: {why}")
    return CANNOT


def _verify(options: argparse.Namespace) -> int:
    try:
        digest = None if options.model is None else model_digest(options.model)
        found = objections(read_report(options.report), digest, _signers(options.public_key))
    except (BadFile, OSError) as refused:
        return _refused(refused)
    for objection in found:
        _tell(f"headrace gate: {options.report}: {objection}")
    return FAILED if found else 0


def _signers(path: Path | None) -> Signers | None:
    """Raises BadFile, OSError."""
    return None if path is None else Signers((public_key(path),), str(path))


def _body(options: argparse.Namespace) -> dict[str, Any]:
    """Raises BadFile, ModelRefused, OSError, aiohttp.ClientError."""
    limits = Limits() if options.limits is None else read_limits(options.limits)
    allowed = Thresholds() if options.thresholds is None else read_thresholds(options.thresholds)
    here = measuring(options.device)
    baseline = None if options.baseline is None else read_baseline(options.baseline, options.task, here)
    guessing = speculative_options.speculative_from(options)
    draft = None if guessing is None else guessing.draft_model
    asks = evaluate_command.harness_of(options)
    digest, golden = model_digest(options.model), read_golden(options.golden)
    draft_digest = draft and model_digest(draft)
    quality = evaluate_command.evaluated(options, golden, _tell)
    tasks = () if asks is None else evaluate_command.scores_of(options, asks)
    worse = regressions(quality, allowed) + task_scores.regressions(tasks, allowed.task_drop)
    full, measured = asyncio.run(_played(options, draft, tuple(worse)))
    checks = checked(measured, limits, baseline)
    return {
        "passed": all(check.passed for check in checks),
        "signed_off_by": options.sign_off,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),  # noqa: TID251 - the command-line edge
        "task": options.task,
        "model": options.model.resolve().name,
        "model_digest": digest,
        "against": str((options.against or options.model).name),
        "serve_options": gate_options.serve_options(options),
        "draft_model_digest": draft_digest,
        "machine": here,
        "checks": [_told(check) for check in checks],
        "quality": asdict(quality),
        "tasks": task_scores.as_json(tasks),
        "quality_thresholds": evaluate_command.held_to(allowed, quality, tasks),
        "requests_per_second": full[0],
        "tokens_per_second": measured.tokens_per_second,
        "steady": asdict(measured.steady),
        "peak": asdict(measured.peak),
        "limits": asdict(limits),
        "baseline_tokens_per_second": baseline,
    }


async def _played(
    options: argparse.Namespace, draft: Path | None, worse: tuple[str, ...]
) -> tuple[tuple[float, float], Measured]:
    with tempfile.TemporaryDirectory() as scratch:
        async with serving(_serve_options(options, draft), Path(scratch) / "server.log", options.task) as server:
            _tell("a full server")
            full = await play.capacity(server, options.max_running, 60 * options.capacity_minutes)
            _tell(f"{full[0]:.3g} requests/s, {full[1]:.4g} tokens/s")
            if not full[0]:
                raise ModelRefused("nobody was answered while the capacity was measured; raise --capacity-minutes")
            steady = await play.steady(server, CALM * full[0], 60 * options.minutes, _tell)
            _tell("a peak")
            peak = await play.peak(server, BEYOND * full[0], 60 * options.peak_minutes)
    return full, Measured(worse, full[1], steady, peak)


def _serve_options(options: argparse.Namespace, draft: Path | None) -> list[str]:
    guesses = [] if draft is None else [f"--draft-model={draft}"]
    return [f"--model={options.model}", "--name=gate", *gate_options.serve_options(options), *guesses]


def _told(check: Check) -> dict[str, Any]:
    return {"name": str(check.name), "passed": check.passed, "why": check.why}


def _write(where: str | None, report: dict[str, Any]) -> None:
    if where is None:
        checks = report["body"]["checks"]
        lines = [
            f"{'passed' if check['passed'] else 'FAILED':<8}{check['name']:<16} {check['why']}" for check in checks
        ]
        sys.stdout.write("\n".join([*lines, ""]))
        return
    leave(where, json.dumps(report, indent=2) + "\n")


def _above_0(word: str) -> float:
    value = float(word)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"is {word}; must be a number above 0")
    return value


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
