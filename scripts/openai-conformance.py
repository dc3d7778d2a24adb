#!/usr/bin/env python3
"""Asks a running `refocus serve` everything that the official Python client can ask of it.

    pip install openai
    refocus serve --model MODEL &
    scripts/openai-conformance.py --model MODEL [--url http://127.0.0.1:8080/v1] [--tools]

Prints a line for each check and ends with 1 where one fails. `--tools`: the model's chat template knows tools.
"""

import argparse
import concurrent.futures
import json
import os
import sys
import time
import urllib.request

import openai

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Asker:
    """The client with what every question has."""

    def __init__(self, options):
        key = os.environ.get("OPENAI_API_KEY", "none")
        self.options = options
        self.client = openai.OpenAI(base_url=options.url, api_key=key, max_retries=0, timeout=120)
        self.model = options.model

    def chat(self, messages=QUESTION, **more):
        more = {"temperature": 0, "max_tokens": 24} | more
        return self.client.chat.completions.create(model=self.model, messages=messages, **more)

    def complete(self, prompt="The capital of France is", **more):
        more = {"temperature": 0, "max_tokens": 8} | more
        return self.client.completions.create(model=self.model, prompt=prompt, **more)

    def metric(self, name):
        root = self.options.url.removesuffix("/v1")
        request = urllib.request.Request(f"{root}/metrics")
        request.add_header("Authorization", f"Bearer {self.client.api_key}")
        lines = urllib.request.urlopen(request).read().decode().splitlines()
        return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


def same(got, want, what):
    assert got == want, f"{what}: {got!r} is not {want!r}"


@check
def models_are_listed(a):
    listed = [m.id for m in a.client.models.list()]
    assert a.model in listed, listed
    same(a.client.models.retrieve(a.model).id, a.model, "id")
    return f"{listed}"


@check
def a_chat(a):
    answer = a.chat()
    choice = answer.choices[0]
    same(choice.message.role, "assistant", "role")
    assert choice.message.content and choice.finish_reason in ("stop", "length")
    usage = answer.usage
    same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens, "usage")
    return f"{choice.message.content!r}, {choice.finish_reason}, {usage.prompt_tokens}+{usage.completion_tokens} tokens"


@check
def a_streamed_chat_says_the_same(a):
    whole = a.chat(n=2, temperature=0.8, seed=1)
    texts, reasons, roles, usage, chunks = ["", ""], [None, None], [None, None], None, 0
    for chunk in a.chat(n=2, temperature=0.8, seed=1, stream=True, stream_options={"include_usage": True}):
        chunks += 1
        usage = chunk.usage or usage
        for c in chunk.choices:
            texts[c.index] += c.delta.content or ""
            roles[c.index] = c.delta.role or roles[c.index]
            reasons[c.index] = c.finish_reason or reasons[c.index]
    same(texts, [c.message.content for c in whole.choices], "texts")
    same(reasons, [c.finish_reason for c in whole.choices], "reasons")
    same(roles, ["assistant"] * 2, "roles")
    same(usage, whole.usage, "usage")
    return f"{chunks} chunks, {usage.completion_tokens} tokens"


@check
def the_streaming_helper(a):
    with a.client.chat.completions.stream(model=a.model, messages=QUESTION, max_tokens=24, temperature=0) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    same(final.choices[0].message.content, a.chat().choices[0].message.content, "text")
    return ", ".join(sorted(kinds))


@check
def a_seed_names_the_answer(a):
    story = [{"role": "user", "content": "Begin a story about a dog."}]
    say = lambda **more: a.chat(story, temperature=1, **more).choices[0].message.content  # noqa: E731
    one = [say(seed=5) for _ in range(2)]
    same(one[0], one[1], "the same seed")
    assert say(seed=6) != one[0], "another seed says the same"
    free = {say() for _ in range(3)}
    assert len(free) > 1, "no seed, and always the same"
    return "same seed same text, other seed other text"


@check
def a_stop_string(a):
    whole = a.chat().choices[0].message.content
    stop = whole.split()[2]
    answer = a.chat(stop=[stop]).choices[0]
    same(answer.message.content, whole[: whole.index(stop)], "text")
    same(answer.finish_reason, "stop", "reason")
    streamed = "".join(c.choices[0].delta.content or "" for c in a.chat(stop=stop, stream=True))
    same(streamed, answer.message.content, "stream")
    return f"{answer.message.content!r} before {stop!r}"


@check
def log_probabilities_of_a_chat(a):
    choice = a.chat(logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    same("".join(t.token for t in tokens), choice.message.content, "tokens")
    assert all(len(t.top_logprobs) == 3 for t in tokens)
    assert all(t.logprob == t.top_logprobs[0].logprob <= 0 for t in tokens), "greedy takes the most likely"
    same(b"".join(bytes(t.bytes) for t in tokens).decode(), choice.message.content, "bytes")
    streamed = []
    for chunk in a.chat(logprobs=True, top_logprobs=3, stream=True):
        for c in chunk.choices:
            streamed += c.logprobs.content if c.logprobs else []
    same(streamed, tokens, "stream")
    return f"{len(tokens)} tokens, first {tokens[0].token!r} {tokens[0].logprob:.4f}"


@check
def completions(a):
    answer = a.complete(logprobs=2)
    choice = answer.choices[0]
    l = choice.logprobs
    same("".join(l.tokens), choice.text, "tokens")
    same([choice.text[o:].startswith(t) for o, t in zip(l.text_offset, l.tokens)], [True] * len(l.tokens), "offsets")
    several = a.complete(["One, two,", "A, B,"], n=2, echo=True, temperature=0.5, seed=1)
    same([c.index for c in several.choices], [0, 1, 2, 3], "indices")
    assert several.choices[1].text.startswith("One, two,") and several.choices[2].text.startswith("A, B,")
    streamed = "".join(c.choices[0].text for c in a.complete(stream=True))
    same(streamed, choice.text, "stream")
    return repr(choice.text)


@check
def a_json_schema(a):
    messages = [{"role": "user", "content": "Invent a person. Answer as JSON with name and age."}]
    schema = {"name": "person", "strict": True, "schema": PERSON}
    answer = a.chat(messages, max_tokens=80, response_format={"type": "json_schema", "json_schema": schema})
    person = json.loads(answer.choices[0].message.content)
    assert isinstance(person["name"], str) and isinstance(person["age"], int) and len(person) == 2, person
    free = a.chat(messages, max_tokens=80, response_format={"type": "json_object"}).choices[0]
    assert free.message.content.lstrip().startswith("{")
    return json.dumps(person)


@check
def biases_and_penalties(a):
    first = a.complete(max_tokens=1, logprobs=5)
    banned = a.complete(max_tokens=1, presence_penalty=1, frequency_penalty=1)
    same(banned.choices[0].text, first.choices[0].text, "penalties do not count the prompt")
    forced = [a.complete(max_tokens=3, logit_bias={"30": 100}).choices[0].text for _ in range(2)]
    same(forced[0], forced[1], "bias")
    assert forced[0] != a.complete(max_tokens=3).choices[0].text
    return repr(forced[0])


@check
def tools(a):
    messages = [{"role": "user", "content": "How is the weather in Paris?"}]
    if not a.options.tools:
        try:
            a.chat(messages, tools=[WEATHER])
        except openai.BadRequestError as e:
            same(e.param, "tools", "param")
            return f"refused: {e.body['message']}"
        raise AssertionError("tools were dropped in silence")
    ask = {"tools": [WEATHER], "max_tokens": 80}
    forced = a.chat(messages, tool_choice="required", **ask).choices[0]
    same(forced.finish_reason, "tool_calls", "reason")
    call = forced.message.tool_calls[0]
    arguments = json.loads(call.function.arguments)
    same((call.function.name, list(arguments)), ("get_weather", ["city"]), "call")
    streamed = []
    for chunk in a.chat(messages, tool_choice="required", stream=True, **ask):
        streamed += chunk.choices[0].delta.tool_calls or []
    same([(c.function.name, c.function.arguments) for c in streamed], [("get_weather", call.function.arguments)], "stream")
    reply = {"role": "tool", "tool_call_id": call.id, "content": "22 degrees and sunny"}
    after = a.chat(messages + [forced.message.model_dump(exclude_none=True), reply], **ask).choices[0]
    assert after.message.content or after.message.tool_calls
    free = a.chat(messages, **ask).choices[0]
    return f"forced {call.function.arguments}; free: {free.finish_reason}, {free.message.tool_calls or free.message.content!r}; then {after.message.content!r}"


@check
def what_is_not_supported_is_named(a):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    cases = [
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, image]}]}, "messages[0].content[1].type"),
        ({"messages": [{"role": "user", "content": [sound]}]}, "messages[0].content[0].type"),
        ({"audio": {"voice": "alloy", "format": "wav"}, "modalities": ["text", "audio"]}, "modalities"),
        ({"extra_body": {"something_new": 1}}, "something_new"),
        ({"temperature": 9}, "temperature"),
        ({"n": 0}, "n"),
    ]
    for more, param in cases:
        try:
            a.chat(**more)
        except openai.BadRequestError as e:
            same(e.param, param, "param")
        else:
            raise AssertionError(f"{param} was dropped in silence")
    return ", ".join(param for _, param in cases)


@check
def errors_have_their_classes(a):
    def raises(kind, call):
        try:
            call()
        except kind as e:
            return e
        raise AssertionError(f"no {kind.__name__}")

    raises(openai.NotFoundError, lambda: a.client.chat.completions.create(model="no/such", messages=QUESTION))
    e = raises(openai.BadRequestError, lambda: a.complete([1] * 200_000))
    same(e.code, "context_length_exceeded", "code")
    big = raises(openai.APIStatusError, lambda: a.complete("x" * (9 << 20)))
    same(big.status_code, 413, "status")
    return f"404 model, 400 {e.code}, 413 body"


@check
def a_client_that_leaves_cancels(a):
    before = a.metric("refocus_cancelled_total")
    stream = a.chat(max_tokens=2000, stream=True, logit_bias={"2": -100, "0": -100})
    next(iter(stream))
    stream.close()
    try:
        a.client.with_options(timeout=0.3).chat.completions.create(
            model=a.model, messages=QUESTION, max_tokens=2000, temperature=0, logit_bias={"2": -100, "0": -100}
        )
    except openai.APITimeoutError:
        pass
    else:
        raise AssertionError("2000 tokens in 0.3 s")
    for _ in range(100):
        if a.metric("refocus_cancelled_total") >= before + 2 and a.metric("refocus_sequences_running") == 0:
            return "a stream that was closed, a call that ran out of time"
        time.sleep(0.1)
    raise AssertionError("still computing for nobody")


@check
def sixteen_at_once_get_what_each_gets_alone(a):
    ask = lambda i: a.chat([{"role": "user", "content": f"Say something about the number {i}."}], seed=i, temperature=1)  # noqa: E731
    alone = [ask(i).choices[0].message.content for i in range(16)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = [r.choices[0].message.content for r in pool.map(ask, range(16))]
    same(together, alone, "texts")
    return "16 texts, the same"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--url", default="http://127.0.0.1:8080/v1")
    p.add_argument("--model", required=True)
    p.add_argument("--tools", action="store_true")
    a = Asker(p.parse_args())
    print(f"openai {openai.__version__}, {a.options.url}, {a.model}")
    failed = 0
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        try:
            print(f"ok      {name}: {function(a)}", flush=True)
        except Exception as e:  # noqa: BLE001
            failed += 1
            print(f"FAILED  {name}: {type(e).__name__}: {e}", flush=True)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} hold")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
