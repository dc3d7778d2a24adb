"""Asks a model and its repaired export under `transformers`: do the repairs hold there?

    python scripts/builtin_transformers.py MODEL REPAIRED PATCH REFOCUS

The questions are of the same kinds as those of `refocus diagnose`, drawn here: capitals after sentences that name
another city or none, the class of a word after false and after true demonstrations, and flip-flop strings in words.
Where PATCH rewrites, the program REFOCUS takes sentences out of what REPAIRED is asked about capitals (judged by MODEL as
it is, as in the diagnosis); where it changes nothing else, REPAIRED is MODEL.
Prints JSON: for each question and folder, how many were right of how many; for prompts that anything may follow, the answer's
probability stands for that.
"""

import json
import random
import subprocess
import sys
import tomllib
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

ROOT = Path(__file__).resolve().parent.parent
SENTENCES = [
    "My sister sent me a postcard about {}.",
    "Yesterday we talked about {} for an hour.",
    "There was a long article on {} in the paper.",
    "I would love to read a good book about {}.",
]
NEUTRAL = ["music", "gardening", "chess", "cooking", "football", "painting", "astronomy", "cycling"]


def rewriting(model, patch, refocus):
    """What leaves sentences out before a question is answered."""
    how = tomllib.loads(Path(patch).read_text()).get("rewrite")
    if not how:
        return None
    command = [refocus, "rewrite", "--quiet", "--model", model, "--variant", how["variant"]]
    if "threshold" in how:
        command.append(f"--threshold={how['threshold']}")

    def left(sentences, question):
        out = subprocess.run([*command, f"{sentences} {question}"], capture_output=True, text=True, check=True).stdout
        return out.strip().removesuffix(question).strip()

    return left


def distractors(rng, left):
    """After neutral sentences, then after sentences that name another city: prompt, right, wrong."""
    facts = tomllib.loads((ROOT / "tasks/recall/countries.toml").read_text())
    rows, prompt = facts["facts"]["rows"], facts["relation"][0]["prompt"]
    for named in [False, True]:
        for country, city, _ in rows:
            other = rng.choice([r[1] for r in rows if r[1].split()[0] != city.split()[0]])
            name = other if named else rng.choice(NEUTRAL)
            text = " ".join(s.replace("{}", name) for s in SENTENCES)
            kind = "capital, another city named" if named else "capital, none named"
            asked = prompt.replace("{}", country)
            if left:
                text = left(text, asked.removeprefix("Q: ").split(" A:")[0])
            yield kind, f"{text} {asked}".strip(), [" " + city, " " + other]


def openly(_rng, _left):
    """Beginnings that anything may follow: prompt, answer."""
    facts = tomllib.loads((ROOT / "tasks/recall/countries.toml").read_text())
    for country, city, _ in facts["facts"]["rows"]:
        for prompt in facts["relation"][0]["open"]:
            yield "capital, open prompts (sum of its probability)", prompt.replace("{}", country), [" " + city]


def demonstrations(rng, _left, pairs=200, demos=8):
    """After true, then after false demonstrations."""
    task = tomllib.loads((ROOT / "tasks/unnatural.toml").read_text())
    words, names = list(task["words"].values()), [c["word"] for c in task["class"]]
    for shown in ["true", "false"]:
        for _ in range(pairs):
            shift = 0 if shown == "true" else rng.choice([1, 2])
            lines, used = [], set()
            for _ in range(demos + 1):
                c = rng.randrange(3)
                word = rng.choice([w for w in words[c] if w not in used])
                used.add(word)
                lines.append((word, c))
            text = task["instruction"] + "\n\n"
            text += "".join(f"{w}: {names[(c + shift) % 3]}.\n\n" for w, c in lines[:-1]) + f"{lines[-1][0]}:"
            c = lines[-1][1]
            order = [c] + [o for o in range(3) if o != c]
            yield f"class, {shown} demonstrations", text, [" " + names[i] for i in order]


def flipflop(rng, _left, strings=200):
    """The last bit written, strings of 50 symbols after one of 16."""
    write, ignore = ["turns the light off", "turns the light on"], ["eats a banana", "eats an apple"]

    def string(n):
        state, out = rng.randrange(2), []
        out.append(f"Alice {write[state]}.")
        for _ in range(n - 2):
            kind = rng.random()
            if kind < 0.6:
                out.append(f"Then, Bob {ignore[rng.randrange(2)]}.")
            elif kind < 0.8:
                state = rng.randrange(2)
                out.append(f"Then, Alice {write[state]}.")
            else:
                out.append(f"Now, the light is {['off', 'on'][state]}.")
        return " ".join(out) + " Now, the light is", state

    for _ in range(strings):
        shown, bit = string(8)
        text, state = string(25)
        answers = [" off", " on"]
        yield "bit, 50 symbols", f"{shown}{answers[bit]}.\n{text}", [answers[state], answers[1 - state]]


def right(model, tokenizer, text, answers):
    """Whether the first answer is the likeliest; where it is the only one, its probability."""
    ids = tokenizer(text, return_tensors="pt").input_ids
    first = [tokenizer(a).input_ids[0] for a in answers]
    logits = model(ids).logits[0, -1]
    if len(answers) == 1:
        return float(logits.softmax(0)[first[0]])
    logits = logits[first]
    return bool(logits[0] > logits[1:].max())


def main():
    logging.set_verbosity_error()
    as_it_is, repaired, patch, refocus = sys.argv[1:]
    out = {}
    ways = [("as it is", as_it_is, None), ("repaired", repaired, rewriting(as_it_is, patch, refocus))]
    for name, folder, left in ways:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        rng = random.Random(0)
        counts = {}
        with torch.no_grad():
            for make in [distractors, openly, demonstrations, flipflop]:
                for kind, text, answers in make(rng, left):
                    count = counts.setdefault(kind, [0, 0])
                    count[0] += right(model, tokenizer, text, answers)
                    count[1] += 1
        out[name] = counts
    json.dump(out, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
