"""The report holds its tables and pictures, refuses what does not belong together, and stands up in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from easyedit_personal.errors import DataError
from easyedit_personal.evaluate import Plan, evaluate
from easyedit_personal.evaluate.report import load_runs, write_report
from tests.evaluate.people import people, quick_hparams
from tests.tiny import tiny_model, tiny_tokenizer

pytest.importorskip("matplotlib", reason="the report extra is not installed")
PICTURES = ("accuracy", "tradeoff", "use", "clusters", "turns", "cost")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two result folders of one model, clusters of 1 and 2."""
    root = tmp_path_factory.mktemp("runs")
    for size in (1, 2):
        plan = Plan(cluster_size=size, turns=[0, 1] if size == 2 else [], max_new_tokens=8)
        evaluate(
            tiny_model("llama"),
            tiny_tokenizer(),
            people(),
            ["zero_shot", "in_prompt", "ft_m"],
            plan=plan,
            out=root / f"c{size}",
            hparams=quick_hparams(steps=30),
            data="<four> & friends.json",
            model_name="tiny",
        )
    return [root / "c1", root / "c2"]


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory):
    """The report of both."""
    return write_report(folders, tmp_path_factory.mktemp("report"))


def test_page_holds_every_picture_and_every_method(page):
    text = page.read_text(encoding="utf-8")
    for name in PICTURES:
        assert f"<figure id='{name}'>" in text
        assert (page.parent / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert text.count("<td>ft_m</td>") == 2 and text.count("<td>in_prompt</td>") == 2
    assert "&lt;four&gt; &amp; friends.json" in text and "<four>" not in text


def test_page_loads_nothing_from_anywhere(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=['\"](?!data:)", text) and "<script" not in text and "@import" not in text


def test_figures_in_the_table_are_those_of_the_result(folders, page):
    result = json.loads((folders[1] / "result.json").read_text())
    metric = result["methods"]["ft_m"]["metrics"]["direct"]
    low, high = metric["ci95"]
    cell = f"<td>{100 * metric['mean']:.0f}<small>{100 * low:.0f} to {100 * high:.0f}</small></td>"
    assert cell in page.read_text(encoding="utf-8")


def test_pictures_are_not_blank_and_legible_in_grey(page):
    import numpy as np
    from matplotlib.image import imread

    for name in PICTURES:
        image = imread(page.parent / f"{name}.png")[..., :3]
        grey = image @ np.array([0.299, 0.587, 0.114])
        assert grey.min() < 0.3 < 0.95 < np.median(grey), name


def test_no_two_methods_look_alike_without_colour():
    from easyedit_personal.evaluate.plots import look

    looks = [(look(i)["marker"], look(i)["linestyle"]) for i in range(13)]
    assert len(set(looks)) == 13


def test_one_folder_has_no_cluster_picture(folders, tmp_path):
    page = write_report(folders[:1], tmp_path)
    assert not (tmp_path / "clusters.png").exists() and "id='turns'" not in page.read_text(encoding="utf-8")


def test_failures_and_the_papers_protocol_are_said(folders, tmp_path):
    result = json.loads((folders[0] / "result.json").read_text())
    result["methods"]["ft_m"] |= {"status": "failed", "error": "no <luck>"}
    result["setup"]["plan"]["protocol"]["name"] = "paper"
    (tmp_path / "result.json").write_text(json.dumps(result))
    text = write_report([tmp_path], tmp_path / "out").read_text(encoding="utf-8")
    assert "failed: no &lt;luck&gt;" in text and "flatters" in text


def test_folders_that_do_not_belong_together_are_refused(folders, tmp_path):
    result = json.loads((folders[0] / "result.json").read_text())
    result["setup"]["fingerprint"] = "another"
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(DataError, match=r"do not belong(.|\n)*fingerprint is 'another'"):
        load_runs([folders[0], tmp_path])


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema": 2}', "{torn"])
def test_what_is_no_result_is_refused(content, tmp_path):
    with pytest.raises(DataError):
        load_runs([])
    with pytest.raises(DataError, match="cannot be read"):
        load_runs([tmp_path / "nowhere"])
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(DataError):
        load_runs([tmp_path])


def test_the_command(folders, tmp_path):
    from easyedit_personal.cli.main import app

    done = CliRunner().invoke(app, ["report", *map(str, folders), "--out", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "r" / "index.html").is_file()


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROBE = """<script>
addEventListener("load", () => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height].map(Math.round); };
  const images = [...document.images].map(i => [i.closest("figure").id, i.naturalWidth, ...box(i)]);
  const rows = [...document.querySelectorAll("table")].map(t => t.rows.length);
  document.title = JSON.stringify({images, rows, height: document.documentElement.scrollHeight});
});
</script>"""


@pytest.mark.slow
@pytest.mark.server
def test_in_a_real_browser(page, tmp_path):
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser found (one of {', '.join(BROWSERS)})")
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8").replace("</head>", PROBE + "</head>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shot = tmp_path / "shot.png"
    window = "--window-size=1200,9000"
    dom = subprocess.run(
        [browser, *options, window, "--dump-dom", probed.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    seen = json.loads(re.search(r"<title>(.*?)</title>", dom)[1].replace("&quot;", '"'))
    assert [image[0] for image in seen["images"]] == list(PICTURES)
    assert all(width > 400 for _, width, *_ in seen["images"])
    assert seen["rows"][:2] == [4, 4]
    subprocess.run(
        [browser, *options, window, f"--screenshot={shot}", page.as_uri()], capture_output=True, check=True, timeout=120
    )
    check_screenshot(shot, seen["images"])


def check_screenshot(shot, images):
    """Every figure's place on the screen holds ink."""
    from matplotlib.image import imread

    pixels = imread(shot)[..., :3].mean(-1)
    for name, _, x, y, width, height in images:
        part = pixels[y : y + height, x : x + width]
        assert part.shape == (height, width), f"{name} lies outside the screenshot"
        assert (part < 0.5).mean() > 0.002, f"{name} is blank"
