"""Tokens, the model's card, the version and what SageMaker asks, over HTTP."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from canned_engine import CannedServer, canned_server
from embed_server import FACTS, EmbedServer, embed_server
from headrace_server.rpc.readiness import Phase
from open_server import CONTEXT, NAME
from tiny_tokenizer import BOS, CHAT_TEMPLATE, EOS, save_tiny_tokenizer, tiny_tokenizer
from tokenizers import Tokenizer, processors

TEXT = "God created naïve 你好"
IDS = tiny_tokenizer().encode(TEXT).ids


async def post(server: CannedServer | EmbedServer, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession(server.http) as session, session.post(path, data=json.dumps(body)) as response:
        return response.status, await response.json()


async def test_text_becomes_tokens_and_tokens_text(model: Path) -> None:
    async with canned_server(model, [5]) as server:
        status, found = await post(server, "/tokenize", {"model": NAME, "prompt": TEXT, "return_token_strs": True})
        back = await post(server, "/detokenize", {"tokens": IDS})
    names = [tiny_tokenizer().id_to_token(one) for one in IDS]
    assert status == 200
    assert found == {"count": len(IDS), "max_model_len": CONTEXT, "tokens": IDS, "token_strs": names}
    assert back == (200, {"prompt": TEXT})


async def test_a_chat_is_tokenised_as_it_would_be_answered(model: Path) -> None:
    messages = [{"role": "user", "content": "In"}]
    async with canned_server(model, [5]) as server:
        _, found = await post(server, "/tokenize", {"messages": messages})
        await post(server, "/v1/chat/completions", {"model": NAME, "messages": messages, "max_tokens": 1})
        [request] = server.engine.asked
    assert (found["tokens"], found["token_strs"]) == (list(request.prompt), None)


async def test_special_tokens_can_be_left_out(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(tiny_tokenizer().to_str())
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    save_tiny_tokenizer(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    async with canned_server(tmp_path, [5]) as server:
        _, with_them = await post(server, "/tokenize", {"prompt": "In"})
        _, without = await post(server, "/tokenize", {"prompt": "In", "add_special_tokens": False})
    assert with_them["tokens"] == [0, *without["tokens"]]


@pytest.mark.parametrize(
    ("path", "body", "field", "says"),
    [
        pytest.param("/tokenize", {}, "body", "either `prompt` or `messages`", id="nothing"),
        pytest.param("/tokenize", {"prompt": "a", "messages": []}, "messages", "at least 1", id="an empty chat"),
        pytest.param("/tokenize", {"prompt": 5}, "prompt", "valid string", id="a number"),
        pytest.param("/tokenize", {"promt": "a"}, "promt", "not a known field", id="misspelt"),
        pytest.param("/detokenize", {}, "tokens", "required", id="no tokens"),
        pytest.param("/detokenize", {"tokens": [9999]}, "tokens", "9999 is outside", id="an unknown token"),
        pytest.param("/detokenize", {"tokens": [-1]}, "tokens", "-1 is outside", id="a negative token"),
        pytest.param("/detokenize", {"tokens": [2**64]}, "tokens.0", "valid integer", id="a huge token"),
    ],
)
async def test_what_is_no_text_and_no_token_is_refused(
    model: Path, path: str, body: Any, field: str, says: str
) -> None:
    async with canned_server(model, [5]) as server:
        status, answer = await post(server, path, body)
    assert (status, answer["error"]["param"]) == (400, field)
    assert says in answer["error"]["message"]


async def test_an_embedders_tokens_are_told_and_its_chats_refused(model: Path) -> None:
    async with embed_server(model) as server:
        whole = await post(server, "/tokenize", {"prompt": "ab", "return_token_strs": True})
        plain = await post(server, "/tokenize", {"prompt": "ab", "add_special_tokens": False})
        back = await post(server, "/detokenize", {"tokens": [1, 97, 98, 2]})
        strange = await post(server, "/detokenize", {"tokens": [1000]})
        chat = await post(server, "/tokenize", {"messages": [{"role": "user", "content": "a"}]})
        async with aiohttp.ClientSession(server.http) as session, session.get("/tokenizer_info") as response:
            info = await response.json()
    ids = [1, 97, 98, 2]
    names = [*map(chr, ids)]
    assert whole == (200, {"count": 4, "max_model_len": FACTS.max_tokens, "tokens": ids, "token_strs": names})
    assert plain[1]["tokens"] == [97, 98]
    assert back == (200, {"prompt": "ab"})
    assert (strange[0], strange[1]["error"]["param"]) == (400, "tokens")
    assert (chat[0], chat[1]["error"]["param"]) == (400, "messages")
    assert info == {"cls_token": "[CLS]", "chat_template": None}


async def test_a_harness_learns_of_special_tokens_and_the_template(model: Path) -> None:
    async with (
        canned_server(model, [5]) as server,
        aiohttp.ClientSession(server.http) as session,
        session.get("/tokenizer_info") as response,
    ):
        assert await response.json() == {"bos_token": BOS, "eos_token": EOS, "chat_template": CHAT_TEMPLATE}


async def test_the_models_card_tells_its_context_once_it_is_known(model: Path) -> None:
    async with (
        canned_server(model, [5]) as server,
        openai.AsyncOpenAI(base_url=f"{server.http}/v1", api_key="none") as client,
    ):
        [card] = [card async for card in client.models.list()]
        assert card.model_dump()["max_model_len"] == CONTEXT
        assert (await post(server, "/tokenize", {"model": "other", "prompt": "a"}))[0] == 404
    for ready, longest in ((True, FACTS.max_tokens), (False, None)):
        async with embed_server(model, ready=ready) as embedder, aiohttp.ClientSession(embedder.http) as session:
            async with session.get("/v1/models") as response:
                assert (await response.json())["data"][0].get("max_model_len") == longest
            async with session.get("/ping") as pinged, session.post("/ping") as posted:
                assert {pinged.status, posted.status} == {200 if ready else 503}
            await embedder.doors.turn_away(Phase.DRAINING)
            async with session.get("/ping") as pinged:
                assert pinged.status == 503


async def test_the_version_is_the_distributions(model: Path) -> None:
    async with (
        canned_server(model, [5]) as server,
        aiohttp.ClientSession(server.http) as session,
        session.get("/version") as response,
    ):
        assert await response.json() == {"version": version("headrace-server")}
