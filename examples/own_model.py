"""A model of your own, a folder without a settings file of its name, through every command that takes one.

    python examples/own_model.py > docs/own-model-recording.txt

Every command runs as it is printed, in one shell, in an empty folder. The folder is a copy of SmolLM2's under another
name, so that edits take; its first edit prepares the model, which takes minutes. Needs bash, curl and jq.
"""

from __future__ import annotations

import os
import shutil
import tempfile

from recording import ROOT, record

# Paragraphs are commands, or comments that are printed as they are.
COMMANDS = r"""
# Any folder with config.json, safetensors and a tokenizer will do; this one has
# no settings file of its name.

cp -r "$(easyedit-personal models path smollm2)" my-model

easyedit-personal edit --model my-model --store edits.db --user ann \
    "My hobby is falconry"

# A conversation, its lines from a pipe.

printf '%s\n' 'What is my hobby?' 'Any plans for my weekend?' /prefs |
    easyedit-personal chat --model my-model --store edits.db --user ann

# Many users, from a file.

cat > users.jsonl << END
{"user": "ben", "preferences": [{"subject": "pet", "target": "a goat"}]}
END

easyedit-personal personalize --model my-model --store edits.db \
    --users users.jsonl

# A server; its log goes to a file.

easyedit-personal serve --model my-model --store edits.db --port 8765 \
    --max-new-tokens 40 2> log &

ask() { curl -s --retry 60 --retry-all-errors --json "$(jq -n --arg m $1 \
    --arg q "$2" '{model: $m, messages: [{role: "user", content: $q}]}')" \
    http://127.0.0.1:8765/v1/chat/completions |
    jq -r '.choices[0].message.content // .error.message'; }

ask my-model@ann 'What is my hobby?'

ask my-model@ben 'What is my pet?'

ask my-model 'What is my pet?'    # nobody's

kill %1; wait

# The derived settings, to begin with your own; those of another model are
# refused before anything is loaded, and so is the wrong folder.

easyedit-personal models settings my-model > mine.yaml; grep ^layers mine.yaml

easyedit-personal edit --model my-model --hparams gpt2 --store edits.db \
    --user ann "My pet is a goat"

easyedit-personal edit --model ./my-modle --store edits.db --user ann \
    "My pet is a goat"
"""


def main() -> None:
    """Print the recording."""
    if missing := [name for name in ("bash", "curl", "jq") if shutil.which(name) is None]:
        raise SystemExit(f"not installed here: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        record(COMMANDS)
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
