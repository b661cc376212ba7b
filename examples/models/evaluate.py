"""Perplexity of the shipped models on the golden set, by transformers in float32: `python examples/models/evaluate.py`.

`--write` records what was measured in golden.json, which the tests hold every later change to.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
NAMES = ("scripture-5m", "scripture-1m")
PROMPTS = ("In the beginning", "And the king said unto", "Blessed are they that")
ANSWER = 24  # tokens


def golden_texts() -> list[str]:
    """The held-out chapters, which no training saw."""
    return [json.loads(line)["text"] for line in (HERE / "golden.jsonl").read_text().splitlines()]


@torch.no_grad()
def measure(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Each chapter from its first token to its end mark, in windows of the model's context."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    context, end = model.config.max_position_embeddings, tokenizer.eos_token_id
    nats, predicted = 0.0, 0
    for text in texts:
        ids = [end, *tokenizer.encode(text, add_special_tokens=False), end]
        for start in range(0, len(ids) - 1, context - 1):
            row = torch.tensor([ids[start : start + context]])
            nats += model(input_ids=row, labels=row).loss.item() * (row.shape[1] - 1)
            predicted += row.shape[1] - 1
    return {
        "parameters": sum(p.numel() for p in {id(p): p for p in model.parameters()}.values()),
        "tokens": predicted,
        "nats_per_token": round(nats / predicted, 5),
        "perplexity": round(math.exp(nats / predicted), 3),
        "completions": {prompt: _greedy(model, tokenizer, prompt) for prompt in PROMPTS},
    }


def _greedy(model: Any, tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    ids = model.generate(**inputs, max_new_tokens=ANSWER, do_sample=False)
    return str(tokenizer.decode(ids[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="record the figures in golden.json")
    options = parser.parse_args()
    texts = golden_texts()
    figures = {
        "dtype": "float32",
        "torch": torch.__version__.partition("+")[0],
        "transformers": transformers.__version__,
        "models": {name: measure(HERE / name, texts) for name in NAMES},
    }
    print(json.dumps(figures, indent=2))
    if options.write:
        (HERE / "golden.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
