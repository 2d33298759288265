"""Tests of report.html: its content, and its behaviour in headless Chromium."""

from __future__ import annotations

import base64
import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from job.predict import digit
from tests.job import report_samples as samples

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from selenium import webdriver

    from job.report.report_page import Layer

PICTURES = samples.images(40)
MODELS = {
    "softmax": samples.layers(784, 10),
    "relu": samples.layers(784, 24, 10),
    "tanh": samples.layers(784, 24, 10, activation="tanh"),
    "sigmoid": samples.layers(784, 24, 16, 10, activation="sigmoid"),
}
# In shares of the pad's width from its middle; each list is a stroke.
DRAWINGS = {
    "seven": [[(-0.2, -0.3), (0.15, -0.32), (-0.05, 0.3)]],
    "bar": [[(0.0, -0.3), (0.0, 0.3)]],
    "dash": [[(-0.31, 0.07), (0.33, 0.07)]],
    "dot": [[(0.3, -0.3), (0.3, -0.3)]],
    "corner": [[(-0.49, -0.49), (-0.3, -0.45), (-0.4, -0.2)]],
    "four": [[(-0.05, -0.3), (-0.2, 0.05), (0.2, 0.05)], [(0.08, -0.15), (0.05, 0.33)]],
}


def write(folder: Path, model: list[Layer] | None, **changes: Any) -> Path:
    """Write a report on that model; returns its page."""
    samples.write(folder, samples.run(**changes), model, PICTURES)
    return folder / "report.html"


def test_page_holds_what_the_model_allows(tmp_path: Path) -> None:
    """Ten weight images only for [pixels, classes]; a pad if it can run the layers; neither without layers."""
    seen = {}
    unknown = [(weights, bias, "softplus") for weights, bias, _ in MODELS["relu"]]
    for name, model in {**MODELS, "none": None, "unknown": unknown}.items():
        page = write(tmp_path, model).read_text()
        seen[name] = (page.count('alt="Weights of class'), 'id="pad"' in page)
    assert seen == {
        "softmax": (10, True),
        "relu": (0, True),
        "tanh": (0, True),
        "sigmoid": (0, True),
        "none": (0, False),
        "unknown": (0, False),
    }


def test_page_shows_each_change_of_the_number_of_workers(tmp_path: Path) -> None:
    """With its step."""
    page = write(tmp_path, None, sizes=((0, 4), (1200, 3), (1800, 4))).read_text()
    assert "<dd>4; 3 from step 1,200; 4 from step 1,800</dd>" in page


def test_page_embeds_the_weights_as_they_are(tmp_path: Path) -> None:
    """Base64 of little-endian float32, row by row."""
    page = write(tmp_path, MODELS["softmax"]).read_text()
    found = re.search(r'<script type="application/json" id="model">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    ((weights, bias, _),) = MODELS["softmax"]
    (layer,) = json.loads(found[1])["layers"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(layer["weights"]), "<f4").reshape(784, 10), weights)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(layer["bias"]), "<f4"), bias)


def test_page_is_small_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    """It has no address but XML namespaces, and less than 300 kB."""
    page = write(tmp_path, MODELS["softmax"]).read_text()
    assert set(re.findall(r"https?://[^\s\"'<)]+", page)) <= {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert len(page) < 300_000


def test_ids_are_unique_and_figures_are_shown(tmp_path: Path) -> None:
    """No id is used twice; the page shows the figures of report.json."""
    page = write(tmp_path, MODELS["softmax"], settings={"sync_every": 100, "min_accuracy": 0.9}).read_text()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    report = json.loads((tmp_path / "report.json").read_bytes())
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))
    low, high = report["test"]["accuracy_interval"]
    for told in (
        f"{100 * report['test']['accuracy']:.2f}%",
        f"95% interval {100 * low:.2f}% to {100 * high:.2f}%",
        f"{report['test']['loss']:.4f}",
        "Misses the 90.00% minimum",
        "averaged every 100 steps (local SGD)",
        report["parameters_sha256"],
        report["model_sha256"],
        "23 November 2026, 06:54 UTC",
    ):
        assert told in text


def settle(browser: webdriver.Chrome) -> None:
    """Wait for the frame in which the page shows what was drawn."""
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )


def canvas(browser: webdriver.Chrome, name: str) -> NDArray[np.uint8]:
    """The grey pixels of a canvas."""
    side, values = browser.execute_script(
        "const c = document.getElementById(arguments[0]);"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return [c.width, Array.from(d.filter((_, i) => i % 4 === 0))]",
        name,
    )
    return np.array(values, np.uint8).reshape(-1, side)


def probabilities(browser: webdriver.Chrome) -> list[float]:
    """The probabilities that the page shows, in full precision."""
    values = browser.execute_script(
        "return [...document.querySelectorAll('#probabilities data')].map((data) => data.value)"
    )
    return [float(value) for value in values if value]


def draw(browser: webdriver.Chrome, strokes: list[list[tuple[float, float]]]) -> None:
    """Draw with real pointer events."""
    pad = browser.find_element(By.ID, "pad")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", pad)
    width = pad.size["width"]
    for first, *rest in strokes:
        pointer = ActionChains(browser, duration=10)
        pointer.move_to_element_with_offset(pad, int(first[0] * width), int(first[1] * width)).click_and_hold()
        for x, y in rest:
            pointer.move_to_element_with_offset(pad, int(x * width), int(y * width))
        pointer.release().perform()
    settle(browser)


def as_python(browser: webdriver.Chrome, model: list[Layer]) -> tuple[NDArray[np.uint8], list[float]]:
    """The 28x28 pixels and probabilities that Python calculates from the pad."""
    pixels = digit.normalise(canvas(browser, "pad") / 255)
    return pixels, samples.forward(model, pixels[None])[0].astype(float).tolist()


def test_page_is_quiet_and_alone(tmp_path: Path, visit: Callable[..., webdriver.Chrome]) -> None:
    """Opening and drawing print nothing on the console and request only the file itself and its data URLs."""
    page = write(tmp_path, MODELS["softmax"])
    browser = visit(page)
    draw(browser, DRAWINGS["seven"])
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]  # type: ignore[no-untyped-call]
    urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith("data:")] == [page.as_uri()]


@pytest.mark.parametrize("kind", MODELS)
def test_drawing_gives_the_pixels_of_python(tmp_path: Path, visit: Callable[..., webdriver.Chrome], kind: str) -> None:
    """The same 28x28 pixels and, within 1e-5, the same probabilities, for each kind of stroke."""
    browser = visit(write(tmp_path, MODELS[kind]), width=360 if kind == "tanh" else 1100)
    clear = browser.find_element(By.ID, "clear")
    for strokes in DRAWINGS.values():
        draw(browser, strokes)
        pixels, expected = as_python(browser, MODELS[kind])
        np.testing.assert_array_equal(canvas(browser, "seen"), pixels)
        assert pixels.any()
        assert probabilities(browser) == pytest.approx(expected, abs=1e-5)
        best = int(np.argmax(expected))
        assert browser.find_element(By.ID, "said").text == f"The model says {best}, at {100 * max(expected):.1f}%"
        clear.click()
        settle(browser)
        assert probabilities(browser) == []


def test_test_image_on_the_pad_is_classified_as_by_the_model(
    tmp_path: Path, visit: Callable[..., webdriver.Chrome]
) -> None:
    """Each image of the gallery, surest mistake first, gives the model's own probabilities for it."""
    model = MODELS["softmax"]
    browser = visit(write(tmp_path, model, classes=samples.LONG_NAMES))
    told = samples.evaluation(model, PICTURES)
    wrong = np.flatnonzero(told.probabilities.argmax(axis=1) != told.labels)
    surest = wrong[np.argsort(-told.probabilities[wrong].max(axis=1), kind="stable")]
    buttons = browser.find_elements(By.CSS_SELECTOR, "[data-picture]")
    assert len(buttons) == len(surest) == 14
    for button, index in zip(buttons, surest.tolist(), strict=True):
        said = samples.LONG_NAMES[told.probabilities[index].argmax()]
        label = f"Test image {index}: {samples.LONG_NAMES[told.labels[index]]}, classified as {said} with "
        assert str(button.get_attribute("aria-label")).startswith(label)
        browser.execute_script("arguments[0].click()", button)
        settle(browser)
        np.testing.assert_array_equal(canvas(browser, "seen"), PICTURES[index])
        assert probabilities(browser) == pytest.approx(told.probabilities[index].astype(float).tolist(), abs=1e-5)
        assert browser.find_element(By.CSS_SELECTOR, "#probabilities .top th").text == said
    draw(browser, DRAWINGS["bar"])  # on top of the image: no longer one of the dataset's
    assert probabilities(browser) == pytest.approx(as_python(browser, model)[1], abs=1e-5)


def test_pad_works_from_the_keyboard(tmp_path: Path, visit: Callable[..., webdriver.Chrome]) -> None:
    """Tab reaches it, its focus is visible, Space lowers the pen, arrows draw, Delete clears; the button shows it."""
    browser = visit(write(tmp_path, MODELS["softmax"]))
    keys = ActionChains(browser)
    for _ in range(20):
        keys.send_keys(Keys.TAB).perform()
        if browser.switch_to.active_element.get_attribute("id") == "pad":
            break
    pad = browser.switch_to.active_element
    assert pad.get_attribute("id") == "pad"
    assert pad.value_of_css_property("outline-style") == "solid"
    assert browser.find_element(By.ID, "cursor").is_displayed()
    pen = browser.find_element(By.ID, "pen")
    keys.send_keys(Keys.ARROW_UP * 3).perform()
    settle(browser)
    assert not canvas(browser, "pad").any()
    keys.send_keys(" ", Keys.ARROW_DOWN * 8).perform()
    settle(browser)
    assert pen.get_attribute("aria-pressed") == "true"
    rows, columns = np.nonzero(canvas(browser, "pad"))
    assert (int(rows.max() - rows.min()), int(columns.max() - columns.min())) == (101, 21)
    assert probabilities(browser) == pytest.approx(as_python(browser, MODELS["softmax"])[1], abs=1e-5)
    keys.send_keys(Keys.DELETE).perform()
    settle(browser)
    assert pen.get_attribute("aria-pressed") == "false"
    assert not canvas(browser, "pad").any()


def test_finger_draws_and_does_not_scroll(tmp_path: Path, visit: Callable[..., webdriver.Chrome]) -> None:
    """On a phone, a touch that moves down the pad is a stroke, and the page does not scroll."""
    browser = visit(write(tmp_path, MODELS["softmax"]), width=360)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    pad = browser.find_element(By.ID, "pad")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", pad)
    before = browser.execute_script("return scrollY")
    frame = browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", pad)
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 4
    for kind, points in (("Start", [(x, y)]), ("Move", [(x, y + 60)]), ("Move", [(x, y + 120)]), ("End", [])):
        touches = [{"x": px, "y": py} for px, py in points]
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": touches})
    settle(browser)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    drawn = np.flatnonzero(canvas(browser, "pad").any(axis=1))
    assert drawn.size > 120 * 280 / frame["width"]
    assert probabilities(browser) == pytest.approx(as_python(browser, MODELS["softmax"])[1], abs=1e-5)
    assert browser.execute_script("return scrollY") == before


def test_nothing_overflows_on_a_phone(tmp_path: Path, visit: Callable[..., webdriver.Chrome]) -> None:
    """At 360 pixels the page is no wider than the screen, even with long names of classes and run."""
    browser = visit(write(tmp_path, MODELS["softmax"], name="n" * 62, classes=samples.LONG_NAMES), width=360)
    browser.find_element(By.TAG_NAME, "summary").click()
    assert browser.execute_script("return document.documentElement.scrollWidth") == 360


def test_names_are_shown_and_never_run(tmp_path: Path, visit: Callable[..., webdriver.Chrome]) -> None:
    """Markup in names is shown as text; no script but the page's own runs."""
    name = "</script></style><script>document.title='run'</script>\"'><img src=x onerror=\"document.title='run'\">"
    browser = visit(write(tmp_path, MODELS["softmax"], name=name, classes=[f"{name}{i}" for i in range(10)]))
    draw(browser, DRAWINGS["seven"])
    assert browser.find_element(By.TAG_NAME, "h1").text == name
    assert browser.find_element(By.ID, "said").text.startswith(f"The model says {name}")
    assert browser.title.startswith(name)
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


# The contrast of each visible text with its background (WCAG 2.2, relative luminance), lowest first.
CONTRASTS = """
const colour = (text) => {
  const n = text.match(/[\\d.]+(e-?\\d+)?/g).map(Number), unit = text.startsWith('color(') ? 1 : 255;
  return [n[0] / unit, n[1] / unit, n[2] / unit, n[3] ?? 1];
};
const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
const behind = (element) => {
  if (!element) return [1, 1, 1, 1];
  const own = colour(getComputedStyle(element).backgroundColor);
  return own[3] === 1 ? own : over(own, behind(element.parentElement));
};
const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) =>
  sum + part * (c[i] <= 0.04045 ? c[i] / 12.92 : ((c[i] + 0.055) / 1.055) ** 2.4), 0);
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement, style = getComputedStyle(element);
  if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest('script, .invite')) continue;
  const back = behind(element);
  const front = over(colour(element.namespaceURI.endsWith('svg') ? style.fill : style.color), back);
  const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.trim()]);
}
return found.sort((x, y) => x[0] - y[0]);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_both_schemes(tmp_path: Path, visit: Callable[..., webdriver.Chrome], scheme: str) -> None:
    """Each text has a contrast of at least 4.5 to 1 (WCAG 2.2 AA), also in tables, plots and on the pressed button."""
    browser = visit(write(tmp_path, MODELS["softmax"], settings={"min_accuracy": 0.9}), scheme=scheme)
    browser.find_element(By.ID, "pen").click()
    browser.find_element(By.TAG_NAME, "summary").click()
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 400
    assert [pair for pair in found if pair[0] < 4.5] == []
    page = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", page))) < 60) == (scheme == "dark")


def test_parts_have_names(tmp_path: Path, visit: Callable[..., webdriver.Chrome]) -> None:
    """Pictures have alternatives, tables captions and scoped headers, sections headings; no level is skipped."""
    browser = visit(write(tmp_path, MODELS["softmax"]))
    nameless = browser.execute_script("""
        const all = (selector) => [...document.querySelectorAll(selector)];
        return [
          ...all('img:not([alt])'),
          ...all('img[alt=""]').filter((image) => !image.closest('button[aria-label]')),
          ...all('[role=img], [role=region], canvas').filter((part) => !part.getAttribute('aria-label')),
          ...all('table').filter((table) => !table.caption?.textContent.trim()),
          ...all('th:not([scope])'),
          ...all('section').filter((part) => !document.getElementById(part.getAttribute('aria-labelledby'))),
          ...all('button').filter((button) => !(button.ariaLabel ?? button.textContent).trim()),
        ].map((part) => part.outerHTML)""")
    assert nameless == []
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3')].map((heading) => Number(heading.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
