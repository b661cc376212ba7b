"""What a process of each task refuses before it loads anything."""

from dataclasses import replace
from pathlib import Path

import pytest
from headrace_server.config import BatchConfig
from headrace_server.errors import ModelRefused
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.readiness import Readiness
from headrace_server.task import load
from minilm import embed_config, minilm
from prometheus_client import CollectorRegistry


def test_an_embedder_takes_no_offline_jobs_that_it_would_never_run(tmp_path: Path) -> None:
    metrics = ServerMetrics(CollectorRegistry())
    config = replace(embed_config(minilm()), batches=BatchConfig(tmp_path))
    with pytest.raises(ModelRefused, match=r"--batch-store: offline jobs generate"):
        load(config, Readiness(metrics), metrics)
