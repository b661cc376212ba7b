"""vLLM as a library. Runs in the Python of vLLM's own environment (docs/benchmarks.md); ours does not have it."""

from itertools import count
from typing import Any

from comparison.wire import Answers, Door, Settings, Work, now, settings_from_argv
from vllm import LLM, SamplingParams, TokensPrompt  # type: ignore[import-not-found]
from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found]


class Vllm:
    """Defaults, but for the memory and the context of the work."""

    def __init__(self, settings: Settings) -> None:
        self._llm: Any = LLM(
            model=settings.model,
            dtype=settings.dtype,
            max_model_len=settings.max_context,
            kv_cache_memory_bytes=settings.kv_cache_bytes,
            skip_tokenizer_init=True,
        )
        self._numbers = count()

    def answer(self, work: Work) -> Answers:
        """The loop of LLM.generate, which itself gives no token before the last one: each is timed as it comes."""
        engine = self._llm.llm_engine
        params = SamplingParams(
            temperature=0.0,
            max_tokens=work.output_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        began = now()
        ids = [str(next(self._numbers)) for _ in work.prompts]
        for name, prompt in zip(ids, work.prompts, strict=True):
            engine.add_request(name, TokensPrompt(prompt_token_ids=list(prompt)), params)
        tokens: dict[str, list[int]] = {name: [] for name in ids}
        times: dict[str, list[float]] = {name: [] for name in ids}
        while engine.has_unfinished_requests():
            for output in engine.step():
                chosen = output.outputs[0].token_ids
                tokens[output.request_id].extend(chosen)
                times[output.request_id].extend([now()] * len(chosen))
        return Answers(
            began, tuple(tuple(tokens[name]) for name in ids), tuple(tuple(times[name]) for name in ids), now()
        )


if __name__ == "__main__":
    door = Door()
    door.serve(Vllm(settings_from_argv()))
