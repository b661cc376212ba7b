"""transformers: continuous batching (generate_batch), or generate() on one padded batch, which is also the oracle."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from comparison.wire import Answers, Door, Settings, Side, Work, now, settings_from_argv
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)
from transformers.utils import logging

PAGE = 256  # tokens; generate_batch's default
SPARE = 2  # pages


class ContinuousBatching:
    def __init__(self, settings: Settings) -> None:
        self._model = model_of(settings)
        pages = settings.max_requests * -(-settings.max_context // PAGE)
        self._config = ContinuousBatchingConfig(
            num_blocks=pages + SPARE, max_requests_per_batch=settings.max_requests
        )  # without a number of blocks it takes 60 % of a machine's memory
        self._sized_for = (0, 0, 0)  # requests, prompt tokens, output tokens

    def answer(self, work: Work) -> Answers:
        """The manager and its cache stay while the work has the same shape; the last token ends the time."""
        shape = (len(work.prompts), max(map(len, work.prompts)), work.output_tokens)
        if shape != self._sized_for:
            self._model.destroy_cached_continuous_batching_manager()
            self._sized_for = shape
        began = now()
        found = self._model.generate_batch(
            inputs=[list(prompt) for prompt in work.prompts],
            generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                max_new_tokens=work.output_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=self._config,
            record_timestamps=True,
            persistent_manager=True,
        )
        if len(found) != len(work.prompts):
            raise RuntimeError(f"generate_batch answered {len(found)} of {len(work.prompts)} requests")
        times = tuple(tuple(one.timestamps) for one in found.values())
        tokens = tuple(tuple(one.generated_tokens) for one in found.values())
        return Answers(began, tokens, times, max(row[-1] for row in times))


class Generate:
    """All prompts of a work must be equally long. Only the end of the batch can be timed."""

    def __init__(self, settings: Settings) -> None:
        self._model = model_of(settings)

    def answer(self, work: Work, *watchers: LogitsProcessor) -> Answers:
        began = now()
        ids = torch.tensor(work.prompts, device=self._model.device)
        with torch.inference_mode():
            found = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=work.output_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                logits_processor=LogitsProcessorList(watchers),
            )
        tokens = tuple(map(tuple, found[:, ids.shape[1] :].tolist()))
        return Answers(began, tokens, None, now())


class Oracle(Generate):
    """The same, and how close each second choice was."""

    def answer(self, work: Work, *watchers: LogitsProcessor) -> Answers:
        seconds = SecondChoices()
        answers = super().answer(work, seconds, *watchers)
        return replace(answers, margins=tuple(zip(*seconds.steps, strict=True)))


class SecondChoices(LogitsProcessor):
    def __init__(self) -> None:
        self.steps: list[list[tuple[int, float]]] = []  # for each request

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logits, ids = scores.float().topk(2)
        margins = logits[:, 0] - logits[:, 1]
        self.steps.append(list(zip(ids[:, 1].tolist(), margins.tolist(), strict=True)))
        return scores


def model_of(settings: Settings) -> Any:
    dtype = getattr(torch, settings.dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(settings.model, dtype=dtype)
    return model.to(settings.device).eval()


if __name__ == "__main__":
    door = Door()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    sides: dict[str, Callable[[Settings], Side]] = {
        "continuous": ContinuousBatching,
        "generate": Generate,
        "oracle": Oracle,
    }
    door.serve(sides[sys.argv[2]](settings_from_argv()))
