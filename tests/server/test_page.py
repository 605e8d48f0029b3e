"""The page in a real browser: load, click, box, names, undo, keys, errors, a phone's width.

Needs the package playwright and a Chromium of the system (Debian: chromium-headless-shell).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import served

from samclip.runtime.model import Model
from samclip.runtime.scene import Scene
from samclip.server.run import Server
from tools.serve_picture import find_browser

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="needs samclip[browser]")
TIMEOUT = 120_000  # ms
TOKEN = "a-token-of-24-characters"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = find_browser()
    if path is None:
        pytest.skip("there is no Chromium here")
    playwright.expect.set_options(timeout=TIMEOUT)
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page, open; a test fails if a script of it does, or if it asks another host."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, accept_downloads=True)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on(
        "request",
        lambda request: (
            faults.append(request.url)
            if not request.url.startswith((server.address, "blob:", "data:"))
            else None
        ),
    )
    opened.goto(server.address)
    yield opened
    context.close()
    assert faults == []


def open_example(page: Any) -> dict[str, float]:
    page.click("#example")
    playwright.expect(page.locator("#timing")).to_contain_text("one encoder pass")
    box: dict[str, float] = page.locator("#overlay").bounding_box()
    return box


def at(box: dict[str, float], x: float, y: float) -> tuple[float, float]:
    """A place of the photo, 600x400, on the screen."""
    return box["x"] + box["width"] * x / 600, box["y"] + box["height"] * y / 400


def painted(page: Any) -> int:
    """The pixels of the overlay that are not clear."""
    count: int = page.evaluate(
        """() => { const c = document.getElementById("overlay");
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"""
    )
    return count


def test_clicks_boxes_names_and_files(page: Any, small_scene: Scene) -> None:
    expect = playwright.expect
    box = open_example(page)
    assert painted(page) == 0
    page.mouse.click(*at(box, 290, 150))
    expect(page.locator("#legend li")).to_have_count(1)
    expect(page.locator("#timing")).to_contain_text(
        re.compile(r"pass:\s.*\sms; this\sclick:\s.*\sms")
    )
    area = int(small_scene.segment([(290, 150)]).areas[0])
    assert abs(painted(page) - area) < 2000  # the disc of the point, and half a pixel of aim
    page.keyboard.down("Shift")
    page.mouse.click(*at(box, 30, 30))
    page.keyboard.up("Shift")
    page.fill("#names", "cup of coffee, wooden table")
    expect(page.locator("#legend")).to_contain_text(re.compile("cup of coffee|wooden table"))
    page.click("#next")
    page.mouse.move(*at(box, 172, 17))
    page.mouse.down()
    page.mouse.move(*at(box, 300, 200))
    page.mouse.move(*at(box, 410, 308))
    page.mouse.up()
    expect(page.locator("#legend li")).to_have_count(2)
    expect(page.locator("#legend li .share").last).to_contain_text("%")
    with page.expect_download() as download:
        page.click("#coco")
    coco = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert [each["id"] for each in coco["annotations"]] == [1, 2]
    assert coco["images"][0]["width"] == 600
    assert {each["name"] for each in coco["categories"]} <= {"cup of coffee", "wooden table"}
    with page.expect_download() as download:
        page.click("#png")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    page.click("#undo")
    expect(page.locator("#legend li")).to_have_count(1)
    page.click("#clear")
    expect(page.locator("#legend li")).to_have_count(0)
    assert painted(page) == 0


def test_tasks_of_the_whole_photo(page: Any) -> None:
    expect = playwright.expect
    open_example(page)
    page.click("#classify")
    expect(page.locator("#alert")).to_contain_text("Type names first")
    page.fill("#names", "cup of coffee, wooden table, cat")
    page.click("#classify")
    expect(page.locator("#legend li")).to_have_count(3)
    page.click("#map")
    expect(page.locator("#answer-title")).to_have_text("Label map")
    assert painted(page) == 600 * 400
    page.locator("#opacity").fill("0")
    assert painted(page) == 0
    page.click("#everything")
    expect(page.locator("#answer-title")).to_contain_text("masks")


def test_all_can_be_done_by_keys(page: Any) -> None:
    expect = playwright.expect
    page.keyboard.press("Tab")  # the link over the header
    page.locator("#example").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#timing")).to_contain_text("one encoder pass")
    page.locator("#overlay").focus()
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator("#legend li")).to_have_count(1)
    page.keyboard.press("b")
    for key in ("ArrowRight", "ArrowDown") * 8:
        page.keyboard.press(key)
    page.keyboard.press("b")
    expect(page.locator("#timing")).to_contain_text("this click")
    page.keyboard.press("u")
    page.keyboard.press("u")
    expect(page.locator("#legend li")).to_have_count(0)


def test_errors_are_shown_and_a_lost_scene_is_made_again(page: Any, server: Server) -> None:
    expect = playwright.expect
    page.locator("#file").set_input_files(
        files=[{"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"}]
    )
    expect(page.locator("#alert")).to_contain_text("cannot show notes.txt")
    page.locator("#alert button").click()
    expect(page.locator("#alert")).to_be_hidden()
    box = open_example(page)
    server.service.scenes.clear()
    page.mouse.click(*at(box, 290, 150))
    expect(page.locator("#legend li .share")).to_contain_text("%")
    page.fill("#names", "x" * 300)
    expect(page.locator("#alert")).to_contain_text("200 letters")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(scheme: str, browser: Any, server: Server) -> None:
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme=scheme
    )
    page = context.new_page()
    page.goto(server.address)
    box = open_example(page)
    page.touchscreen.tap(*at(box, 290, 150))
    playwright.expect(page.locator("#legend li .share")).to_contain_text("%")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    back = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(248, 250, 252)", "dark": "rgb(11, 18, 32)"}[scheme]
    page.goto(f"{server.address}/docs")
    paths = json.loads(page.request.get(f"{server.address}/openapi.json").text())["paths"]
    count = sum(len(methods) for methods in paths.values())
    playwright.expect(page.locator("#paths details")).to_have_count(count)
    context.close()


def test_the_page_asks_for_the_token(browser: Any, small_model: Model) -> None:
    with served(small_model, token=TOKEN) as locked:
        page = browser.new_page()
        page.goto(locked.address)
        page.fill("#token", TOKEN)
        page.click("#login button")
        playwright.expect(page.locator("#model")).to_contain_text("lite2")
        page.close()
