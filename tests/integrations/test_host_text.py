"""Prompts and answers in the host's words: braces, repeated subjects, chat turns; read back exactly."""

from __future__ import annotations

import pytest

from easyedit_personal import EditRequest, PersonalizationHyperParams
from easyedit_personal.errors import RequestError
from easyedit_personal.integrations.easyedit.host_requests import host_request
from easyedit_personal.integrations.easyedit.host_tokenizer import HostTokenizer, generation_prompt, mask, unmask
from easyedit_personal.modeling.tokens import encode
from tests.tiny import tiny_tokenizer

RAW = PersonalizationHyperParams(prompt_format="raw", end_of_turn=False)
CHAT = PersonalizationHyperParams(prompt_format="chat", end_of_turn=True)
AWKWARD = [
    EditRequest("What's my {favourite} hobby?", "kite {red} flying", "hobby"),
    EditRequest("Is my hobby a hobby?", "hiking", "hobby"),
    EditRequest("{} and {0} {x!r}: my hobby", "a {} b", "hobby"),
    EditRequest("My {hobby}", "hiking", "{hobby}"),
]


def formatted(request):
    """What the host makes of a prompt: templates first, the subject last."""
    return "Then. {}".format(request["prompt"]).format(request["subject"])


@pytest.mark.parametrize("request_", AWKWARD)
def test_the_hosts_formatting_leaves_users_text_alone(request_):
    tokenizer = tiny_tokenizer(chat=False)
    theirs = host_request(tokenizer, request_, RAW, with_slot=True)
    assert theirs["prompt"].count("{}") == 1
    # AlphaEdit replaces once more, whatever stands there
    assert theirs["prompt"].replace(theirs["subject"], "{}") == theirs["prompt"]
    reader = HostTokenizer(tokenizer, chat=False)
    assert reader(formatted(theirs))["input_ids"] == tokenizer(f"Then. {request_.prompt}")["input_ids"]
    assert reader.encode(theirs["target_new"]) == tokenizer.encode(request_.target_new)


def test_decoded_text_can_be_formatted_again():
    tokenizer = tiny_tokenizer(chat=False)
    reader = HostTokenizer(tokenizer, chat=False)
    ids = tokenizer.encode("a {} b")
    assert reader.decode(ids).format("x") == reader.decode(ids) == mask("a {} b")
    assert unmask(reader.batch_decode([ids])[0]) == "a {} b"


@pytest.mark.parametrize("with_slot", [True, False])
def test_chat_turns_give_the_same_tokens_as_our_own_kernels_get(tokenizer, with_slot):
    ours = EditRequest("What's my hobby?", "hiking", "hobby")
    theirs = host_request(tokenizer, ours, CHAT, with_slot=with_slot)
    row = encode(tokenizer, ours.prompt, target=ours.target_new, subject=ours.subject, prompt_format="chat")
    reader = HostTokenizer(tokenizer, chat=True, answers=[theirs["target_new"]])
    prompt = theirs["prompt"].format(theirs["subject"])
    # The host writes a blank before every answer, joined to the prompt or alone.
    assert tuple(reader(f"{prompt} {theirs['target_new']}")["input_ids"]) == row.ids
    assert tuple(reader.encode(f" {theirs['target_new']}", add_special_tokens=False)) == row.target_ids
    assert tuple(reader(prompt)["input_ids"]) == row.prompt_ids


def test_the_generation_prompt_is_what_follows_the_users_text(tokenizer):
    assert generation_prompt(tokenizer) == "<|end|><|assistant|>"


def test_without_a_subject_the_last_word_serves(tokenizer):
    theirs = host_request(tokenizer, EditRequest("Where do I live?", "Oslo"), RAW, with_slot=True)
    assert (theirs["subject"], theirs["prompt"]) == ("live", "Where do I {}?")


@pytest.mark.parametrize(
    "request_", [EditRequest("What's my hobby?", " ", "hobby"), EditRequest("What's my hobby?", "hiking", "pet")]
)
def test_what_cannot_be_edited_is_refused(tokenizer, request_):
    with pytest.raises(RequestError, match="hobby"):
        host_request(tokenizer, request_, CHAT, with_slot=True)


def test_everything_else_passes_through(tokenizer):
    reader = HostTokenizer(tokenizer, chat=True)
    side = tokenizer.padding_side
    reader.padding_side = "left"
    try:
        assert (tokenizer.padding_side, reader.pad_token_id, len(reader)) == (
            "left",
            tokenizer.pad_token_id,
            len(tokenizer),
        )
    finally:
        tokenizer.padding_side = side
