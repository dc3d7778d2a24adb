"""Calls through a proxy beside the same calls without it, against an upstream that answers at once."""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time

BODY = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "x" * 2000}]}).encode()
ANSWER = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "mock",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "y" * 1000}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 500, "completion_tokens": 250, "total_tokens": 750},
}).encode()
EVENT = b'data: {"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
EVENTS = 20
PAUSE = 0.25


def request(path, body):
    head = f"POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\nauthorization: Bearer k\r\n"
    return head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body


async def read_head(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    fields = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    return head, fields


async def read_chunks(reader):
    whole = b""
    while size := int((await reader.readuntil(b"\n")).split(b";")[0], 16):
        whole += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return whole


async def answer(reader, writer):
    try:
        while True:
            _, fields = await read_head(reader)
            length = int(fields.get("content-length", 0))
            chunked = "chunked" in fields.get("transfer-encoding", "")
            body = await read_chunks(reader) if chunked else await reader.readexactly(length)
            if b'"stream": true' not in body and b'"stream":true' not in body:
                head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(ANSWER)}\r\n\r\n"
                writer.write(head.encode() + ANSWER)
                continue
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(EVENTS):
                writer.write(f"{len(EVENT):x}\r\n".encode() + EVENT + b"\r\n")
                await asyncio.sleep(PAUSE)
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def upstream(port, core):
    os.sched_setaffinity(0, {core})
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

    async def run():
        server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=4096)
        await server.serve_forever()

    asyncio.run(run())


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Proxy:
    """A proxy's processes, what they took, and the address of its port."""

    def __init__(self, name, command, port, core, more=()):
        self.name, self.port = name, port
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | dict(more),
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        for _ in range(1200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    sys.exit(f"{name} ended with {self.process.returncode}")
                time.sleep(0.1)
        sys.exit(f"{name} does not start")

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmHWM"))

    def stop(self):
        self.process.terminate()
        self.process.wait()


async def read_body(reader, fields):
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    return await (read_chunks(reader) if "chunked" in fields.get("transfer-encoding", "") else reader.read())


class Connection:
    """A connection that stays open, and is made again where the other side closes it, as any client does."""

    def __init__(self, port):
        self.port, self.open = port, None

    async def call(self, bytes_out):
        began = time.perf_counter()
        if not self.open:
            self.open = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.open
        writer.write(bytes_out)
        head, fields = await read_head(reader)
        body = await read_body(reader, fields)
        took = time.perf_counter() - began
        if b" 200 " not in head[:20] or not body:
            sys.exit(f"an answer is wrong: {head!r} {body[:200]!r}")
        if head.startswith(b"HTTP/1.0") or fields.get("connection", "").lower() == "close":
            self.close()
        return took, body

    def close(self):
        if self.open:
            self.open[1].close()
        self.open = None


async def latency(direct, proxied, at_once, pairs):
    """Pairs of calls, direct and proxied by turns, on connections that stay open where the proxy lets them; times in milliseconds."""
    out = request("/v1/chat/completions", BODY)
    rows = []

    async def worker(n):
        a, b = Connection(direct), Connection(proxied)
        for i in range(n + 50):
            order = (a, b) if i % 2 else (b, a)
            first, second = [(await c.call(out))[0] * 1000 for c in order]
            pair = (first, second) if i % 2 else (second, first)
            if i >= 50:
                rows.append(pair)
        a.close()
        b.close()

    await asyncio.gather(*(worker(pairs // at_once) for _ in range(at_once)))
    return rows


async def rate(proxy, seconds):
    out = request("/v1/chat/completions", BODY)
    count, until, before = 0, time.perf_counter() + seconds, proxy.cpu()

    async def worker():
        nonlocal count
        connection = Connection(proxy.port)
        while time.perf_counter() < until:
            await connection.call(out)
            count += 1

    await asyncio.gather(*(worker() for _ in range(8)))
    return count / seconds, count / max(proxy.cpu() - before, 1e-9)


async def streams(proxy, number):
    body = json.dumps({"model": "mock", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    out = request("/v1/chat/completions", body)

    async def one():
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(out)
        _, fields = await read_head(reader)
        whole = await read_body(reader, fields)
        writer.close()
        return whole.count(b'"content":') == EVENTS and whole.endswith(b"data: [DONE]\n\n")

    done = await asyncio.gather(*(one() for _ in range(number)), return_exceptions=True)
    return sum(d is True for d in done), proxy.memory()


def share(values, q):
    return statistics.quantiles(values, n=1000)[round(q * 1000) - 1]


def main():
    flags = argparse.ArgumentParser()
    flags.add_argument("--pairs", type=int, default=4000)
    flags.add_argument("--seconds", type=float, default=5)
    flags.add_argument("--streams", type=int, default=1000)
    args = flags.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    cores = sorted(os.sched_getaffinity(0))
    ours, theirs = cores[0], cores[-1]
    os.sched_setaffinity(0, {ours})
    mock = free_port()
    process = multiprocessing.Process(target=upstream, args=(mock, ours), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{mock}/v1"
    port = free_port()
    refocus = [os.environ["REFOCUS_BENCH_PROGRAM"], "serve", "--upstream", url, "--listen", f"127.0.0.1:{port}", "-q"]
    proxies = [("refocus", refocus, port, {})]
    folder = tempfile.TemporaryDirectory()
    if program := os.environ.get("REFOCUS_BENCH_LITELLM"):
        config = os.path.join(folder.name, "config.yaml")
        with open(config, "w") as f:
            model = {"model_name": "mock", "litellm_params": {"model": "openai/mock", "api_base": url, "api_key": "k"}}
            # Nobody but this program can reach it.
            settings = {"dangerously_permit_weak_or_unset_master_key": True}
            json.dump({"model_list": [model], "general_settings": settings}, f)
        port = free_port()
        command = [program, "--config", config, "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
        proxies.append(("litellm", command, port, {}))
    if program := os.environ.get("REFOCUS_BENCH_OPTILLM"):
        port = free_port()
        # "none" sends a request on as it is; the program is Flask's development server, as its README runs it.
        command = [program, "--approach", "none", "--base-url", url, "--port", str(port), "--log", "error"]
        proxies.append(("optillm", command, port, {"OPENAI_API_KEY": "k", "OPTILLM_HOST": "127.0.0.1"}))
    print(f"{time.strftime('%Y-%m-%d')} {platform.processor() or platform.machine()}, {len(cores)} cores, "
          f"load {os.getloadavg()[0]:.1f}; client and upstream on core {ours}, proxy on core {theirs}")
    for name, command, port, more in proxies:
        proxy = Proxy(name, command, port, theirs, more)
        small = name != "refocus"
        for at_once in (1, 8):
            rows = asyncio.run(latency(mock, port, at_once, max(args.pairs // (10 if small else 1), 200)))
            direct, added = [d for d, _ in rows], [p - d for d, p in rows]
            print(f"{name:8} {at_once} in flight, {len(rows)} pairs: added p50 {share(added, 0.5):.3f} ms, "
                  f"p99 {share(added, 0.99):.3f} ms; direct p50 {share(direct, 0.5):.3f} ms, p99 {share(direct, 0.99):.3f} ms",
                  flush=True)
        a_second, a_core = asyncio.run(rate(proxy, args.seconds))
        print(f"{name:8} 8 in flight: {a_second:.0f} requests/s, {a_core:.0f} for a second of processor time", flush=True)
        whole, memory = asyncio.run(streams(proxy, args.streams))
        print(f"{name:8} {args.streams} streams at once: {whole} whole, at most {memory:.0f} MiB", flush=True)
        proxy.stop()
    process.terminate()


main()
