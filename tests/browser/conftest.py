"""A browser, a server of the tests' small model, and pages that tell on whatever goes wrong in them."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from easyedit_personal.store import EditStore
from tests import tiny_model
from tests.serving.test_personalized import random_delta

TOKEN, ALICE = "token-of-the-operator", "token-of-alice-only"
QUICK = {"size": 2, "indirect": 0, "behind": 0}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="session")
def chromium():
    """The browser; its own sandbox needs rights that containers do not give."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the extra browser is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the path (apt-get install chromium)")
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The service, with one user whose answers never end by themselves."""
    from tests.service.test_server import Server

    folder = tmp_path_factory.mktemp("browsed")
    (folder / "users.yaml").write_text(json.dumps({TOKEN: "*", ALICE: ["alice"]}))
    (folder / "users.yaml").chmod(0o600)
    model, tokenizer = tiny_model.load()
    with EditStore.open(folder / "edits.db", model, tokenizer) as store:
        store.put("rambler", [random_delta(model, 4, 0, layer=3, scale=30.0)])
    settings = tiny_model.settings(cluster=QUICK, lowrank={"steps": 15, "polish": 1})
    (folder / "quick.yaml").write_text(yaml.safe_dump(settings.to_dict()))
    started = Server(folder, "--hparams", str(folder / "quick.yaml"))
    yield started
    assert started.stop() == 0


class Browser:
    """Opens pages, keeps their requests, and at the end wants no error in any of them."""

    def __init__(self, chromium, url):
        self.chromium, self.url, self.contexts, self.faults, self.requests = chromium, url, [], [], []

    def open(self, token=TOKEN, user=None, route=None, **options):
        """A page; signed in with the token, and at the user's model, where they are given."""
        context = self.chromium.new_context(reduced_motion="reduce", **options)
        context.set_default_timeout(60_000)
        self.contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._heard)
        page.on("request", lambda request: self.requests.append(request))
        for pattern, handler in (route or {}).items():
            page.route(pattern, handler)
        page.goto(self.url)
        if token:
            page.get_by_label("Token").fill(token)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_label("Whose model?").wait_for()
        if user is not None:
            page.get_by_label("Whose model?").fill(user)
            page.get_by_role("button", name="Open").click()
            page.get_by_role("heading", name="Ask it").wait_for()
        return page

    def _heard(self, message):
        # A status that is an error is written to the console by the browser itself, and shown by the page.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def close(self):
        for context in self.contexts:
            context.close()
        assert self.faults == []


@pytest.fixture
def browser(chromium, server):
    """See ``Browser``."""
    opened = Browser(chromium, f"{server.url}/")
    yield opened
    opened.close()
