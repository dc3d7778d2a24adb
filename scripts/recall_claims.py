"""A table of Markdown: every claim of a run of `refocus recall`, by relation and form.

    python3 scripts/recall_claims.py DIR
"""

import json
import sys
from pathlib import Path

run = json.loads((Path(sys.argv[1]) / "summary.json").read_text())
claims = run["claims"]
columns = list(dict.fromkeys((c["relation"], c["form"]) for c in claims))
print("| claim | " + " | ".join(f"{relation or 'all together'}, {form}" for relation, form in columns) + " |")
print("|---" * (len(columns) + 1) + "|")
for name, text in dict.fromkeys((c["id"], c["claim"]) for c in claims):
    got = {(c["relation"], c["form"]): c["verdict"].replace("_", " ") for c in claims if c["id"] == name}
    print(f"| {name}: {text} | " + " | ".join(got.get(x, "-") for x in columns) + " |")
few = [f"{r['relation']} ({r['outcome']})" for r in run["relations"] if r["outcome"] != "measured"]
if few:
    print(f"\nNot measured: {', '.join(few)}.")
