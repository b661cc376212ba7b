"""The model's tokenizer as the doors use it: text and chats to ids, ids back to text."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from headrace_server.engine.stops import StopMatcher
from headrace_server.errors import ModelRefused
from headrace_server.rpc.ask import Chat
from headrace_server.rpc.chat_template import ChatTemplate, load_chat_template
from headrace_server.rpc.detokenise import Detokeniser, context
from headrace_server.rpc.token_bytes import TokenBytes
from headrace_server.rpc.tool_calls import BEGIN, END, Form


class Text:
    """Safe to use from several threads: nothing in it changes that can be seen."""

    def __init__(self, tokenizer: Tokenizer, chat: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        self._chat = chat
        self.token_bytes = TokenBytes(tokenizer)

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id that encoding can give."""
        return 1 + max(self._tokenizer.get_vocab().values())

    def encode(self, text: str) -> tuple[int, ...]:
        """With the special tokens that the tokenizer adds by itself, such as a leading BOS."""
        return tuple(self._tokenizer.encode(text).ids)

    def encode_plainly(self, text: str) -> tuple[int, ...]:
        """Without them."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def names(self, token_ids: Sequence[int]) -> list[str]:
        """As the vocabulary has them; "" for an id that it does not have."""
        return [str(self._tokenizer.id_to_token(token_id) or "") for token_id in token_ids]

    @property
    def info(self) -> dict[str, str | None]:
        """What a client needs beside token ids: special tokens by their name, and the chat template."""
        return {**self._chat.special_tokens, "chat_template": self._chat.source}

    @property
    def tool_form(self) -> Form | None:
        """In which the model calls tools; None: in none that is known."""
        return self._chat.tool_form

    def encode_chat(self, chat: Chat) -> tuple[int, ...]:
        """No special tokens are added: the template has written them. Raises InvalidRequest."""
        return tuple(self._tokenizer.encode(self._chat.render(chat), add_special_tokens=False).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Special tokens are left out."""
        return str(self._tokenizer.decode(list(token_ids)))

    def detokeniser(self, prompt: Sequence[int]) -> Detokeniser:
        return Detokeniser(self._tokenizer, prompt)

    def decode_each(self, token_ids: Sequence[int]) -> list[str]:
        """What each of them adds to their text; the last part holds what is left unfinished."""
        detokeniser = Detokeniser(self._tokenizer, ())
        parts = [detokeniser.feed(token_id) for token_id in token_ids]
        return [*parts[:-1], parts[-1] + detokeniser.flush()] if parts else []

    def stop_matcher(self, stops: Sequence[str], prompt: Sequence[int], not_before: int) -> StopMatcher:
        """For an answer to this prompt; the first `not_before` tokens are not searched."""
        text = self.token_bytes.text
        at_the_start = not_before == 0 and self.token_bytes.drops_space_after(context(self._tokenizer, prompt))
        return StopMatcher(stops, _without_first_space(text) if at_the_start else text, not_before)


def _without_first_space(text: Callable[[int], bytes]) -> Callable[[int], bytes]:
    begun = False

    def next_text(token_id: int) -> bytes:
        nonlocal begun
        found = text(token_id)
        if begun or not found:
            return found
        begun = True
        return found.removeprefix(b" ")

    return next_text


def load_text(model: Path) -> Text:
    """Raises ModelRefused naming the file and the remedy."""
    if not model.is_dir():
        raise ModelRefused(
            f"{model} is not a directory; name one that holds config.json, tokenizer.json and *.safetensors"
        )
    path = model / "tokenizer.json"
    if not path.is_file():
        raise ModelRefused(f"{path}: not found; save the tokenizer beside the weights (tokenizer.save_pretrained)")
    try:
        tokenizer = Tokenizer.from_str(_with_tags_as_text(path.read_text(encoding="utf-8")))
    except Exception as broken:  # the library raises nothing narrower
        raise ModelRefused(f"{path}: is not a tokenizer of the `tokenizers` library: {broken}") from broken
    # Some files carry the lengths of their training: a prompt would be cut without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return Text(tokenizer, load_chat_template(model))


def _with_tags_as_text(document: str) -> str:
    """Some checkpoints mark the tags of tool calls as special: decoding would leave them out, and no call be found."""
    if BEGIN not in document:
        return document
    tokenizer = json.loads(document)
    tags = [token for token in tokenizer["added_tokens"] if token["content"] in {BEGIN, END} and token["special"]]
    if not tags:
        return document
    for tag in tags:
        tag["special"] = False
    return json.dumps(tokenizer)
