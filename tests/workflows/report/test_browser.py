"""The page in a real Chromium: it draws, answers to mouse and keyboard, asks for nothing, complains of nothing."""

import base64
import json
import time
from dataclasses import replace

import pytest

from deepmad_hw.workflows.report.page import page

pytestmark = pytest.mark.slow

ENTER, RIGHT, LEFT, END = "\ue007", "\ue014", "\ue012", "\ue010"


class Opened:
    """A page in the browser, and what the browser said of it."""

    def __init__(self, browser, path):
        self.browser, self.path = browser, path
        self.open()

    def open(self, place=""):
        self.browser.get("about:blank")
        self.browser.get_log("browser"), self.browser.get_log("performance")
        self.browser.get(f"{self.path.as_uri()}{place}")

    def run(self, script, *values):
        return self.browser.execute_script(f"return {script}", *values)

    def all(self, selector):
        from selenium.webdriver.common.by import By

        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def shown(self, selector):
        return [element for element in self.all(selector) if element.is_displayed()]

    def mark(self, key, series="p50"):
        """Return a mark of the trade-off plot."""
        (found,) = self.all(f'#trade-off .mark.{series}[data-key="{key}"]')
        return found

    def point_at(self, element):
        from selenium.webdriver import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        ActionChains(self.browser).move_to_element(element).perform()

    def click(self, element):
        self.point_at(element)
        element.click()

    def press(self, key):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(key).perform()

    def active(self):
        return self.run("document.activeElement.dataset.key")

    def tip(self):
        return self.run("document.getElementById('tip').hidden ? null : document.getElementById('tip').innerText")

    def complaints(self):
        """Return what the browser said up to now: a line of our own, said last, tells that the others have arrived."""
        self.browser.execute_script("console.log('said last')")
        said = []
        for _ in range(100):
            said += [entry["message"] for entry in self.browser.get_log("browser")]
            if any("said last" in line for line in said):
                return [line for line in said if "said last" not in line]
            time.sleep(0.05)
        raise AssertionError(f"the browser's log did not arrive in 5 s; so far {said}")

    def requests(self):
        """Return every address that was asked for besides the page itself."""
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith((self.path.as_uri(), "about:"))]


def see(browser, *, scheme="light", media="screen", width=1366, height=768):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture(scope="module")
def files(latency_sweep, rho_sweep, attacked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    found = {"latency": latency_sweep, "rho": rho_sweep, "attacked": attacked}
    for name, results in found.items():
        (folder / f"{name}.html").write_bytes(page(results).encode(errors="replace"))
    return folder


@pytest.fixture
def opened(browser, files):
    see(browser)
    return Opened(browser, files / "latency.html")


def test_every_plot_is_drawn_and_nothing_is_asked_for(opened):
    assert len(opened.shown("svg.plot")) == 3
    for plot in opened.shown("svg.plot"):
        assert plot.size["width"] > 600
        assert plot.size["height"] > 200
    assert len(opened.shown("#trade-off .mark.p50")) == 8 + 5
    assert opened.complaints() == []
    assert opened.requests() == []


def test_the_check_of_requests_and_complaints_can_fail(browser, files):
    harmed = (files / "latency.html").read_text().replace("</main>", '<img src="https://example.invalid/x.png"></main>')
    (files / "harmed.html").write_text(harmed)
    found = Opened(browser, files / "harmed.html")
    assert any("Content Security Policy" in line for line in found.complaints())
    (files / "open.html").write_text('<img src="missing.png">')
    assert len(Opened(browser, files / "open.html").requests()) == 1


def test_pointing_at_a_mark_tells_of_the_design(opened, latency_sweep):
    opened.point_at(opened.mark("d3"))
    assert "22ms" in opened.tip()
    assert f"{latency_sweep.points[3].solution.objective:,.0f}" in opened.tip()
    opened.point_at(opened.mark("r0"))
    assert opened.tip().startswith("resnet18")
    opened.point_at(opened.all("h1")[0])
    assert opened.tip() is None


def test_clicking_a_mark_shows_its_network_block_by_block(opened, latency_sweep):
    mark = opened.mark("d2")
    opened.click(mark)
    (shown,) = opened.shown(".design")
    assert shown.get_attribute("id") == "design-2"
    depth = sum(stage.depth for stage in latency_sweep.points[2].solution.architecture.stages)
    assert len(opened.shown("#design-2 .stage .slab")) == depth
    assert len(opened.shown("#design-2 .stage")) == 5
    assert mark.get_attribute("aria-current") == "true"
    assert opened.run("location.hash") == "#design-2"
    assert opened.complaints() == []


def test_a_link_of_the_table_and_of_the_address_show_a_design(opened):
    opened.click(opened.all('#designs tbody a[href="#design-4"]')[0])
    assert [design.get_attribute("id") for design in opened.shown(".design")] == ["design-4"]
    opened.open("#design-1")
    assert [design.get_attribute("id") for design in opened.shown(".design")] == ["design-1"]


def test_the_keyboard_reaches_every_mark_and_chooses_one(opened):
    seen = []
    for _ in range(40):
        opened.press("\ue004")
        if opened.active():
            break
    assert opened.active() == "r3"  # the fastest network, and the only stop of this plot
    for _ in range(12):
        seen.append(opened.active())
        opened.press(RIGHT)
    seen.append(opened.active())
    assert sorted(seen) == sorted([f"d{i}" for i in range(8)] + [f"r{j}" for j in range(5)])
    assert "resnet50" in opened.tip()
    opened.press(END)
    assert opened.active() == seen[-1]
    opened.press(LEFT)
    opened.press(LEFT)
    assert opened.active() == "d7"
    opened.press(ENTER)
    assert [design.get_attribute("id") for design in opened.shown(".design")] == ["design-7"]
    assert opened.run("getComputedStyle(document.activeElement.querySelector('.hit')).stroke") != "rgba(0, 0, 0, 0)"


def test_the_switch_shows_the_99th_percentile_instead(opened):
    assert not opened.shown("#trade-off .mark.p99")
    opened.click(opened.all('#trade-off .toggle label:has(input[value="p99"])')[0])
    assert len(opened.shown("#trade-off .mark.p99")) == 8 + 5
    assert not opened.shown("#trade-off .mark.p50")
    opened.point_at(opened.mark("d0", series="p99"))
    assert "p99" in opened.tip()


def luminance(colour):
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out_in_light_and_dark(opened, scheme):
    see(opened.browser, scheme=scheme)
    opened.open()
    background = luminance(opened.run("getComputedStyle(document.querySelector('section')).backgroundColor"))
    assert (background < 0.1) == (scheme == "dark")
    script = "[...document.querySelectorAll(arguments[0])].map(e => getComputedStyle(e)[arguments[1]])"
    found = {
        ("p, td, dt, dd, figcaption, h1, h2, nav a", "color"): 4.5,
        ("svg.plot text, .picture text", "fill"): 4.5,
        ("#trade-off .mark.p50 use", "fill"): 3.0,
    }
    for (selector, name), least in found.items():
        colours = set(opened.run(script, selector, name))
        assert colours
        for colour in colours:
            bright, dim = sorted((luminance(colour), background), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= least, (selector, colour)


def test_print_shows_every_design_on_white(opened):
    see(opened.browser, scheme="dark", media="print")
    assert len(opened.shown(".design")) == 8
    assert not opened.shown("nav, .toggle")
    assert opened.run("getComputedStyle(document.body).color") == "rgb(27, 36, 51)"
    pdf = base64.b64decode(opened.browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert 3 <= pdf.count(b"/Type /Page\n") <= 12


def test_a_laptop_screen_needs_no_sideways_scrolling(opened):
    for width in (1280, 1366, 1920):
        see(opened.browser, width=width)
        assert opened.run("document.documentElement.scrollWidth") <= width


def test_a_family_over_rho_is_drawn(browser, files):
    see(browser)
    found = Opened(browser, files / "rho.html")
    assert len(found.shown("#rho svg.plot")) == 1
    assert len(found.shown("#rho .mark")) == 6 * 5
    assert found.complaints() == []


def test_without_scripts_every_design_is_there(browser, files):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        found = Opened(browser, files / "latency.html")
        assert len(found.shown(".design")) == 8
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.promise("T16")
def test_a_hundred_attacks_in_every_text_do_nothing(browser, files):
    see(browser)
    found = Opened(browser, files / "attacked.html")
    scripts = "[document.scripts.length, document.querySelectorAll('iframe, img, object, embed, link, base').length]"
    assert found.run(scripts) == [1, 0]
    handlers = "[...document.querySelectorAll('*')].filter(e => e.getAttributeNames().some(n => n.startsWith('on')))"
    assert found.run(f"{handlers}.length") == 0
    for key in ("d0", "r7"):
        found.point_at(found.mark(key))
        assert found.tip()
    assert found.run("typeof owned") == "undefined"
    assert found.complaints() == []
    assert found.requests() == []


def test_a_design_alone_is_a_page_too(browser, latency_sweep, tmp_path):
    alone = replace(latency_sweep, points=latency_sweep.points[5:6])
    (tmp_path / "one.html").write_text(page(alone))
    see(browser)
    found = Opened(browser, tmp_path / "one.html")
    assert len(found.shown(".design")) == 1
    assert len(found.shown("#trade-off .mark.p50")) == 1 + 5
    assert found.complaints() == []
