#!/usr/bin/env node
// Asks a running `refocus serve` everything that the official JavaScript client can ask of it: the checks of
// openai-conformance.py, in the same order.
//
//     mkdir js && cd js && npm install openai
//     refocus serve --model MODEL &
//     NODE_PATH=js/node_modules scripts/openai-conformance.mjs --model MODEL [--url http://127.0.0.1:8080/v1] [--tools]
//
// Prints a line for each check and ends with 1 where one fails. `--tools`: the model's chat template knows tools.
// `--metrics URL`: where the model's own /metrics are, if --url is a proxy in front of it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { parseArgs } from "node:util";

const require = createRequire(import.meta.url);
const { default: OpenAI } = require("openai");
const version = JSON.parse(readFileSync(path.join(path.dirname(require.resolve("openai")), "package.json"))).version;

const { values: options } = parseArgs({
  options: {
    url: { type: "string", default: "http://127.0.0.1:8080/v1" },
    model: { type: "string" },
    tools: { type: "boolean", default: false },
    metrics: { type: "string" },
  },
});
if (!options.model) {
  console.error("--model is needed");
  process.exit(2);
}

const QUESTION = [{ role: "user", content: "What is the capital of France? Answer in one sentence." }];
const WEATHER = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather of a city now.",
    parameters: {
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};
const PERSON = {
  type: "object",
  properties: { name: { type: "string" }, age: { type: "integer" } },
  required: ["name", "age"],
  additionalProperties: false,
};

const client = new OpenAI({
  baseURL: options.url,
  apiKey: process.env.OPENAI_API_KEY ?? "none",
  maxRetries: 0,
  timeout: 120_000,
});
const { model } = options;

const chat = (more = {}, settings = {}) =>
  client.chat.completions.create({ model, messages: QUESTION, temperature: 0, max_tokens: 24, ...more }, settings);
const complete = (prompt, more = {}) =>
  client.completions.create({ model, prompt, temperature: 0, max_tokens: 8, ...more });
const said = (answer) => answer.choices[0].message.content;
const words = async (stream) => {
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? chunk.choices[0]?.text ?? "";
  return text;
};
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function metric(name) {
  const root = options.metrics ?? options.url.replace(/\/v1$/, "");
  const answer = await fetch(`${root}/metrics`, { headers: { authorization: `Bearer ${client.apiKey}` } });
  const line = (await answer.text()).split("\n").find((l) => l.startsWith(`${name} `));
  assert(line, `there is no ${name} at ${root}/metrics`);
  return Number(line.split(" ").at(-1));
}

/** The error of a class that a call ends with. */
async function raises(kind, call) {
  try {
    await call();
  } catch (error) {
    if (error instanceof kind) return error;
    throw error;
  }
  throw new Error(`no ${kind.name}`);
}

const CHECKS = {
  "models are listed": async () => {
    const listed = [];
    for await (const m of client.models.list()) listed.push(m.id);
    assert(listed.includes(model), listed.join());
    assert.equal((await client.models.retrieve(model)).id, model);
    return JSON.stringify(listed);
  },

  "a chat": async () => {
    const { choices: [choice], usage } = await chat();
    assert.equal(choice.message.role, "assistant");
    assert(choice.message.content && ["stop", "length"].includes(choice.finish_reason));
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
    return `${JSON.stringify(choice.message.content)}, ${choice.finish_reason}, ${usage.prompt_tokens}+${usage.completion_tokens} tokens`;
  },

  "a streamed chat says the same": async () => {
    const ask = { n: 2, temperature: 0.8, seed: 1 };
    const whole = await chat(ask);
    const texts = ["", ""], reasons = [null, null], roles = [null, null];
    let usage = null, chunks = 0;
    for await (const chunk of await chat({ ...ask, stream: true, stream_options: { include_usage: true } })) {
      chunks += 1;
      usage = chunk.usage ?? usage;
      for (const c of chunk.choices) {
        texts[c.index] += c.delta.content ?? "";
        roles[c.index] = c.delta.role ?? roles[c.index];
        reasons[c.index] = c.finish_reason ?? reasons[c.index];
      }
    }
    assert.deepEqual(texts, whole.choices.map((c) => c.message.content));
    assert.deepEqual(reasons, whole.choices.map((c) => c.finish_reason));
    assert.deepEqual(roles, ["assistant", "assistant"]);
    assert.deepEqual(usage, whole.usage);
    return `${chunks} chunks, ${usage.completion_tokens} tokens`;
  },

  "the streaming helper": async () => {
    const kinds = new Set();
    const runner = client.chat.completions.stream({ model, messages: QUESTION, max_tokens: 24, temperature: 0 });
    for (const kind of ["chunk", "content.delta", "content.done"]) runner.on(kind, () => kinds.add(kind));
    const final = await runner.finalChatCompletion();
    assert.equal(said(final), said(await chat()));
    assert.equal(kinds.size, 3, [...kinds].join());
    return [...kinds].sort().join(", ");
  },

  "a seed names the answer": async () => {
    const messages = [{ role: "user", content: "Begin a story about a dog." }];
    const say = async (more) => said(await chat({ messages, temperature: 1, ...more }));
    const one = [await say({ seed: 5 }), await say({ seed: 5 })];
    assert.equal(one[0], one[1], "the same seed");
    assert.notEqual(await say({ seed: 6 }), one[0], "another seed says the same");
    const free = new Set([await say({}), await say({}), await say({})]);
    assert(free.size > 1, "no seed, and always the same");
    return "same seed same text, other seed other text";
  },

  "a stop string": async () => {
    const whole = said(await chat());
    const stop = whole.split(/\s+/)[2];
    const { choices: [choice] } = await chat({ stop: [stop] });
    assert.equal(choice.message.content, whole.slice(0, whole.indexOf(stop)));
    assert.equal(choice.finish_reason, "stop");
    assert.equal(await words(await chat({ stop, stream: true })), choice.message.content);
    return `${JSON.stringify(choice.message.content)} before ${JSON.stringify(stop)}`;
  },

  "log probabilities of a chat": async () => {
    const ask = { logprobs: true, top_logprobs: 3 };
    const { choices: [choice] } = await chat(ask);
    const tokens = choice.logprobs.content;
    assert.equal(tokens.map((t) => t.token).join(""), choice.message.content);
    assert(tokens.every((t) => t.top_logprobs.length === 3));
    assert(tokens.every((t) => t.logprob === t.top_logprobs[0].logprob && t.logprob <= 0), "greedy takes the most likely");
    assert.equal(Buffer.from(tokens.flatMap((t) => t.bytes)).toString(), choice.message.content);
    const streamed = [];
    for await (const chunk of await chat({ ...ask, stream: true })) {
      for (const c of chunk.choices) streamed.push(...(c.logprobs?.content ?? []));
    }
    assert.deepEqual(streamed, tokens);
    return `${tokens.length} tokens, first ${JSON.stringify(tokens[0].token)} ${tokens[0].logprob.toFixed(4)}`;
  },

  completions: async () => {
    const prompt = "The capital of France is";
    const { choices: [choice] } = await complete(prompt, { logprobs: 2 });
    const l = choice.logprobs;
    assert.equal(l.tokens.join(""), choice.text);
    assert(l.tokens.every((t, i) => choice.text.slice(l.text_offset[i]).startsWith(t)), "offsets");
    const several = await complete(["One, two,", "A, B,"], { n: 2, echo: true, temperature: 0.5, seed: 1 });
    assert.deepEqual(several.choices.map((c) => c.index), [0, 1, 2, 3]);
    assert(several.choices[1].text.startsWith("One, two,") && several.choices[2].text.startsWith("A, B,"));
    assert.equal(await words(await complete(prompt, { stream: true })), choice.text);
    return JSON.stringify(choice.text);
  },

  "a json schema": async () => {
    const messages = [{ role: "user", content: "Invent a person. Answer as JSON with name and age." }];
    const json_schema = { name: "person", strict: true, schema: PERSON };
    const ask = { messages, max_tokens: 80 };
    const person = JSON.parse(said(await chat({ ...ask, response_format: { type: "json_schema", json_schema } })));
    assert(typeof person.name === "string" && Number.isInteger(person.age) && Object.keys(person).length === 2);
    const free = said(await chat({ ...ask, response_format: { type: "json_object" } }));
    assert(free.trimStart().startsWith("{"));
    return JSON.stringify(person);
  },

  "biases and penalties": async () => {
    const prompt = "The capital of France is";
    const text = async (more) => (await complete(prompt, more)).choices[0].text;
    const first = await text({ max_tokens: 1, logprobs: 5 });
    assert.equal(await text({ max_tokens: 1, presence_penalty: 1, frequency_penalty: 1 }), first, "penalties do not count the prompt");
    const forced = [];
    for (let i = 0; i < 2; i += 1) forced.push(await text({ max_tokens: 3, logit_bias: { 30: 100 } }));
    assert.equal(forced[0], forced[1]);
    assert.notEqual(forced[0], await text({ max_tokens: 3 }));
    return JSON.stringify(forced[0]);
  },

  tools: async () => {
    const messages = [{ role: "user", content: "How is the weather in Paris?" }];
    if (!options.tools) {
      const e = await raises(OpenAI.BadRequestError, () => chat({ messages, tools: [WEATHER] }));
      assert.equal(e.param, "tools");
      return `refused: ${e.error.message}`;
    }
    const ask = { tools: [WEATHER], max_tokens: 80 };
    const { choices: [forced] } = await chat({ messages, tool_choice: "required", ...ask });
    assert.equal(forced.finish_reason, "tool_calls");
    const [call] = forced.message.tool_calls;
    assert.deepEqual([call.function.name, Object.keys(JSON.parse(call.function.arguments))], ["get_weather", ["city"]]);
    const streamed = [];
    for await (const chunk of await chat({ messages, tool_choice: "required", stream: true, ...ask })) {
      streamed.push(...(chunk.choices[0].delta.tool_calls ?? []));
    }
    assert.deepEqual(streamed.map((c) => [c.function.name, c.function.arguments]), [["get_weather", call.function.arguments]]);
    const reply = { role: "tool", tool_call_id: call.id, content: "22 degrees and sunny" };
    const { choices: [after] } = await chat({ messages: [...messages, forced.message, reply], ...ask });
    assert(after.message.content || after.message.tool_calls);
    const { choices: [free] } = await chat({ messages, ...ask });
    const told = free.message.tool_calls ? free.message.tool_calls[0].function : free.message.content;
    return `forced ${call.function.arguments}; free: ${free.finish_reason}, ${JSON.stringify(told)}; then ${JSON.stringify(after.message.content)}`;
  },

  "what is not supported is named": async () => {
    const image = { type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } };
    const sound = { type: "input_audio", input_audio: { data: "AAAA", format: "wav" } };
    const user = (content) => ({ messages: [{ role: "user", content }] });
    const cases = [
      [user([{ type: "text", text: "?" }, image]), "messages[0].content[1].type"],
      [user([sound]), "messages[0].content[0].type"],
      [{ audio: { voice: "alloy", format: "wav" }, modalities: ["text", "audio"] }, "modalities"],
      [{ something_new: 1 }, "something_new"],
      [{ temperature: 9 }, "temperature"],
      [{ n: 0 }, "n"],
    ];
    for (const [more, param] of cases) {
      const e = await raises(OpenAI.BadRequestError, () => chat(more));
      assert.equal(e.param, param);
    }
    return cases.map(([, param]) => param).join(", ");
  },

  "errors have their classes": async () => {
    await raises(OpenAI.NotFoundError, () => chat({ model: "no/such" }));
    const e = await raises(OpenAI.BadRequestError, () => complete(Array(200_000).fill(1)));
    assert.equal(e.code, "context_length_exceeded");
    const big = await raises(OpenAI.APIError, () => complete("x".repeat(9 << 20)));
    assert.equal(big.status, 413);
    return `404 model, 400 ${e.code}, 413 body`;
  },

  "a client that leaves cancels": async () => {
    const before = await metric("refocus_cancelled_total");
    const long = { max_tokens: 2000, logit_bias: { 2: -100, 0: -100 } };
    const stream = await chat({ ...long, stream: true });
    for await (const _ of stream) break;
    await raises(OpenAI.APIConnectionTimeoutError, () => chat(long, { timeout: 300 }));
    for (let i = 0; i < 100; i += 1) {
      const gone = (await metric("refocus_cancelled_total")) >= before + 2;
      if (gone && (await metric("refocus_sequences_running")) === 0) {
        return "a stream that was closed, a call that ran out of time";
      }
      await sleep(100);
    }
    throw new Error("still computing for nobody");
  },

  "sixteen at once get what each gets alone": async () => {
    const ask = async (i) =>
      said(await chat({ messages: [{ role: "user", content: `Say something about the number ${i}.` }], seed: i, temperature: 1 }));
    const numbers = [...Array(16).keys()];
    const alone = [];
    for (const i of numbers) alone.push(await ask(i));
    assert.deepEqual(await Promise.all(numbers.map(ask)), alone);
    return "16 texts, the same";
  },
};

console.log(`openai ${version} (node ${process.version}), ${options.url}, ${model}`);
let failed = 0;
for (const [name, check] of Object.entries(CHECKS)) {
  try {
    console.log(`ok      ${name}: ${await check()}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}: ${error.name}: ${String(error.message).split("\n").slice(0, 6).join(" ")}`);
  }
}
const all = Object.keys(CHECKS).length;
console.log(`${all - failed} of ${all} hold`);
process.exit(failed > 0 ? 1 : 0);
