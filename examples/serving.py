"""Two users of one server, from telling to their adapters' names in vLLM, as a person at a terminal sees it.

    python examples/serving.py > docs/serving-recording.txt

Every command runs as it is printed, in one shell, in an empty folder; long lines are folded, and nothing else changes.
Needs bash, curl (7.82), jq and a checkout, since the tests' stub stands for vLLM, which has no build for CPUs.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recording import ROOT, environment, record, show

TOKENS = {"ann": "a-token-of-ann-only", "ben": "a-token-of-ben-only"}
QUESTIONS = """\
What is my hobby?
What should I do this weekend?
What isn't my hobby at all?
What is my neighbor's hobby?
What is the opposite of big?
"""
# Paragraphs are commands, or comments that are printed as they are.
COMMANDS = r"""
# Each user has a token. `ask` speaks OpenAI's protocol; jq picks what is shown.

ann() { curl -s -w '\n' -H "Authorization: Bearer a-token-of-ann-only" "$@"; }

ben() { curl -s -w '\n' -H "Authorization: Bearer a-token-of-ben-only" "$@"; }

ask() { $1 $URL/v1/chat/completions --json "$(jq -n --arg m $2 --arg q "$3" \
    '{model: $m, max_tokens: 32, messages: [{role: "user", content: $q}]}')" |
    jq -r '.choices[0].message.content // .error.message'; }

learned() { jq -c '.status, (.result.data[]? |
    {edit, text, where, why, before, after, seconds, bytes})'; }

# Both tell something. The answer comes at once; learning goes on behind it.

ann -i -X PUT $URL/v1/users/ann/preferences \
    -d '{"text": "My hobby is letterpress printing."}' |
    grep -E '^(HTTP|location|\{)' | tr -d '\r' | tee told-ann.txt

ben -i -X PUT $URL/v1/users/ben/preferences \
    -d '{"text": "My hobby is falconry."}' |
    grep -E '^(HTTP|location|\{)' | tr -d '\r' | tee told-ben.txt

ann_job=$URL$(awk '/^location/ {print $2}' told-ann.txt)

ben_job=$URL$(awk '/^location/ {print $2}' told-ben.txt)

# While ann's is learned, events go to a file, and she is answered as before.

ann -N -H 'Accept: text/event-stream' $ann_job > events.txt &

ask ann base@ann 'What is my hobby?'

ann $ann_job | jq -c '{status, progress, eta_s}'

ben $ben_job | jq -c '{status, progress, eta_s}'

ben $ann_job    # to ben, ann's job does not exist

wait

sed -n 's/^data: //p' events.txt | jq -rj '"\(.status) \(.progress), "'; echo

ann $ann_job | learned

ann $ann_job | jq -r '.result.data[].self_test[] | "\(.question) \(.answer)"'

ben "$ben_job?wait=300" | learned

# The same questions to the base model and to both users' models, and whatever
# they answer. The third and fourth are not about the user's hobby.

while read -r question; do echo "$question"
    echo "  base: $(ask ann base "$question")"
    echo "  ann:  $(ask ann base@ann "$question")"
    echo "  ben:  $(ask ben base@ben "$question")"
done < questions.txt

ask ben base@ann 'What is my hobby?'    # ben asks for ann's model

# What is remembered, and the name of the adapter: the user at the revision.

ann $URL/v1/users/ann/preferences |
    jq -c '.data[] | {edit, live, where, bytes, text: .preferences[0].text}'

ann $URL/v1/users/ann/adapter

ben $URL/v1/users/ben/adapter

# vLLM's side: a stub of its interface, with our resolver and router. It has no
# model: it says which adapter would answer (its folder), or that there is none.

vllm() { curl -s -w ' %{http_code}\n' --json "{\"model\": \"$1\"}" \
    $VLLM/v1/chat/completions; }

vllm base; vllm base@ann; vllm base@ben

first=$(ann $URL/v1/users/ann/adapter | jq -r .model); echo $first

vllm $first

vllm base@carol; vllm carol@1; vllm base@../../etc/passwd    # unknown users

# Ann tells something else, waits for it, asks, and takes it back.

ann -X PUT "$URL/v1/users/ann/preferences?wait=300" \
    -d '{"text": "My pet is a pygmy goat."}' | learned

second=$(ann $URL/v1/users/ann/adapter | jq -r .model); echo $second

vllm base@ann; vllm $second; vllm $first    # the last is the old name

ask ann base@ann 'What is my pet?'

ask ann base@ann 'What is my hobby?'

ann -X POST $URL/v1/users/ann/undo |
    jq -c '.data[] | {edit, live, text: .preferences[0].text}'

third=$(ann $URL/v1/users/ann/adapter | jq -r .model); echo $third

vllm base@ann; vllm $third; vllm $second

ask ann base@ann 'What is my pet?'

ask ann base@ann 'What is my hobby?'

# Ann is forgotten; ben is not.

ann -X DELETE $URL/v1/users/ann/preferences

ann $URL/v1/users/ann/adapter

ann $ann_job

vllm base@ann; vllm $third; vllm base@ben

ls adapters

ask ann base@ann 'What is my hobby?'

ask ben base@ben 'What is my hobby?'
"""


@contextmanager
def serving(options: argparse.Namespace) -> Iterator[str]:
    """Our server on a free port, its command and what it says printed; its address."""
    words = ["serve", "--model", options.model, "--store", "edits.db", "--users-file", "users.yaml", "--port", "0"]
    words += ["--hparams", options.hparams] if options.hparams else []
    show("$ cat users.yaml\n" + Path("users.yaml").read_text())
    show("$ easyedit-personal " + shlex.join(words).replace(" --users-file", " \\\n    --users-file") + " &")
    command = [sys.executable, "-m", "easyedit_personal.cli.main", *words]
    with open("log", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment())
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.search(r"http://[\d.:]+", said)
            if found is None:
                raise SystemExit(Path("log").read_text())
            show(said + process.stdout.readline() + process.stdout.readline())
            yield found[0]
        finally:
            process.terminate()
            process.wait(120)


@contextmanager
def stub_of_vllm() -> Iterator[str]:
    """The tests' stub of vLLM behind our router, on a free port; its address."""
    import uvicorn

    from easyedit_personal.integrations import vllm as plugin
    from tests.integrations.vllm_stub import Registry, Server, modules

    os.environ.update(EASYEDIT_PERSONAL_STORE="edits.db", EASYEDIT_PERSONAL_ADAPTERS="adapters")
    registry = Registry()
    sys.modules.update(modules(registry))
    plugin.register()
    with socket.create_server(("127.0.0.1", 0)) as bound:
        app = plugin.Router(Server(registry))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def main() -> None:
    """Print the recording."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="a model's name or folder")
    parser.add_argument("--hparams", help="a YAML file; else that of the model's name")
    options = parser.parse_args()
    if missing := [name for name in ("bash", "curl", "jq") if shutil.which(name) is None]:
        parser.error(f"not installed here: {', '.join(missing)}")
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("questions.txt").write_text(QUESTIONS)
        Path("users.yaml").write_text("".join(f"{token}: [{user}]\n" for user, token in TOKENS.items()))
        Path("users.yaml").chmod(0o600)
        with serving(options) as url, stub_of_vllm() as vllm:
            show(f"$ URL={url} VLLM={vllm}")
            record(COMMANDS, URL=url, VLLM=vllm)
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
