"""What moves logits before a token is chosen, greedy or drawn: biases, stop tokens held back, penalties."""

from torch import Tensor

from headrace_server.model.sampling_settings import (
    FREQUENCY,
    PRESENCE,
    REPETITION,
    Additions,
    Counts,
    Features,
    Settings,
)


def moved(logits: Tensor, settings: Settings, features: Features, positions: Tensor) -> Tensor:
    """Biases and held-back stop tokens, then penalties: vLLM's order. float32 (rows, vocab), a new tensor if changed.

    `positions` int64 (rows): of the tokens to be chosen.
    """
    if features.biases and settings.biases is not None:
        logits = _added(logits, settings.biases)
    if features.min_tokens and settings.stops is not None:
        too_early = positions.unsqueeze(1) < settings.stops_from
        logits = _added(logits, Additions(settings.stops.ids, settings.stops.values.masked_fill(~too_early, 0.0)))
    if features.penalties and settings.counts is not None:
        logits = _penalised(logits, settings, settings.counts)
    return logits


def _added(logits: Tensor, additions: Additions) -> Tensor:
    """Unused places add 0, so it does not matter that they may share a token with a used one."""
    return logits.scatter_add(1, additions.ids, additions.values)


def _penalised(logits: Tensor, settings: Settings, counts: Counts) -> Tensor:
    """Repetition (prompt and answer) as in transformers, then frequency and presence (answer only) as OpenAI has them.

    Settings that mean nothing change no bit: dividing by 1 and taking away 0 are exact.
    """
    answered = counts.answer > 0
    factor = settings.column(REPETITION)
    repeated = (logits / factor).where(logits > 0, logits * factor)
    logits = repeated.where(answered | counts.prompt, logits)
    return logits - settings.column(FREQUENCY) * counts.answer - settings.column(PRESENCE) * answered
