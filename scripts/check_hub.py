#!/usr/bin/env python3
"""Checks that refocus and huggingface_hub share one cache, in both directions, against a hub on this machine.

    scripts/check_hub.py check REFOCUS FOLDER      needs huggingface_hub; FOLDER is a model in Hugging Face layout
    scripts/check_hub.py serve FOLDER [--rate MB]  only the hub: FOLDER as org/tiny, until it is interrupted

Prints one line a check and exits with 1 where one fails.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "1111111111111111111111111111111111111111"
LARGE = (".safetensors", ".bin", ".gguf")
REPO = "org/tiny"


def describe(path):
    """Size, git's sha1, and for large files the sha256, as a hub has them."""
    git, sha = hashlib.sha1(b"blob %d\0" % path.stat().st_size), hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            git.update(block)
            sha.update(block)
    return {"path": path, "size": path.stat().st_size, "git": git.hexdigest(),
            "sha256": sha.hexdigest() if path.name.endswith(LARGE) else None}


def hub(folder, rate):
    files = {p.name: describe(p) for p in sorted(Path(folder).iterdir()) if p.is_file()}
    log = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def reply(self, status, headers, content=b"", body=True):
            self.send_response(status)
            for name, value in {"Content-Length": len(content), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def answer(self, body):
            path = unquote(urlsplit(self.path).path)
            entry = {"line": f"{self.command} {path}", "range": self.headers.get("Range"), "sent": 0}
            log.append(entry)
            say = {"Content-Type": "application/json"}
            if path in (f"/api/models/{REPO}", f"/api/models/{REPO}/revision/main", f"/api/models/{REPO}/revision/{COMMIT}"):
                info = {"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
                return self.reply(200, say, json.dumps(info).encode(), body)
            if path.startswith(f"/api/models/{REPO}/tree/"):
                tree = [{"type": "file", "path": n, "size": f["size"], "oid": f["git"]}
                        | ({"lfs": {"oid": f["sha256"], "size": f["size"], "pointerSize": 130}} if f["sha256"] else {})
                        for n, f in files.items()]
                return self.reply(200, say, json.dumps(tree).encode(), body)
            if path.startswith("/store/"):
                return self.send(next(f for f in files.values() if f["sha256"] == path[7:]), {}, entry, body)
            name = path.rsplit("/", 1)[-1]
            if path not in (f"/{REPO}/resolve/{COMMIT}/{name}", f"/{REPO}/resolve/main/{name}"):
                return self.reply(404, {"X-Error-Code": "RepoNotFound"}, b"", body)
            file, commit = files.get(name), {"X-Repo-Commit": COMMIT}
            if file is None:
                return self.reply(404, commit | {"X-Error-Code": "EntryNotFound"}, b"", body)
            if file["sha256"]:
                linked = {"X-Linked-Etag": f'"{file["sha256"]}"', "X-Linked-Size": file["size"]}
                return self.reply(302, commit | linked | {"Location": f"http://localhost:{server.server_port}/store/{file['sha256']}"}, b"", body)
            self.send(file, commit | {"ETag": f'"{file["git"]}"'}, entry, body)

        def send(self, file, headers, entry, body):
            start = int((entry["range"] or "bytes=0-")[6:].split("-")[0])
            status = 206 if entry["range"] else 200
            if status == 206:
                headers["Content-Range"] = f"bytes {start}-{file['size'] - 1}/{file['size']}"
            self.send_response(status)
            for name, value in {"Content-Length": file["size"] - start, **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if not body:
                return
            with file["path"].open("rb") as source:
                source.seek(start)
                while block := source.read(1 << 18):
                    try:
                        self.wfile.write(block)
                    except OSError:
                        return
                    entry["sent"] += len(block)
                    if rate:
                        time.sleep(len(block) / rate / 1e6)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, log


def python(code, env):
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    return run.stdout.strip() if run.returncode == 0 else f"failed: {run.stderr[-2000:]}"


def check(refocus, folder):
    server, log = hub(folder, 0)
    failed = []

    def environment(home, **more):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
        return clean | {"HF_HOME": home, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | more

    def inspect(env, model=REPO):
        return subprocess.run([refocus, "model", "inspect", model], env=env, capture_output=True, text=True)

    def says(name, good, detail=""):
        print(f"{'pass' if good else 'FAIL'}  {name}{f': {detail}' if detail else ''}")
        if not good:
            failed.append(name)

    def layout(home):
        repo = Path(home) / "hub" / "models--org--tiny"
        return {p.relative_to(repo): (os.readlink(p) if p.is_symlink() else p.read_bytes())
                for p in repo.rglob("*") if p.is_file() and p.relative_to(repo).parts[0] in ("blobs", "refs", "snapshots")}

    download = "from huggingface_hub import snapshot_download as s; print(s('org/tiny'))"
    local = "from huggingface_hub import snapshot_download as s; print(s('org/tiny', local_files_only=True))"
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        run = inspect(environment(ours))
        says("refocus fetches", run.returncode == 0, run.stderr.strip())
        path = python(local, environment(ours))
        says("Python finds what refocus fetched", path.endswith(f"snapshots/{COMMIT}"), path)
        code = ("from huggingface_hub import try_to_load_from_cache as t, hf_hub_download as d, _CACHED_NO_EXIST as n\n"
                "print(t('org/tiny', 'added_tokens.json') is n, d('org/tiny', 'config.json', local_files_only=True))")
        found = python(code, environment(ours))
        says("Python knows which files there are not", found.startswith("True /"), found)
        code = ("from transformers import AutoConfig; print(AutoConfig.from_pretrained('org/tiny').model_type)")
        found = python(code, environment(ours, HF_HUB_OFFLINE="1"))
        says("transformers reads it offline", not found.startswith("failed") or "No module" in found, found[-200:])

        path = python(download, environment(theirs))
        says("Python fetches", path.endswith(f"snapshots/{COMMIT}"), path)
        del log[:]
        run = inspect(environment(theirs, HF_HUB_OFFLINE="1"))
        says("refocus finds what Python fetched, offline", run.returncode == 0 and not log, run.stderr.strip())
        run = inspect(environment(theirs))
        fetched = [e["line"] for e in log if "/resolve/" in e["line"]]
        says("and online without fetching a file again", run.returncode == 0 and not fetched, f"{len(log)} request(s)")
        a, b = layout(ours), layout(theirs)
        says("what both fetched lies alike", a and all(b.get(name) == a[name] for name in a), f"{len(a)} of {len(b)} files")
        path = python(local, environment(theirs))
        says("Python still finds it", path.endswith(f"snapshots/{COMMIT}"), path)

        env = environment(theirs)
        server.shutdown()
        server.server_close()
        run = inspect(env)
        says("without a hub it is used, and said", run.returncode == 0 and "as it was last fetched" in run.stderr, run.stderr.strip())
        run = inspect(env, f"{REPO}@{COMMIT}")
        says("a commit needs no hub", run.returncode == 0, run.stderr.strip() or "nothing is said")
    return bool(failed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("check")
    one.add_argument("refocus", type=os.path.abspath)
    one.add_argument("folder")
    other = commands.add_parser("serve")
    other.add_argument("folder")
    other.add_argument("--rate", type=float, default=0, help="megabytes a second")
    args = parser.parse_args()
    if args.command == "check":
        sys.exit(check(args.refocus, args.folder))
    server, log = hub(args.folder, args.rate)
    print(f"HF_ENDPOINT=http://127.0.0.1:{server.server_port}", flush=True)
    told = 0
    while True:
        time.sleep(0.2)
        while told < len(log):
            print(log[told]["line"], log[told]["range"] or "", flush=True)
            told += 1


if __name__ == "__main__":
    main()
