"""Trains the shipped model pair: `python examples/models/train.py` (README.md has the times).

Plain next-token training of transformers' own LlamaForCausalLM, so that the result is a Llama checkpoint by
construction. The seed is fixed; another machine's arithmetic still gives slightly other weights. What is kept is the
checkpoint with the lowest held-out loss: one megabyte of text is soon learnt by heart.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from corpus import chapters, split
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
VOCABULARY = 4096
CONTEXT = 1024  # trained at this length, so this is what config.json promises
RESUMED = 0.6  # of the peak learning rate, for a run that goes on from a checkpoint
END = "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"  # it continues, it does not converse
)


@dataclass(frozen=True, slots=True)
class Shape:
    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    epochs: float
    peak_rate: float

    def config(self, end: int) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=self.hidden, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.kv_heads, intermediate_size=self.intermediate,
            max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=end, eos_token_id=end,
            rms_norm_eps=1e-5, initializer_range=0.02, attention_dropout=0.0,
        )  # fmt: skip


SHAPES = (
    Shape("scripture-1m", 128, 3, 4, 2, 352, epochs=8, peak_rate=4e-3),
    Shape("scripture-5m", 256, 6, 8, 4, 704, epochs=6, peak_rate=2.5e-3),
)


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text has tokens, and no text is unknown."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, min_frequency=2, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator(documents, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, bos_token=END, model_max_length=CONTEXT)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> torch.Tensor:
    """All documents in one row of int64 token ids, each ended by END."""
    ids: list[int] = []
    for text in documents:
        ids += [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    return torch.tensor(ids)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> float:
    """Nats a token over consecutive windows."""
    model.eval()
    windows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    loss = sum(model(input_ids=row[None], labels=row[None]).loss.item() for row in windows) / len(windows)
    model.train()
    return loss


def train(
    shape: Shape, training: torch.Tensor, held_out: torch.Tensor, options: argparse.Namespace
) -> LlamaForCausalLM:
    torch.manual_seed(7 if options.resume is None else 8)
    model = LlamaForCausalLM(shape.config(end=0))
    peak = shape.peak_rate
    if options.resume:
        model = LlamaForCausalLM.from_pretrained(options.resume, dtype=torch.float32)
        peak *= RESUMED
    weights = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))
    steps = int(shape.epochs * len(training) / (options.batch * CONTEXT))
    started, best = time.monotonic(), (math.inf, model.state_dict())
    for step in range(steps):
        done = max(step / steps, (time.monotonic() - started) / options.seconds)  # the schedule ends when the time does
        if done >= 1:
            break
        rate = peak * min(1, (step + 1) / 30) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(0, len(training) - CONTEXT, (options.batch,))
        rows = torch.stack([training[start : start + CONTEXT] for start in starts])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
            loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            print(
                f"{shape.name} step {step}/{steps} loss {loss.item():.3f} {time.monotonic() - started:.0f} s",
                flush=True,
            )
        if step % 60 == 59:
            best = keep_better(model, held_out, best, options.out / f"{shape.name}-early")
    best = keep_better(model, held_out, best, options.out / f"{shape.name}-early")
    model.load_state_dict(best[1])
    print(f"{shape.name}: held-out loss {best[0]:.4f}, {time.monotonic() - started:.0f} s", flush=True)
    return model


Best = tuple[float, dict[str, torch.Tensor]]


def keep_better(model: LlamaForCausalLM, held_out: torch.Tensor, best: Best, folder: Path) -> Best:
    loss = held_out_loss(model, held_out)
    print(f"  held-out loss {loss:.4f} (perplexity {math.exp(loss):.2f})", flush=True)
    if loss >= best[0]:
        return best
    model.save_pretrained(folder)
    return loss, {name: value.clone() for name, value in model.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where the model folders go")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "headrace" / "corpus")
    parser.add_argument("--batch", type=int, default=4, help="windows of 1024 tokens a step")
    parser.add_argument("--seconds", type=float, default=2400, help="wall time for each model, at most")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 arithmetic, where the CPU is fast at it")
    parser.add_argument("--resume", type=Path, help="go on from this checkpoint, with --only")
    parser.add_argument("--only", help="train only the model of this name")
    options = parser.parse_args()
    training, held_out = split(chapters(options.cache))
    tokenizer = train_tokenizer(training)
    rows = encode(tokenizer, training), encode(tokenizer, held_out)
    print(f"{len(rows[0])} training tokens, {len(rows[1])} held-out tokens", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "golden.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in held_out))
    for shape in SHAPES:
        tokenizer.save_pretrained(options.out / shape.name)
        if options.only in (None, shape.name):
            model = train(shape, *rows, options).to(torch.bfloat16)
            model.generation_config.pad_token_id = tokenizer.eos_token_id
            model.save_pretrained(options.out / shape.name)


if __name__ == "__main__":
    main()
