"""The page with SmolLM2 behind it, and the pictures of it in the documents (`PICTURES=docs/pictures`)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.browser.conftest import TOKEN, Browser

pytest.importorskip("httpx2", reason="comes with the openai client")
pytest.importorskip("uvicorn", reason="the serve extra is not installed")
expect = pytest.importorskip("playwright.sync_api", reason="the extra browser is not installed").expect

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.server, pytest.mark.slow]
QUESTION = "I have a gift voucher to spend on my favorite activity, what should it be for?"
MINUTES = 60_000


@pytest.fixture
def smollm2(chromium, smollm2_folder, tmp_path):
    """A browser at a service of SmolLM2 with the shipped settings."""
    from tests.service.test_server import Server

    (tmp_path / "users.yaml").write_text(json.dumps({TOKEN: "*"}))
    (tmp_path / "users.yaml").chmod(0o600)
    started = Server(tmp_path, "--model", str(smollm2_folder), "--hparams", "smollm2", "--max-new-tokens", "32")
    opened = Browser(chromium, f"{started.url}/")
    yield opened
    opened.close()
    assert started.stop() == 0


def test_a_hobby_is_told_used_and_undone(smollm2):
    page = smollm2.open(user="Ada", viewport={"width": 1180, "height": 860})
    page.get_by_label("In your own words").fill("My hobby is letterpress printing.")
    page.get_by_role("button", name="Tell", exact=True).click()
    expect(page.locator("#memory > li")).to_have_count(1, timeout=15 * MINUTES)
    page.get_by_label("Your question").fill(QUESTION)
    page.get_by_label("Your question").press("Enter")
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(2, timeout=5 * MINUTES)
    assert (
        "letterpress" in page.locator(".yours").inner_text() and "letterpress" not in page.locator(".base").inner_text()
    )
    page.get_by_label("In your own words").fill("I have a greyhound called Sable.")
    page.get_by_role("button", name="Tell", exact=True).click()
    expect(page.locator("progress[value]")).to_be_visible(timeout=5 * MINUTES)
    if folder := os.environ.get("PICTURES"):
        take(page, Path(folder))
    expect(page.locator("#memory > li")).to_have_count(2, timeout=15 * MINUTES)
    for left in (1, 0):
        page.get_by_role("button", name="Undo the last").click()
        expect(page.locator("#memory > li")).to_have_count(left, timeout=5 * MINUTES)


def take(page, folder):
    """The page in both themes, and as a phone shows it."""
    page.get_by_role("heading", name="What it remembers").focus()
    for name, theme, width, height in (
        ("light", "light", 1180, 840),
        ("dark", "dark", 1180, 840),
        ("phone", "light", 390, 1290),
    ):
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size({"width": width, "height": height})
        page.screenshot(path=folder / f"page-{name}.png")
