"""Headrace and its peers on the same work in one run, and how far each is from what the machine could do at best.

    python bench/engine.py --model llama-144m --requests 1,16,64 --prompt 128 --output 64 --peers hf,vllm --json -

Each side has its own process, loaded one after the other; then they take turns, so that a busy moment of the machine
hits all of them, while those whose turn it is not are stopped. docs/benchmarks.md says what each figure means and how
to install vLLM, which needs an environment of its own.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import torch
from comparison.figures import Load, Measured, agreeing, row
from comparison.floor import Shape, Speeds
from comparison.plan import Plan
from comparison.process import Command, SideBroken, SideProcess
from comparison.report import add_json, report
from comparison.wire import Answers

SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "scripture-5m"
OURS = "headrace"

HEADRACE, TRANSFORMERS, VLLM = "comparison.headrace_side", "comparison.hf_side", "comparison.vllm_side"
PEERS: dict[str, Callable[[str], Command]] = {  # from the Python of vLLM
    "headrace-sync": lambda _: Command("headrace-sync", sys.executable, HEADRACE, ("synchronous",)),
    "hf": lambda _: Command("hf", sys.executable, TRANSFORMERS, ("continuous",)),
    "hf-generate": lambda _: Command("hf-generate", sys.executable, TRANSFORMERS, ("generate",)),
    "vllm": lambda python: Command("vllm", python, VLLM),
}


def main() -> None:
    options = parsed(sys.argv[1:])
    plan = planned(options)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}  # noqa: TID251 - the command-line edge
    try:
        measured, speeds = compare(plan, environment)
    except SideBroken as broken:
        sys.exit(str(broken))
    ours = {one.load: one for one in measured if one.name == OURS}
    rows = [row(one, ours[one.load], plan.floor(speeds, one.load)) for one in measured]
    report(options.json, work(plan), rows, **machine(plan, speeds))
    wrong = [f"{one.name}, {one.load}: {one.wrong}" for one in measured if one.wrong]
    if wrong:
        sys.exit(f"requests answered otherwise than by transformers' generate(): {'; '.join(wrong)}")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, default=SHIPPED, help="checkpoint directory (default: the shipped one)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--requests", type=_counts, default=(1, 8, 32), help="together; several, with commas: each is a load")
    add("--prompt", type=_counts, default=(32,), help="tokens of a request; several likewise")
    add("--output", type=_count, default=64, help="tokens answered to a request")
    add("--peers", type=_peers, default=("hf-generate",), help=f"some of {', '.join(PEERS)}; '' for none")
    add("--vllm-python", help="the Python of vLLM's environment (default: HEADRACE_VLLM_PYTHON)")
    add("--rounds", type=_count, default=5, help="turns of each side on each load; the median counts")
    add("--no-check", action="store_true", help="do not compare float32 answers with those of generate()")
    add_json(parser)
    return parser.parse_args(arguments)


def planned(options: argparse.Namespace) -> Plan:
    if not (options.model / "config.json").is_file():
        sys.exit(f"--model {options.model}: no config.json there; bench/make_checkpoint.py writes a checkpoint")
    shape = Shape.read(options.model, options.dtype)
    longest = max(options.prompt) + options.output
    if longest > shape.max_context:
        sys.exit(f"--prompt + --output are {longest} tokens; max_position_embeddings is {shape.max_context}")
    return Plan(
        model=options.model,
        shape=shape,
        dtype=options.dtype,
        device=options.device,
        loads=tuple(Load(*sizes, options.output) for sizes in product(options.requests, options.prompt)),
        peers=tuple(PEERS[name](_vllm_python(options) if name == "vllm" else "") for name in options.peers),
        rounds=options.rounds,
        check=options.dtype == "float32" and not options.no_check,
    )


def compare(plan: Plan, environment: dict[str, str]) -> tuple[list[Measured], Speeds]:
    speeds = Speeds.measured(plan.shape, plan.dtype, plan.device)
    with tempfile.TemporaryDirectory() as logs, ExitStack() as stack:

        def start(command: Command) -> SideProcess:
            return SideProcess(command, plan.settings, Path(logs), environment)

        right = oracle_answers(plan, start) if plan.check else {}
        measured: list[Measured] = []
        sides: list[tuple[SideProcess, dict[Load, Measured]]] = []
        for command in (Command(OURS, sys.executable, HEADRACE), *plan.peers):
            tell(f"{command.name}: loading")
            side = stack.enter_context(start(command))
            load_seconds = side.first_token(plan.work(plan.loads[0], turn=-1).prompts[0])
            tell(f"{command.name}: first token after {load_seconds:.1f} s")
            found = {load: Measured(side.name, load, load_seconds) for load in plan.loads}
            sides.append((side, found))
            measured += found.values()
        for load in plan.loads:
            take_turns(plan, load, [(side, found[load]) for side, found in sides], right.get(load))
    return measured, speeds


def take_turns(plan: Plan, load: Load, sides: list[tuple[SideProcess, Measured]], right: Answers | None) -> None:
    """Turn 0 warms each side and is compared with the oracle; the others are measured."""
    for turn in range(plan.rounds + 1):
        work = plan.work(load, turn)
        for side, measured in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
            answers = side.answer(work)
            tell(f"{load}, turn {turn}: {side.name} {load.output_tokens / answers.seconds:.1f} tokens/s")
            if turn:
                measured.rounds.append(answers)
            elif right is not None:
                measured.agreeing = agreeing(answers, right)


def oracle_answers(plan: Plan, start: Callable[[Command], SideProcess]) -> dict[Load, Answers]:
    """In a process that is gone before anybody is timed."""
    tell("oracle: answering")
    with start(Command("oracle", sys.executable, TRANSFORMERS, ("oracle",))) as oracle:
        return {load: oracle.answer(plan.work(load, turn=0)) for load in plan.loads}


def machine(plan: Plan, speeds: Speeds) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if plan.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "read_gigabytes_per_second": round(speeds.read / 1e9, 1),
        "multiply_gigaflops": round(speeds.multiply / 1e9, 1),
    }


def work(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.model.resolve().name,
        "dtype": plan.dtype,
        "parameters": plan.shape.parameters,
        "rounds": plan.rounds,
    }


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _vllm_python(options: argparse.Namespace) -> str:
    python = options.vllm_python or os.environ.get("HEADRACE_VLLM_PYTHON")  # noqa: TID251 - the command-line edge
    if not python:
        sys.exit("--peers names vllm: give its Python as --vllm-python or HEADRACE_VLLM_PYTHON (docs/benchmarks.md)")
    if not Path(python).is_file():
        sys.exit(f"--vllm-python {python}: there is no such file")
    return str(python)


def _peers(words: str) -> tuple[str, ...]:
    names = tuple(name for name in words.split(",") if name)
    strange = [name for name in names if name not in PEERS]
    if strange:
        raise argparse.ArgumentTypeError(f"names {', '.join(strange)}; known: {', '.join(PEERS)}")
    return names


def _counts(words: str) -> tuple[int, ...]:
    return tuple(map(_count, words.split(",")))


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"is {word}; must be a whole number above 0")
    return int(word)


if __name__ == "__main__":
    main()
