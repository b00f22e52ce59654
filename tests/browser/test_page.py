"""Telling, asking, undoing and forgetting as a person does it, also one who has no mouse, or means harm."""

from __future__ import annotations

import io
import json
import re
import zipfile

import pytest

from tests.browser.conftest import ALICE, PHONE, TOKEN

httpx = pytest.importorskip("httpx2", reason="comes with the openai client")
pytest.importorskip("uvicorn", reason="the serve extra is not installed")
expect = pytest.importorskip("playwright.sync_api", reason="the extra browser is not installed").expect
expect.set_options(timeout=60_000)  # a busy machine is no fault
pytestmark = [pytest.mark.browser, pytest.mark.server]
QUESTION = "What is my hobby?"
HOSTILE = '<img src=x onerror="window.harmed=1"></script><script>window.harmed=1</script>\'"&lt;b&gt;'


def remembered(page, count):
    """The memory's entries, once there are so many."""
    items = page.locator("#memory > li")
    expect(items).to_have_count(count, timeout=120_000)
    return items


def ask(page, question):
    """Ask, and give the answers of the base model and of the user's, when both are whole."""
    page.get_by_label("Your question").fill(question)
    page.get_by_label("Your question").press("Enter")
    turn = page.locator(".turn").last
    expect(turn.locator("[aria-busy=false]")).to_have_count(2, timeout=120_000)
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
    return tuple(turn.locator(f".{side} p").first.inner_text() for side in ("base", "yours"))


def path_of(url):
    """An address without scheme and host."""
    return re.sub(r"^https?://[^/]+", "", url)


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def tell(page, text):
    page.get_by_label("In your own words").fill(text)
    page.get_by_role("button", name="Tell", exact=True).click()


def test_told_asked_undone(browser):
    page = browser.open(user="dora")
    expect(page.get_by_text("Nothing yet.")).to_be_visible()
    base, before = ask(page, QUESTION)
    assert base == before and page.get_by_text("The same as the base model").is_visible()
    tell(page, "My hobby is falconry.")
    entry = remembered(page, 1)
    expect(entry).to_contain_text("My hobby is falconry")
    expect(entry).to_contain_text("in weights")
    expect(entry).to_contain_text("kB")
    expect(page.locator("#jobs > li")).to_have_count(0)
    page.get_by_role("button", name="New conversation").click()
    assert ask(page, QUESTION) == (base, "falconry")
    page.get_by_role("button", name="Undo: My hobby is falconry").click()
    remembered(page, 0)
    expect(page.get_by_role("status")).to_contain_text("Undone: My hobby is falconry")
    page.get_by_role("button", name="New conversation").click()
    assert ask(page, QUESTION) == (base, base)


def test_downloaded_and_forgotten(browser, server):
    page = browser.open(user="emil")
    tell(page, "My hobby is chess.")
    remembered(page, 1)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download as LoRA").click()
    name = waiting.value.suggested_filename
    with zipfile.ZipFile(io.BytesIO(waiting.value.path().read_bytes())) as packed:
        assert {entry.rpartition("/")[2] for entry in packed.namelist()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
    assert name.startswith("emil@") and name.endswith(".zip")
    page.get_by_role("button", name="Forget everything").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("emil")
    dialog.get_by_role("button", name="Keep it").click()
    remembered(page, 1)
    page.get_by_role("button", name="Forget everything").click()
    dialog.get_by_role("button", name="Forget everything").click()
    remembered(page, 0)
    expect(page.get_by_role("status")).to_contain_text("Everything about emil was forgotten.")
    kept = httpx.get(f"{server.url}/v1/users/emil/preferences?all=1", headers=bearer(TOKEN)).json()["data"]
    assert kept == []


def test_what_is_unclear_is_asked_and_a_yes_is_learned(browser):
    page = browser.open(user="finn")
    tell(page, "My thing is falconry.")
    expect(page.get_by_text("nothing was learned")).to_be_visible()
    page.get_by_role("button", name="Yes: my thing is falconry").click()
    expect(remembered(page, 1)).to_contain_text("thing: falconry")
    expect(page.locator("#unclear")).to_be_hidden()
    tell(page, "kayaking is great")
    expect(page.get_by_text("I found nothing to remember")).to_be_visible()
    remembered(page, 1)


def test_without_a_mouse(browser):
    """From the top to an answer with Tab, Enter and Escape; whatever has the focus shows it."""
    page = browser.open(token=None)
    expect(page.get_by_label("Token")).to_be_focused()
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Whose model?")).to_be_focused()
    page.keyboard.type("rambler")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Ask it").wait_for()
    names = []
    page.evaluate("document.activeElement.blur()")
    for _ in range(14):
        page.keyboard.press("Tab")
        look = "e => [e.innerText || e.id, getComputedStyle(e).outlineStyle, getComputedStyle(e).outlineWidth]"
        name, style, width = page.evaluate(f"({look})(document.activeElement)")
        names.append(name)
        assert style != "none" and width != "0px", name
        if name == "question":
            break
    assert names[-1] == "question" and "text" in names and "Tell" in names
    page.keyboard.type("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    yours = page.locator(".turn .yours")
    expect(yours.locator("p").first).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(yours).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
    expect(page.locator(".turn .question")).to_have_text("first line\nsecond line")


def test_what_a_screen_reader_is_told(browser):
    """Every control has a name, answers are a log that is read when they are whole, faults are alerts."""
    page = browser.open(user="gina")
    tell(page, "My hobby is rowing.")
    remembered(page, 1)
    ask(page, QUESTION)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    shown = [node for node in tree if not node.get("ignored")]
    controls = {"button", "textbox", "combobox", "link", "progressbar", "article", "log", "region", "dialog"}
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in shown]
    assert [pair for pair in named if pair[0] in controls and not pair[1].strip()] == []
    assert {role for role, _ in named} >= {
        "button",
        "textbox",
        "combobox",
        "log",
        "article",
        "status",
        "main",
        "banner",
    }
    names = [name for role, name in named if role == "button"]
    assert len(names) == len(set(names)), "two buttons of one name"
    tell(page, "kayaking is great")
    expect(page.get_by_role("alert").filter(has_text="nothing was learned")).to_be_visible()


def test_words_are_never_markup(browser, server):
    """Names, sentences, answers and errors made of HTML are shown as they are, and nothing in them runs."""
    told = {"subject": "hobby", "target": HOSTILE}
    http = httpx.Client(base_url=server.url, headers=bearer(TOKEN), timeout=320)
    user = "/v1/users/%3Cimg%20src%3Dx%20onerror%3D%22window.harmed%3D1%22%3E"
    with http:
        job = http.put(f"{user}/preferences", params={"wait": 300}, json=told).raise_for_status().json()
        assert job["status"] == "done"
    chunk = json.dumps({"choices": [{"delta": {"content": HOSTILE}}]})
    stubs = {
        "**/v1/chat/completions": lambda route: route.fulfill(
            content_type="text/event-stream", body=f"data: {chunk}\n\n"
        )
    }
    page = browser.open(user='<img src=x onerror="window.harmed=1">', route=stubs)
    expect(remembered(page, 1)).to_contain_text(f"hobby: {HOSTILE}")
    page.get_by_text("Details").click()
    assert ask(page, HOSTILE) == (HOSTILE, HOSTILE)
    expect(page.locator(".turn .question")).to_have_text(HOSTILE)
    fault = {"status": 500, "body": json.dumps({"error": {"message": HOSTILE}})}
    page.route("**/undo", lambda route: route.fulfill(**fault))
    page.get_by_role("button", name="Undo the last").click()
    expect(page.locator("#memory-fault")).to_have_text(HOSTILE)
    page.get_by_role("button", name="Forget everything").click()
    expect(page.get_by_role("dialog")).to_contain_text("<img src=x")
    assert page.evaluate("window.harmed") is None
    assert page.evaluate("[document.images.length, document.scripts.length]") == [0, 1]


def test_the_policy_holds_where_the_page_would_not(browser):
    """Whatever an attacker might get to run could neither write HTML, nor load, nor send anything elsewhere."""
    page = browser.open()
    # Evaluated by the driver itself, code is exempt from the policy: a timer's is the page's own.
    page.evaluate("""() => {
        window.refused = {};
        const tries = {
            html: () => { document.body.innerHTML = "<b>x</b>"; },
            code: () => eval("1"),
            elsewhere: () => fetch("https://example.org/"),
        };
        for (const [name, attempt] of Object.entries(tries)) {
            setTimeout(() => (async () => attempt())().catch((error) => { refused[name] = error.name; }));
        }
        document.addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI }) => {
            if (blockedURI.endsWith("/healthz")) refused.image = effectiveDirective;
        });
        setTimeout(() => { new Image().src = "/healthz"; });
    }""")
    page.wait_for_function("Object.keys(refused).length === 4")
    refused = page.evaluate("refused")
    assert refused == {"html": "TypeError", "code": "EvalError", "elsewhere": "TypeError", "image": "img-src"}
    browser.faults.clear()  # the browser has complained about each


def test_the_token_is_in_headers_only_and_gone_after_signing_out(browser, server):
    page = browser.open(user="a/b?c#d é\U0001f600 ..")
    remembered(page, 0)
    ask(page, QUESTION)
    page.reload()
    page.get_by_role("heading", name="Ask it").wait_for()  # the tab has kept who it was
    asked = [request for request in browser.requests if not request.url.startswith("data:")]
    assert {request.url[: len(server.url)] for request in asked} == {server.url}
    assert not any(TOKEN in request.url or TOKEN in (request.post_data or "") for request in asked)
    sent = [request.headers.get("authorization") for request in asked if "/v1/" in request.url]
    assert sent[0] is None and set(sent[1:]) == {f"Bearer {TOKEN}"}  # whether there are tokens, the first one finds out
    assert "/v1/users/a%2Fb%3Fc%23d%20%C3%A9%F0%9F%98%80%20../preferences" in {
        path_of(request.url) for request in asked
    }
    assert page.url == f"{server.url}/" and page.context.cookies() == []
    assert page.evaluate("[localStorage.length, sessionStorage.getItem('token')]") == [0, TOKEN]
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0 and TOKEN not in page.content()


def test_who_may_not_is_told(browser):
    page = browser.open(token=None)
    page.get_by_label("Token").fill("a-wrong-token-0000")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="not accepted")).to_be_visible()
    page.get_by_label("Token").fill(ALICE)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Ask it").wait_for()  # this token is for one user only: she is chosen
    expect(page.get_by_label("Whose model?")).to_have_value("alice")
    page.get_by_label("Whose model?").fill("bob")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="may not act for that user")).to_be_visible()
    expect(page.get_by_role("heading", name="Ask it")).to_be_hidden()
    for name in (".", "..", "   "):
        page.get_by_label("Whose model?").fill(name)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="Choose another name.")).to_be_visible()


def event(**job):
    return f"event: job\ndata: {json.dumps({'job': '7', 'progress': 0, 'eta_s': None, 'result': None, **job})}\n\n"


def test_progress_is_shown_and_found_again_after_a_reload(browser):
    """A job that takes long, whose stream breaks off, is cancelled at last; the service is a stub here."""
    state, sent = event(status="running", progress=0.4, eta_s=12.3), []

    def jobs(route):
        if route.request.method == "DELETE":
            sent.append(path_of(route.request.url))
            route.fulfill(json={})
        else:
            ended = event(status="cancelled") if sent else ""
            route.fulfill(content_type="text/event-stream", body=state + ended)

    def preferences(route):
        told = route.request.method == "PUT"
        route.fulfill(status=202, json={"job": "7"}) if told else route.continue_()

    page = browser.open(user="hans", route={"**/v1/jobs/7": jobs, "**/preferences": preferences})
    tell(page, "My hobby is origami.")
    bar = page.get_by_role("progressbar", name="Learning: My hobby is origami.")
    expect(bar).to_have_attribute("value", "0.4")
    expect(page.get_by_text("40 %, about 12 s left")).to_be_visible()
    page.reload()
    expect(bar).to_have_attribute("value", "0.4")
    page.get_by_role("button", name="Cancel: My hobby is origami.").click()
    expect(bar).to_have_count(0)
    assert sent == ["/v1/jobs/7"]
    page.reload()
    page.get_by_role("heading", name="Ask it").wait_for()
    expect(bar).to_have_count(0)


def test_what_could_not_be_learned_says_why(browser):
    why = {"error": {"message": "'hobby' would damage the user's model and was not learned."}}
    failed = event(status="failed", progress=0.9, result=why)
    stubs = {
        "**/v1/jobs/7": lambda route: route.fulfill(content_type="text/event-stream", body=failed),
        "**/preferences": lambda route: route.fulfill(
            json={"job": "7"} if route.request.method == "PUT" else {"data": []}
        ),
    }
    page = browser.open(user="ida", route=stubs)
    tell(page, "My hobby is origami.")
    expect(page.get_by_role("alert").filter(has_text="would damage")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#jobs > li")).to_have_count(0)


CONTRAST = """() => {
    const light = (rgb) => {
        const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const [r, g, b, a = 1] = parts(getComputedStyle(node).backgroundColor);
            if (a === 1) return [r, g, b];
        }
    };
    const found = {};
    for (const node of document.querySelectorAll("body *")) {
        const own = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
        if (!own || !node.checkVisibility() || node.closest(":disabled")) continue;
        const [one, two] = [parts(getComputedStyle(node).color), behind(node)].map(light);
        const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        if (ratio < 4.5) found[node.outerHTML.slice(0, 80)] = ratio;
    }
    return found;
}"""


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_it_is_readable_in_both_themes_and_at_phone_width(browser, look):
    """WCAG 2.2: contrast of 4.5 (1.4.3), no sideways scrolling at 320 pixels (1.4.10), targets of 24 pixels (2.5.8)."""
    options = PHONE if look == "phone" else {"color_scheme": look}
    page = browser.open(user="jo", **options)
    entries = page.locator("#memory > li")
    if not entries.count():
        tell(page, "My hobby is rowing.")
        remembered(page, 1)
    ask(page, "What should I do this weekend? " + "very" * 40)
    page.get_by_text("Details").first.click()
    assert page.evaluate(CONTRAST) == {}
    red, *_ = json.loads(
        page.evaluate("getComputedStyle(document.body).backgroundColor").replace("rgb(", "[").replace(")", "]")
    )
    assert (red < 60) == (look == "dark")
    if look == "phone":
        page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sizes = page.evaluate(
        "[...document.querySelectorAll('button, input, textarea, summary')].filter(e => e.checkVisibility())"
        ".map(e => [e.outerHTML.slice(0, 60), e.getBoundingClientRect().height])"
    )
    assert [pair for pair in sizes if pair[1] < 24] == []
    side_by_side = page.evaluate(
        "[...document.querySelectorAll('.turn .answer')].map(e => e.getBoundingClientRect().top)"
    )
    assert (side_by_side[0] == side_by_side[1]) == (look != "phone")
    assert len(page.screenshot()) > 10_000
