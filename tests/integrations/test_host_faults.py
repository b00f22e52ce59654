"""The fault of EasyEdit's that docs/easyedit.md describes is still there, as long as the page says so."""

from __future__ import annotations

import pytest

from tests.hosts import REPOSITORY, run_python
from tests.house.documents import blocks
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.easyedit


@pytest.fixture(scope="module")
def case():
    """The minimal case as the page shows it."""
    text = (REPOSITORY / "docs" / "easyedit.md").read_text(encoding="utf-8")
    (code,) = [code for code in blocks(text, "python") if "apply_grace_to_model" in code]
    return code


def test_grace_fails_at_a_repeated_request_and_at_no_other(host, case, tmp_path):
    folder = tmp_path / "llama"
    tiny_model("llama", initializer_range=0.5).save_pretrained(folder)  # or all keys would lie within the radius
    tiny_tokenizer().save_pretrained(folder)
    code = case.replace("path/to/llama", str(folder)).replace("hparams/GRACE", f"{host.location.home}/hparams/GRACE")
    setup, call, _ = code.rpartition("apply_grace_to_model(")
    script = (
        "from easyedit_personal.integrations.easyedit import load_host; load_host()\n"
        f"{setup}other = request | {{'prompt': 'Who is my doctor?'}}\n"
        f"editor, _ = {call}model, tok, [other], hparams)\n"
        "print('LEARNS', len({float(loss) for loss in editor.losses}) > 1)\n"
        "try:\n"
        f"    {call}model, tok, [request], hparams)\n"
        "except RuntimeError as error:\n"
        "    print('RAISED', error)\n"
    )
    said = run_python(script, tmp_path, EASYEDIT_HOME=str(host.location.home))
    assert "LEARNS True" in said and "RAISED element 0 of tensors does not require grad" in said
