"""Two users and one model: each gets their own answers, one takes something back, one leaves with a LoRA adapter.

    python examples/two_users.py                                   # on the default model
    python examples/two_users.py --model FOLDER --hparams FILE     # on another

Every command runs as it is printed, in a process of its own, in an empty folder. Ends with 1 if a claim does not hold.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A new conversation before a new preference is asked for: on a small model, answers that already stand in the
# conversation weigh about as much as an edit.
CHAT = """\
What is my hobby?
What should I do this weekend?
/as bob
What is my hobby?
What should I do this weekend?
/as carol
What is my hobby?
/as bob
I prefer aisle seats
y
/new
What is my plane seat?
/prefs
/undo
/new
What is my plane seat?
What is my hobby?
/as alice
/export alice-lora
/quit
"""


def run(*words: str, typed: str | None = None) -> str:
    """Run one of our commands, and print it with what it writes."""
    shown = " ".join(f'"{word}"' if " " in word else word for word in words)
    print(f"$ easyedit-personal {shown}", flush=True)
    command = [sys.executable, "-m", "easyedit_personal.cli.main", *words]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, input=typed, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    print(done.stdout, flush=True)
    return done.stdout


def load_back(folder: str, question: str, options: argparse.Namespace) -> tuple[str, float]:
    """The adapter's answer as PEFT loads it, and how far its logits are from those of the edit in the weights."""
    import torch
    from peft import PeftModel

    from easyedit_personal.cli.session import find_settings
    from easyedit_personal.generation.generate import generate
    from easyedit_personal.kernels.apply import in_weights
    from easyedit_personal.modeling.loading import load_model
    from easyedit_personal.modeling.tokens import encode
    from easyedit_personal.store import EditStore

    print(f"$ python  # PeftModel.from_pretrained(model, {folder!r}), asked {question!r}", flush=True)
    model, tokenizer = load_model(find_settings(options.model, options.hparams, None, "cpu"))
    ids = torch.tensor([encode(tokenizer, question).prompt_ids])
    with (
        EditStore.open("edits.db", model, tokenizer) as store,
        in_weights(model, store.deltas("alice")),
        torch.no_grad(),
    ):
        wanted = model(ids).logits
    adapted = PeftModel.from_pretrained(model, folder)
    with torch.no_grad():
        difference = float((adapted(ids).logits - wanted).abs().max())
    return generate(adapted, tokenizer, [question])[0].text, difference


def answers(transcript: str, user: str, question: str) -> list[str]:
    """What a user was answered to a question, each time it was asked."""
    return re.findall(rf"^{user}> {re.escape(question)}\n(.*)$", transcript, re.MULTILINE)


def main() -> None:
    """Print the transcript."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=os.path.abspath, help="a model's folder; else the default model")
    parser.add_argument("--hparams", type=os.path.abspath, help="a YAML file; else that of the model's name")
    options = parser.parse_args()
    given = [word for name in ("model", "hparams") if (path := getattr(options, name)) for word in (f"--{name}", path)]
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run("edit", "--store", "edits.db", "--user", "alice", "My hobby is falconry", *given)
        run("edit", "--store", "edits.db", "--user", "bob", "My hobby is origami", *given)
        said = run("chat", "--store", "edits.db", "--user", "alice", *given, typed=CHAT)
        run("store", "verify", "--store", "edits.db")
        answer, difference = load_back("alice-lora", "What is my hobby?", options)
        print(f"{answer}\nlargest difference of a logit from the edit in the weights: {difference:.1e}")
        os.chdir(ROOT)  # Windows cannot remove the folder that one is in
    hobby, seat = "What is my hobby?", "What is my plane seat?"
    asked, undone = answers(said, "bob", seat)
    (alices,), (bobs, bobs_later), (carols,) = (answers(said, user, hobby) for user in ("alice", "bob", "carol"))
    claims = {
        "everyone gets their own answer": "falconry" in alices and "origami" in bobs,
        "a user who said nothing gets the base model's": not any(value in carols for value in ("falconry", "origami")),
        "the undo took one thing back": "aisle seats" in asked
        and "aisle seats" not in undone
        and "origami" in bobs_later,
        "the adapter is the edit": "falconry" in answer and difference < 1e-5,
    }
    for claim, holds in claims.items():
        print(f"{'ok' if holds else 'NOT SO'}: {claim}")
    sys.exit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
