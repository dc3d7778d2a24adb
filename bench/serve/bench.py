"""See README.md beside the folder. refocus is a server asked over HTTP, its events read by a client that counts as its own
time; llama.cpp and transformers are called in process, which is the most that a server of theirs could reach."""

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

sys.path += [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "forward")]

import torch
import transformers
from gated import PIDS, Bench, Peer, commit, median, options, refocus, timed
from models import batch, gflop, load

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

    def __init__(self, command, model):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        PIDS.append(self.process.pid)
        self.model, self.url = model, self.said()["url"]
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
        """Streams a completion: the time of each token, and how many the server counted."""
        address = self.url.split("/")[2]
        connection = http.client.HTTPConnection(address, timeout=600)
        body = {
            "model": self.model, "prompt": ids, "max_tokens": new, "temperature": 0, "stream": True,
            "logit_bias": {str(b): -100 for b in bias}, "stream_options": {"include_usage": True},
        }  # fmt: skip
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        times, count = [], None
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                # Whatever the client does is taken from the server's cores.
                if b'"usage":{' in line:
                    count = json.loads(line[6:])["usage"]["completion_tokens"]
                elif b'"text":""' not in line:
                    times.append(time.perf_counter())
        out[i] = times, count

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
        if any(o is None or o[1] != new for o in out):
            raise SystemExit(f"{self.url}: {[o and o[1] for o in out]} where {new} tokens were asked for")
        all_begun = max(times[0] for times, _ in out)
        if streams == 1:
            return all_begun - begun, out[0][0][-1] - all_begun
        # Streams that began earlier have said something by then, which does not count. An event holds a token, or
        # several that make a character: what a stream said is spread over its events.
        rest = sum(count * sum(t > all_begun for t in times) / len(times) for times, count in out)
        window = max(times[-1] for times, _ in out) - all_begun
        return all_begun - begun, window * streams * (new - 1) / rest


def main():
    o = options()
    # Client and server share the cores: their threads wait for each other, on a quiet machine too.
    bench = Bench(refocus(), o, shared=True)
    new = 8 if o.quick else NEW
    long = 100 if o.quick else LONG
    torch.set_num_threads(THREADS)
    llama = Peer(sys.executable, str(Path(__file__).parent.parent / "forward" / "llama.py"))
    program = os.environ["REFOCUS_BENCH_PROGRAM"]
    notes = [
        f"refocus {commit()}, exact f32 arithmetic",
        f"torch {torch.__version__}, transformers {transformers.__version__}",
    ]
    for name, (file, bias, aims) in FILES.items():
        path = MODELS / file
        if not path.exists():
            print(f"{path} is not there: its rows are left out", file=sys.stderr)
            continue
        info = " ".join(llama.ask("load", path, THREADS))
        server = Server(
            [program, "serve", "--model", str(path), "--listen", "127.0.0.1:0", "--threads", str(THREADS), "--json", "-q"],
            path.stem,
        )
        model = load(path)
        for streams, aim in aims.items():
            sides = {
                "refocus serve": lambda reps: median([server.together(streams, PROMPT, new, bias)[1] for _ in range(reps)]),  # noqa: B023
                "llama.cpp in process": lambda reps: float(llama.ask("decode", streams, PROMPT, new - 1, reps)[1]),  # noqa: B023
            }
            # Two operations a weight and token: the logits are the embedding's second use.
            flop = gflop(model.config, streams, 1, streams) * (new - 1)
            bench.compare(
                f"{name}, {streams} stream{'s' * (streams > 1)}", THREADS, sides, base="refocus serve",
                tokens=streams * (new - 1), work={"refocus serve": flop},
                targets={"llama.cpp in process": ("≥", aim, "")},
            )  # fmt: skip
        x = batch(1, long, model.config.vocab_size)
        sides = {
            "refocus serve": lambda reps: median([server.together(1, long, 2, bias)[0] for _ in range(reps)]),  # noqa: B023
            "transformers, f32": lambda reps: timed(reps, lambda: model(x, use_cache=True, logits_to_keep=1)),  # noqa: B023
            "llama.cpp in process": lambda reps: float(llama.ask("decode", 1, long, 0, reps)[0]),
        }
        bench.compare(
            f"{name}, first token after {long:,}", THREADS, sides, base="refocus serve",
            targets={"transformers, f32": ("≥", 1.25, "")},
            work=dict.fromkeys(list(sides)[:2], gflop(model.config, 1, long, 1)),
        )  # fmt: skip
        server.stop()
    notes.append(f"{os.environ['REFOCUS_BENCH_LLAMA']}; {info}; int8 activations")
    bench.finish("Serving over HTTP", notes, Path(__file__).parent / "ledger.md")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
