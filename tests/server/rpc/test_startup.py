"""From a checkpoint to a warm model, in this process."""

import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from headrace_server.errors import Draining, ModelRefused
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.readiness import Phase, Readiness
from headrace_server.startup import load_generator, start_up
from open_server import a_config
from prometheus_client import CollectorRegistry
from tiny_tokenizer import save_tiny_tokenizer, tiny_tokenizer


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a test loads does not stay for good."""
    yield
    gc.unfreeze()


async def test_every_phase_is_timed_and_the_last_one_is_warming(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    save_tiny_tokenizer(tmp_path)
    registry = CollectorRegistry()
    metrics = ServerMetrics(registry)
    readiness = Readiness(metrics)

    began = time.time()  # noqa: TID251
    warm = await start_up(a_config(tmp_path, max_connection_age=30), readiness, metrics, load_generator)

    assert readiness.phase is Phase.WARMING
    with pytest.raises(Draining, match="warming"):
        readiness.answers()
    assert warm.text.vocab_size == tiny_tokenizer().get_vocab_size() <= warm.limits.vocab_size
    timed = by_phase(registry, "headrace_startup_phase_seconds")
    assert list(timed) == ["tokenizer", "import", "device", "weights", "kv_cache", "kernels", "grammars", "warming"]
    assert all(seconds >= 0 for seconds in timed.values())
    ended = by_phase(registry, "headrace_startup_phase_timestamp_seconds")
    assert list(ended.values()) == sorted(ended.values())
    assert began <= ended["weights"] <= ended["warming"] <= time.time()  # noqa: TID251
    assert registry.get_sample_value("headrace_device_info", {"device": "cpu"}) == 1


def by_phase(registry: CollectorRegistry, name: str) -> dict[str, float]:
    samples = (sample for family in registry.collect() for sample in family.samples if sample.name == name)
    return {sample.labels["phase"]: sample.value for sample in samples}


async def test_the_garbage_collector_does_not_look_through_what_was_loaded(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    save_tiny_tokenizer(tmp_path)
    metrics = ServerMetrics(CollectorRegistry())
    warm = await start_up(a_config(tmp_path, max_connection_age=30), Readiness(metrics), metrics, load_generator)
    seen = {id(one) for one in gc.get_objects()}
    assert not seen & {id(warm), id(warm.runner), id(warm.text), id(json.__dict__)}
    gc.unfreeze()
    assert {id(warm), id(warm.runner), id(warm.text), id(json.__dict__)} <= {id(one) for one in gc.get_objects()}


async def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, vocab_size=100)
    save_tiny_tokenizer(tmp_path)
    metrics = ServerMetrics(CollectorRegistry())
    with pytest.raises(ModelRefused, match=r"the weights only up to 99; put the tokenizer of these weights"):
        await start_up(a_config(tmp_path, max_connection_age=30), Readiness(metrics), metrics, load_generator)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        pytest.param("tokenizer.json", "{}", "is not a tokenizer", id="no tokenizer in it"),
        pytest.param("tokenizer_config.json", "{", "is not JSON", id="broken JSON"),
        pytest.param("tokenizer_config.json", "[]", "must hold a JSON object", id="a list"),
        pytest.param("chat_template.jinja", "{% if %}", "the chat template does not parse", id="broken template"),
        pytest.param(
            "tokenizer_config.json", json.dumps({"chat_template": 5}), "chat_template must be text", id="no template"
        ),
    ],
)
async def test_a_broken_text_file_is_refused_by_its_name(tmp_path: Path, file: str, content: str, says: str) -> None:
    save_tiny_tokenizer(tmp_path)
    (tmp_path / file).write_text(content)
    metrics = ServerMetrics(CollectorRegistry())
    with pytest.raises(ModelRefused, match=says):
        await start_up(a_config(tmp_path, max_connection_age=30), Readiness(metrics), metrics, load_generator)
