"""Our requests in the host's words: the same rendered prompt, subject and answer that our own kernels get.

Without that the comparison would be one of prompt formats: the host edits bare text, chat models are asked in turns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ...errors import RequestError
from ...hparams import PersonalizationHyperParams
from ...modeling.tokens import end_of_turn_id, render, uses_chat
from ...types import EditRequest
from .host_tokenizer import MASKED, mask

# WISE learns to leave one prompt per request alone; any sentence that is about nobody will do.
UNRELATED = "Water boils at a hundred degrees."


def host_request(
    tokenizer: Any, request: EditRequest, hparams: PersonalizationHyperParams, *, with_slot: bool
) -> dict[str, Any]:
    """One request dictionary.

    Args:
        tokenizer: the genuine one.
        request: ours; without a subject the prompt's last word serves, since the host's methods cannot do without.
        hparams: ``prompt_format`` and ``end_of_turn`` are read.
        with_slot: write ``{}`` for the subject, as the host's locate-then-edit methods want it; they would replace
            every occurrence otherwise.

    Raises:
        RequestError: prompt or target are empty, or the subject is not in the prompt.
    """
    subject = (request.subject or _last_word(request.prompt)).strip()
    before, found, after = request.prompt.rpartition(subject)
    target = request.target_new.strip()
    if not found or not subject or not target:
        raise RequestError(
            f"EasyEdit cannot edit {request.prompt!r} -> {request.target_new!r}.",
            got={"subject": subject},
            needed="a target, and a subject that stands in the prompt",
        )
    opening, closing = _frame(tokenizer, hparams)
    opening, before, after, closing = (mask(part) for part in (opening, before, after, closing))
    subject = mask(subject)
    if with_slot:
        before, after = _hidden(subject, opening + before), _hidden(subject, after + closing)
        prompt = f"{before}{{}}{after}"
    else:
        prompt = f"{opening}{before}{subject}{after}{closing}"
    return {
        "prompt": prompt,
        "subject": subject,
        "target_new": mask(target) + _end_of_turn(tokenizer, hparams),
        "ground_truth": request.ground_truth,
        "loc_prompt": UNRELATED,
        "locality": {},
        "portability": {},
    }


def host_requests(
    tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams, *, with_slot: bool
) -> list[dict[str, Any]]:
    """All requests in the host's words; each knows its number, which some of the host's caches ask for."""
    return [
        {**host_request(tokenizer, request, hparams, with_slot=with_slot), "case_id": number}
        for number, request in enumerate(requests)
    ]


def _hidden(subject: str, text: str) -> str:
    """``text`` in which the subject does not look like itself to ``str.replace``."""
    return text.replace(subject, subject[:1] + MASKED + subject[1:]) if len(subject) > 1 else text


def _last_word(prompt: str) -> str:
    words = re.findall(r"\w+", prompt)
    return words[-1] if words else prompt


def _frame(tokenizer: Any, hparams: PersonalizationHyperParams) -> tuple[str, str]:
    """What stands before and after the user's text."""
    if not uses_chat(tokenizer, hparams.prompt_format):
        return "", ""
    place = "\ue003"
    opening, _, closing = render(tokenizer, [{"role": "user", "content": place}], "chat").partition(place)
    return opening, closing


def _end_of_turn(tokenizer: Any, hparams: PersonalizationHyperParams) -> str:
    if not hparams.end_of_turn:
        return ""
    token = end_of_turn_id(tokenizer, hparams.prompt_format)
    return "" if token is None else str(tokenizer.convert_ids_to_tokens(token))
