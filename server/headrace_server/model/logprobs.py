"""How likely the model itself held a token: the log-softmax of its logits before any setting touched them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace_server.request import MOST_LOGPROBS


@dataclass(frozen=True, slots=True)
class LogprobRows:
    chosen: Tensor  # float32 (rows)
    top_ids: Tensor  # int64 (rows, n), the likeliest first
    top: Tensor  # float32 (rows, n)


def logprobs(logits: Tensor, token_ids: Tensor, top: int) -> LogprobRows:
    """logits float32 (rows, vocab); token_ids int64 (rows). Also for a prompt: row i and the token that follows it.

    Not `log_softmax`, which writes all of the vocabulary: the same numbers from the few logits that are wanted.
    """
    total = logits.logsumexp(dim=-1, keepdim=True)
    best, ids = _best(logits, min(top, logits.shape[1]))
    chosen = logits.gather(1, token_ids.unsqueeze(1))
    return LogprobRows((chosen - total).squeeze(1), ids, best - total)


def _best(logits: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Always as many are looked for as may be wanted: which of equal ones come first follows from that number, and a
    step's is that of the neighbour who wants the most."""
    found = logits.topk(min(max(wanted, MOST_LOGPROBS), logits.shape[1]) if wanted else 0, dim=-1)
    return found.values[:, :wanted], found.indices[:, :wanted].contiguous()


def logprobs_by_row(logits: Tensor, token_ids: Tensor, top: int) -> LogprobRows:
    """Likewise; how many rows there are changes no bit of one."""
    rows = zip(torch.split(logits, 1), torch.split(token_ids, 1), strict=True)
    return together([logprobs(one, token_id, top) for one, token_id in rows])


def together(parts: Sequence[LogprobRows]) -> LogprobRows:
    """One after the other; all with as many of the likeliest."""
    return LogprobRows(
        chosen=torch.cat([part.chosen for part in parts]),
        top_ids=torch.cat([part.top_ids for part in parts]),
        top=torch.cat([part.top for part in parts]),
    )
