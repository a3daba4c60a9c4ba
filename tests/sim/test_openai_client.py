"""The official client reads everything that the simulated engine says."""

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from programs import Program, wait_until
from wire import ask

MODEL = "demo/model"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
SAYS_SO = "This is a simulated answer from demo/model; no model was run."


def test_a_chat_says_that_it_is_simulated(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=40)
    choice = answer.choices[0]
    assert (choice.message.content or "").startswith(SAYS_SO)
    assert choice.finish_reason == "length"
    assert answer.usage and answer.usage.completion_tokens == 40
    assert answer.system_fingerprint and answer.system_fingerprint.startswith("simulated")


def test_a_chat_without_a_limit_stops_by_itself(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage and answer.usage.completion_tokens == 64


def test_a_streamed_chat_says_the_same_as_a_whole_one(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=40, seed=7)
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=40, seed=7, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage and whole.usage
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_a_stream_has_one_event_a_token(client: OpenAI) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=9, stream=True)
    texts = [chunk.choices[0].delta.content for chunk in stream]
    assert len([text for text in texts if text]) == 9


def test_usage_can_be_had_with_each_event(client: OpenAI) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=4, stream=True, extra_body={"stream_options": options}
    )
    counts = [chunk.usage.completion_tokens for chunk in stream if chunk.usage]
    assert counts == [0, 1, 2, 3, 4, 4]


async def test_the_asynchronous_client_streams_too(sim: Program) -> None:
    async with AsyncOpenAI(base_url=sim.url + "/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8, stream=True)
        texts = [chunk.choices[0].delta.content async for chunk in stream]
    assert "".join(text or "" for text in texts) == "This is a simulated answer"


def test_several_choices_differ(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=60, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert answer.usage and answer.usage.completion_tokens == 180


def test_the_same_seed_says_the_same(client: OpenAI) -> None:
    texts = [
        client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=60, seed=seed).choices[0].message.content
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_stop_strings_end_an_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, stop=["no model", "xyz"])
    choice = answer.choices[0]
    assert choice.message.content == "This is a simulated answer from demo/model; "
    assert choice.finish_reason == "stop"
    assert choice.model_extra and choice.model_extra["stop_reason"] == "no model"


def test_stop_strings_end_a_stream(client: OpenAI) -> None:
    stream = client.completions.create(model=MODEL, prompt="Hello", max_tokens=50, stop="no model", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "This is a simulated answer from demo/model; "


def test_probabilities_have_their_shape(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.content
    assert [entry.token for entry in logprobs.content] == ["This", " is", " a"]
    plain = client.completions.create(model=MODEL, prompt="Hello", max_tokens=3, logprobs=1).choices[0].logprobs
    assert plain and plain.tokens == ["This", " is", " a"] and plain.text_offset == [0, 4, 7]


def test_tools_and_pictures_are_taken(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            }
        ],
        tools=[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        max_tokens=4,
    )
    assert answer.choices[0].message.content
    assert answer.usage and answer.usage.prompt_tokens > 64


@pytest.mark.parametrize(
    "prompt", ["Hello", ["Hello"], [104, 105], [[104, 105]]], ids=["text", "texts", "ids", "lists"]
)
def test_a_prompt_has_four_forms(client: OpenAI, prompt: str | list[str] | list[int]) -> None:
    answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=4)
    assert answer.choices[0].text == "This is a sim"


def test_several_prompts_are_answered_in_order(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=["one", "two"], max_tokens=4, n=2, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[:3] for choice in answer.choices] == ["one", "one", "two", "two"]


def test_several_prompts_are_streamed_together(client: OpenAI) -> None:
    texts = ["", "", "", ""]
    for chunk in client.completions.create(model=MODEL, prompt=["one", "two"], max_tokens=4, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["This is a sim"] * 4


def test_a_completion_without_a_limit_has_sixteen_tokens(client: OpenAI) -> None:
    usage = client.completions.create(model=MODEL, prompt="Hello").usage
    assert usage and usage.completion_tokens == 16


def test_a_response_is_answered_and_kept(client: OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="Hello", max_output_tokens=40)
    assert answer.output_text.startswith(SAYS_SO)
    assert answer.id.startswith("resp_")
    assert answer.status == "incomplete"
    assert client.responses.retrieve(answer.id).output_text == answer.output_text


def test_a_response_goes_on_from_another(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="Hello", instructions="Be brief.")
    second = client.responses.create(model=MODEL, input="And then?", previous_response_id=first.id)
    assert first.usage and second.usage
    assert second.usage.input_tokens > first.usage.total_tokens


def test_a_streamed_response_is_numbered_and_kept(client: OpenAI) -> None:
    events = list(client.responses.create(model=MODEL, input="Hello", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    done = events[-1]
    assert done.type == "response.completed"
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == done.response.output_text == client.responses.retrieve(done.response.id).output_text


def test_a_response_in_the_background_is_done_later(client: OpenAI) -> None:
    queued = client.responses.create(model=MODEL, input="Hello", background=True)
    assert queued.status == "queued"
    wait_until(lambda: client.responses.retrieve(queued.id).status == "completed", "it is done")


def test_a_response_in_the_background_can_be_cancelled(sim: Program, client: OpenAI) -> None:
    assert ask(sim.url, "POST", "/pause?mode=keep").status == 200
    queued = client.responses.create(model=MODEL, input="Hello", background=True)
    assert client.responses.cancel(queued.id).status == "cancelled"
    assert ask(sim.url, "POST", "/resume").status == 200
    assert client.responses.retrieve(queued.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(queued.id)


def test_an_unknown_response_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="resp_nobody"):
        client.responses.retrieve("resp_nobody")


def test_embeddings_are_unit_vectors_that_follow_from_the_text(pooling: Program) -> None:
    with OpenAI(base_url=pooling.url + "/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model=MODEL, input=["one", "two", "one"])
        short = client.embeddings.create(model=MODEL, input="one", dimensions=8, encoding_format="float")
    one, two, again = (entry.embedding for entry in answer.data)
    assert one == again != two
    assert len(one) == 64
    assert sum(number * number for number in one) == pytest.approx(1.0, abs=1e-6)
    assert len(short.data[0].embedding) == 8
    assert answer.usage.prompt_tokens == 3


def test_the_models_are_all_names_and_adapters(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, "other-name", "first"]


@pytest.mark.parametrize("name", ["other-name", "first"])
def test_every_name_can_be_asked_for(client: OpenAI, name: str) -> None:
    assert client.chat.completions.create(model=name, messages=HELLO, max_tokens=2).model == name


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="The model `nope` does not exist"):
        client.chat.completions.create(model="nope", messages=HELLO)
