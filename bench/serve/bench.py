"""See README.md beside the folder. Both sides are servers of their own; the client speaks HTTP and reads events."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from gated import PIDS, Bench, commit, median, options, refocus

THREADS = 2
PROMPT, NEW, LONG = 32, 64, 1000
MODELS = Path(os.environ.get("REFOCUS_MODELS", "~/.cache/refocus-models")).expanduser()
# The sides' end-of-sequence tokens must not end a text early.
FILES = {
    "SmolLM2-135M Q4_1": ("smollm2-135m-instruct.gguf", [0, 2], {1: 0.9, 16: 2.0}),
    "Qwen2.5-Coder-0.5B Q4_K_M": ("qwen2.5-coder-0.5b-instruct.gguf", [151643, 151645], {1: 0.9, 16: 1.2}),
}


class Server:
    """A server in a process of its own."""

    def __init__(self, command, url, model):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        PIDS.append(self.process.pid)
        self.model, self.url = model, url or self.said()["url"]
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(self.url.removesuffix("/v1") + "/health")
                return
            time.sleep(0.1)
        raise SystemExit(f"{command[0]} does not answer")

    def said(self):
        """The document that `refocus serve --json` prints once it listens."""
        text = ""
        while True:
            text += self.process.stdout.readline()
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(text)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        PIDS.remove(self.process.pid)

    def one(self, ids, new, bias, out, i):
        """Streams a completion: time of the first token, of the last, and their number."""
        address = self.url.split("/")[2]
        connection = http.client.HTTPConnection(address, timeout=600)
        body = {
            "model": self.model, "prompt": ids, "max_tokens": new, "temperature": 0, "stream": True,
            "logit_bias": {str(b): -100 for b in bias}, "stream_options": {"include_usage": True},
        }  # fmt: skip
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        first = last = count = None
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                count = (event.get("usage") or {}).get("completion_tokens") or count
                if event.get("choices"):
                    last = time.perf_counter()
                    first = first or last
        out[i] = first, last, count

    def together(self, streams, prompt, new, bias):
        """Seconds to the first token of the first stream, and from all first tokens to the last token."""
        # No two prompts begin alike, in no two calls: nothing is found in a cache.
        self.asked = getattr(self, "asked", 0) + 1
        start = lambda s: [(7919 * (i + 1) + 104729 * (s + 64 * self.asked)) % 40000 + 300 for i in range(prompt)]  # noqa: E731
        out, begun = [None] * streams, time.perf_counter()
        threads = [threading.Thread(target=self.one, args=(start(s), new, bias, out, s)) for s in range(streams)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if any(o is None or o[2] != new for o in out):
            raise SystemExit(f"{self.url}: {out} where {new} tokens were asked for")
        return out[0][0] - begun, max(o[1] for o in out) - max(o[0] for o in out)


def servers(file):
    """Both sides on one file, by name."""
    program = os.environ["REFOCUS_BENCH_PROGRAM"]
    path = str(MODELS / file)
    ours = [program, "serve", "--model", path, "--listen", "127.0.0.1:0", "--threads", str(THREADS), "--json", "-q"]
    sides = {"refocus": Server(ours, None, Path(file).stem)}
    llama = os.environ.get("REFOCUS_BENCH_LLAMA_SERVER")
    if llama:
        room = str(16 * (LONG + NEW))
        flags = ["-m", path, "-t", str(THREADS), "-np", "16", "-c", room, "--port", "18111", "--no-webui"]
        sides["llama.cpp"] = Server([llama, *flags], "http://127.0.0.1:18111/v1", "any")
    else:
        print("REFOCUS_BENCH_LLAMA_SERVER names no llama-server: its side is left out", file=sys.stderr)
    return sides


def main():
    o = options()
    bench = Bench(refocus(), o)
    new = 8 if o.quick else NEW
    for name, (file, bias, aims) in FILES.items():
        if not (MODELS / file).exists():
            print(f"{MODELS / file} is not there: its rows are left out", file=sys.stderr)
            continue
        sides = servers(file)
        for streams, aim in aims.items():
            decode = lambda side: lambda reps: median([side.together(streams, PROMPT, new, bias)[1] for _ in range(reps)])  # noqa: B023, E731
            bench.compare(
                f"{name}, {streams} stream{'s' * (streams > 1)}", THREADS,
                {n: decode(side) for n, side in sides.items()},
                tokens=streams * (new - 1), targets={"llama.cpp": ("≥", aim, "")},
            )  # fmt: skip
        first = lambda side: lambda reps: median([side.together(1, LONG, 2, bias)[0] for _ in range(reps)])  # noqa: E731
        bench.compare(
            f"{name}, first token after {LONG}", THREADS, {n: first(side) for n, side in sides.items()}
        )
        for side in sides.values():
            side.stop()
    versions = [f"refocus {commit()}", f"llama.cpp: {os.environ.get('REFOCUS_BENCH_LLAMA_SERVER', 'left out')}"]
    bench.finish("Serving over HTTP", versions, Path(__file__).parent / "ledger.md")


if __name__ == "__main__":
    main()
