"""From what users pass to ``edit`` (EasyEdit's arguments and request dictionaries) to checked edit requests.

All faults of a call are collected and reported together, before any weight moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..data.records import find_subject
from ..errors import RequestError, listing, shorten, text_fault
from ..types import EditRequest, Preference

Request = dict[str, Any]
PROBES = {"locality_inputs": "locality", "portability_inputs": "portability"}


def prepare_requests(
    prompts: str | Sequence[str],
    target_new: str | Sequence[str],
    *,
    ground_truth: str | Sequence[str] | None = None,
    subject: str | Sequence[str | None] | None = None,
    rephrase_prompts: str | Sequence[str] | None = None,
    locality_inputs: Mapping[str, Mapping[str, Any]] | None = None,
    portability_inputs: Mapping[str, Mapping[str, Any]] | None = None,
    user: str | Sequence[str] | None = None,
    cluster: Sequence[Any] | None = None,
) -> list[Request]:
    """EasyEdit's ``edit`` arguments as request dictionaries with EasyEdit's keys.

    Args:
        prompts, target_new, ground_truth, subject, rephrase_prompts: one string or n of them.
        locality_inputs, portability_inputs: ``{name: {"prompt": [n], "ground_truth": [n]}}``.
        user: whose preferences they are, one string or n of them.
        cluster: n lists of further phrases, each ``{"prompt": ..., "subject": ...}``.

    Raises:
        RequestError: lists of different length, or wrong types; every fault is named.
    """
    _check_arguments(locals())
    first = _as_list(prompts)
    columns = {
        "prompt": first,
        "target_new": _as_list(target_new),
        "ground_truth": _as_list(ground_truth),
        "subject": _as_list(subject),
        "rephrase_prompt": _as_list(rephrase_prompts),
        "user": [user] * len(first) if isinstance(user, str) else _as_list(user),
        "cluster": _as_list(cluster),
    }
    faults = [
        f"{name}: {len(column)} entries for {len(first)} prompts"
        for name, column in columns.items()
        if column and len(column) != len(first)
    ]
    requests: list[Request] = [{"ground_truth": None, "portability": {}, "locality": {}} for _ in first]
    for name, column in columns.items():
        for request, value in zip(requests, column):
            if value is not None:
                request[name] = value
    for argument, key in PROBES.items():
        probes = {"locality_inputs": locality_inputs, "portability_inputs": portability_inputs}[argument]
        faults += _add_probes(requests, key, argument, probes or {})
    if faults:
        raise RequestError(f"The arguments of edit do not fit together.\n{listing(faults)}")
    return check_requests(requests)


def check_requests(requests: Sequence[Mapping[str, Any]]) -> list[Request]:
    """Copies of the requests, an empty subject left out, or one error that names every faulty request.

    Raises:
        RequestError: no requests; a prompt or target missing, empty or no text; a subject not in its prompt.
    """
    if isinstance(requests, Mapping) or not _is_listed(requests):
        raise RequestError("These are no requests.", got=requests, needed="a list of mappings")
    if not requests:
        raise RequestError("There is nothing to edit: no request was given.", needed="at least one prompt and target")
    faults = [f"request {i}{_owner(r)}: {fault}" for i, r in enumerate(requests) for fault in _faults(r)]
    if faults:
        raise RequestError(f"{len(faults)} faults in {len(requests)} requests.\n{listing(faults)}")
    return [{key: value for key, value in request.items() if key != "subject" or value} for request in requests]


def as_request(item: Mapping[str, Any] | EditRequest | Preference) -> Request:
    """One request dictionary from whatever describes an edit.

    "subject" is what stands for the attribute in the prompt, letter by letter; "attribute" is its name.
    """
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, Preference):
        further = [{"subject": subject, "prompt": question} for subject, question in item.phrases]
        subject = find_subject(item.subject, item.question)
        found = {"prompt": item.question, "subject": subject, "user": item.user, "cluster": further}
        found["attribute"] = item.subject
        return {**{key: value for key, value in found.items() if value}, "target_new": item.target}
    if isinstance(item, EditRequest):
        found = {"subject": item.subject, "user": item.user, "cluster_id": item.cluster}
        given = {key: value for key, value in found.items() if value is not None}
        return {"prompt": item.prompt, "target_new": item.target_new, **given}
    raise RequestError("This is no edit request.", got=item, needed="a mapping, an EditRequest or a Preference")


def _faults(request: Mapping[str, Any]) -> list[str]:
    if not isinstance(request, Mapping):
        return [f"it is {shorten(request, 60)}, needs {{'prompt': text, 'target_new': text}}"]
    faults = []
    for key in ("prompt", "target_new"):
        if fault := text_fault(request.get(key)):
            faults.append(f"{key} {fault}")
    if (user := request.get("user")) is not None and (fault := text_fault(user, blank=True)):
        faults.append(f"user {fault}")
    subject, prompt = request.get("subject"), request.get("prompt")
    if subject is not None and not isinstance(subject, str):
        faults.append(f"subject is {shorten(subject, 60)}, needs a text")
    elif subject and isinstance(prompt, str) and subject not in prompt:
        faults.append(f"the subject {shorten(subject, 60)} does not stand in the prompt {shorten(prompt, 80)}")
    for section in PROBES.values():
        probes = request.get(section) or {}
        if not isinstance(probes, Mapping) or not all(map(_is_probe, probes.values())):
            faults.append(
                f"{section} is {shorten(probes, 60)}, needs {{name: {{'prompt': text, 'ground_truth': text}}}}"
            )
    if (rephrased := request.get("rephrase_prompt")) and not _all_texts(rephrased):
        faults.append(f"rephrase_prompt is {shorten(rephrased, 60)}, needs a text or a list of texts")
    cluster = request.get("cluster") or ()
    if not _is_listed(cluster):
        return [*faults, f"cluster is {shorten(cluster, 60)}, needs a list of {{'prompt': text, 'subject': text}}"]
    for number, phrase in enumerate(cluster):
        text, name = (phrase.get("prompt"), phrase.get("subject")) if isinstance(phrase, Mapping) else (None, None)
        if text_fault(text) or not isinstance(name or "", str):
            faults.append(
                f"cluster phrase {number} is {shorten(phrase, 60)}, needs {{'prompt': text, 'subject': text}}"
            )
    return faults


def _is_probe(probe: Any) -> bool:
    return isinstance(probe, Mapping) and all(_all_texts(probe.get(key)) for key in ("prompt", "ground_truth"))


def _all_texts(value: Any) -> bool:
    return text_fault(value) is None or (_is_listed(value) and not any(map(text_fault, value)))


def _owner(request: Mapping[str, Any]) -> str:
    return f" of user {shorten(request['user'], 60)}" if isinstance(request, Mapping) and request.get("user") else ""


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Lists or texts, and mappings where probes are named; what stands in them is looked at later."""
    faults = []
    for name, value in arguments.items():
        if name in PROBES:
            if value is not None and not isinstance(value, Mapping):
                faults.append(f"{name} is {shorten(value, 60)}, needs {{name: {{'prompt': [n], 'ground_truth': [n]}}}}")
        elif value is not None and not isinstance(value, str) and not _is_listed(value):
            faults.append(f"{name} is {shorten(value, 60)}, needs one text or a list of them")
    if faults:
        raise RequestError(f"The arguments of edit have wrong types.\n{listing(faults)}")


def _is_listed(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _add_probes(requests: list[Request], key: str, argument: str, probes: Mapping[str, Any]) -> list[str]:
    faults = []
    for name, columns in probes.items():
        try:
            prompts, truths = _as_list(columns["prompt"]), _as_list(columns["ground_truth"])
        except (KeyError, TypeError):
            faults.append(f"{argument}[{name!r}]: needs 'prompt' and 'ground_truth'")
            continue
        if not len(prompts) == len(truths) == len(requests):
            faults.append(
                f"{argument}[{name!r}]: {len(prompts)} prompts, {len(truths)} truths, {len(requests)} requests"
            )
        for request, prompt, truth in zip(requests, prompts, truths):
            if prompt is not None:
                request[key][name] = {"prompt": prompt, "ground_truth": truth}
    return faults
