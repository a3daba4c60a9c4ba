"""Calls of tools and answers in JSON, read by the official client."""

import json
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from programs import Program
from pydantic import BaseModel
from wire import ask

MODEL = "demo/model"
WEATHER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How is the weather in Paris?"}]
NAMED = {"type": "function", "function": {"name": "GetWeather"}}


class GetWeather(BaseModel):
    """Say how the weather is."""

    city: str
    unit: Literal["celsius", "fahrenheit"]


class Step(BaseModel):
    explanation: str
    score: int | None


class Book(BaseModel):
    title: str


TOOLS = [openai.pydantic_function_tool(Book), openai.pydantic_function_tool(GetWeather)]
FUNCTIONS: list[Any] = [
    {"type": "function", "name": "get_weather", "parameters": GetWeather.model_json_schema(), "strict": True}
]
ANTHROPIC = {"tools": [{"name": "get_weather", "input_schema": GetWeather.model_json_schema()}], "max_tokens": 100}


def chat(client: OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": WEATHER, "tools": TOOLS} | more)


@pytest.mark.parametrize(
    ("choice", "reason", "name"),
    [
        ("auto", "tool_calls", "GetWeather"),
        ("required", "tool_calls", "GetWeather"),
        (NAMED, "stop", "GetWeather"),
        ({"type": "function", "function": {"name": "Book"}}, "stop", "Book"),
    ],
    ids=str,
)
def test_a_tool_is_called_with_arguments_that_fit(client: OpenAI, choice: Any, reason: str, name: str) -> None:
    answer = chat(client, tool_choice=choice, n=2)
    for one in answer.choices:
        [call] = one.message.tool_calls
        assert (one.finish_reason, call.function.name, one.message.content) == (reason, name, "")
        (GetWeather if name == "GetWeather" else Book).model_validate_json(call.function.arguments)
    assert answer.system_fingerprint.startswith("simulated")
    assert answer.usage.completion_tokens > 4


def test_the_client_parses_a_call(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=WEATHER, tools=TOOLS)
    [call] = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, GetWeather)


def test_a_streamed_call_is_the_same(client: OpenAI) -> None:
    [whole] = chat(client, tool_choice="required", seed=4).choices[0].message.tool_calls
    with client.chat.completions.stream(
        model=MODEL, messages=WEATHER, tools=TOOLS, tool_choice="required", seed=4
    ) as stream:
        kinds = {event.type for event in stream}
        choice = stream.get_final_completion().choices[0]
    [call] = choice.message.tool_calls or []
    assert (call.function.name, call.function.arguments) == (whole.function.name, whole.function.arguments)
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert choice.finish_reason == "tool_calls"


def test_with_auto_a_tools_result_and_other_matters_are_answered_in_prose(client: OpenAI) -> None:
    [call] = chat(client).choices[0].message.tool_calls
    asked = {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]}
    answer = chat(client, messages=[*WEATHER, asked, {"role": "tool", "tool_call_id": call.id, "content": "sun"}])
    other = chat(client, messages=[{"role": "user", "content": "Hello"}])
    none = chat(client, tool_choice="none")
    for prose in (answer, other, none):
        assert prose.choices[0].message.content.startswith("This is a simulated answer")
        assert not prose.choices[0].message.tool_calls


def test_a_call_that_is_cut_is_none(client: OpenAI) -> None:
    choice = chat(client, max_tokens=2).choices[0]
    assert (choice.finish_reason, choice.message.tool_calls) == ("length", None)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": []}, "must not be an empty array"),
        ({"tools": [{}]}, "body.tools.0.function"),
        ({"tools": openai.NOT_GIVEN, "tool_choice": "required"}, "`tools` must be set"),
        ({"tool_choice": "sometimes"}, "Invalid value for `tool_choice`: sometimes!"),
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "does not match any"),
        ({"tool_choice": {"type": "function"}}, "Correct usage"),
        ({"tools": openai.NOT_GIVEN, "response_format": {"type": "json_schema"}}, "must be provided"),
        ({"tool_choice": "none", "response_format": {"type": "structural_tag"}}, "not simulated"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(client: OpenAI, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(openai.BadRequestError, match=named):
        chat(client, **fields)


def test_an_answer_fits_its_schema_whole_and_streamed(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=WEATHER, response_format=Step)
    with client.chat.completions.stream(model=MODEL, messages=WEATHER, response_format=Step) as stream:
        streamed = stream.get_final_completion().choices[0].message
    assert isinstance(answer.choices[0].message.parsed, Step)
    assert answer.choices[0].finish_reason == "stop"
    assert streamed.parsed == answer.choices[0].message.parsed


def test_any_object_can_be_asked_for(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=WEATHER, response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content or "") == {"simulated": True}


@pytest.mark.parametrize(
    ("structured", "fits"),
    [
        ({"choice": ["grün", "blau"]}, lambda text: text in ("grün", "blau")),
        ({"regex": r"[a-c]{3}\d+"}, lambda text: text == "aaa0"),
        ({"json": json.dumps({"const": 7})}, lambda text: text == "7"),
        ({"json_object": True}, lambda text: isinstance(json.loads(text), dict)),
    ],
    ids=["choice", "regex", "json", "object"],
)
def test_completions_keep_to_vllms_own_constraints(client: OpenAI, structured: dict[str, Any], fits: Any) -> None:
    body = {"structured_outputs": structured}
    stream = client.completions.create(model=MODEL, prompt="Hello", max_tokens=50, stream=True, extra_body=body)
    assert fits("".join(chunk.choices[0].text for chunk in stream))


def test_a_response_calls_a_tool_and_takes_its_result(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="How is the weather?", tools=FUNCTIONS)
    [call] = first.output
    assert call.type == "function_call" and GetWeather.model_validate_json(call.arguments)
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    second = client.responses.create(model=MODEL, input=[result], previous_response_id=first.id, tools=FUNCTIONS)
    assert second.output_text.startswith("This is a simulated answer")


def test_a_streamed_response_calls_a_tool(client: OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="Hi", tools=FUNCTIONS, tool_choice="required") as stream:
        kinds = [event.type for event in stream]
        [call] = stream.get_final_response().output
    assert call.type == "function_call" and GetWeather.model_validate_json(call.arguments)
    assert "response.function_call_arguments.delta" in kinds and "response.output_text.delta" not in kinds


def test_a_response_fits_its_schema(client: OpenAI) -> None:
    assert isinstance(client.responses.parse(model=MODEL, input="Hi", text_format=Step).output_parsed, Step)


def test_messages_call_tools_too(sim: Program) -> None:
    body = {"model": MODEL, "messages": WEATHER, **ANTHROPIC}
    answer = ask(sim.url, "POST", "/v1/messages", body).json()
    [block] = answer["content"]
    assert (answer["stop_reason"], block["type"], block["name"]) == ("tool_use", "tool_use", "get_weather")
    GetWeather.model_validate(block["input"])
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block["id"], "content": "weather"}]}
    again = ask(sim.url, "POST", "/v1/messages", body | {"messages": [*WEATHER, result]}).json()
    assert again["content"][0]["type"] == "text"


def test_streamed_messages_call_tools_too(sim: Program) -> None:
    body = {"model": MODEL, "messages": WEATHER, **ANTHROPIC, "stream": True}
    answer = ask(sim.url, "POST", "/v1/messages", body | {"tool_choice": {"type": "tool", "name": "get_weather"}})
    events = [json.loads(event.partition("data: ")[2]) for event in answer.body.decode().split("\n\n") if event]
    parts = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
    GetWeather.model_validate_json("".join(parts))
    assert events[1]["content_block"]["type"] == "tool_use"
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
