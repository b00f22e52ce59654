"""The page as it is sent: what a browser may do with it, and that nothing comes from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

HTML = files("easyedit_personal.service.page").joinpath("index.html").read_text(encoding="utf-8")


def test_it_is_there_for_everybody_and_holds_nothing_of_anybody(shared):
    guarded = shared.client({"token-of-alice-0001": ["alice"]})
    page = guarded.get("/")
    assert page.status_code == 200 and page.text == HTML and page.headers["content-type"].startswith("text/html")
    assert page.headers["cache-control"] == "no-store" and page.headers["referrer-policy"] == "no-referrer"
    assert guarded.get("/?token=x").text == HTML and guarded.post("/").status_code == 405


def test_the_policy_lets_in_its_own_script_and_style_and_nothing_else(reader):
    policy = reader.get("/").headers["content-security-policy"]
    rules = {name: values for name, *values in (rule.split() for rule in policy.split("; "))}
    for kind in ("script", "style"):
        (content,) = re.findall(f"<{kind}>(.*?)</{kind}>", HTML, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(f"{kind}-src") == [f"'sha256-{digest}'"]
    assert rules == {
        "default-src": ["'none'"],
        "img-src": ["data:"],
        "connect-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
        "require-trusted-types-for": ["'script'"],
        "trusted-types": ["'none'"],
    }


def test_nothing_comes_from_elsewhere_and_no_text_becomes_html():
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", HTML))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    banned = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|localStorage|\son\w+=|style="
    )
    assert re.findall(banned, HTML) == []
    assert re.findall(r"<(?:script|link|img|iframe|object|embed)\b[^>]*\bsrc=", HTML) == []


def test_every_field_and_button_has_a_name():
    fields = set(re.findall(r"<(?:input|textarea)\b[^>]*\bid=\"([\w-]+)\"", HTML))
    assert fields == set(re.findall(r"<label for=\"([\w-]+)\"", HTML)) and len(fields) == 4
    assert all(text.strip() for text in re.findall(r"<button\b[^>]*>(.*?)</button>", HTML))
    known = set(re.findall(r"\bid=\"([\w-]+)\"", HTML))
    for names in re.findall(r"aria-(?:labelledby|describedby)=\"([\w -]+)\"", HTML):
        assert set(names.split()) <= known
    assert set(re.findall(r"\$\(\"([\w-]+)\"\)", HTML)) <= known


def test_it_can_be_left_out(place):
    client = place.client(page=False)
    assert client.get("/").status_code == 404
