"""The OAM link simulator in headless Chromium: what a person with a mouse or a keyboard gets."""

import time
from urllib.parse import parse_qsl, urlsplit

import pytest

from mimo_hf.oam.presets import PRESETS

PLOT = ".js-plotly-plot .main-svg"
DRAWN = f"return !!document.querySelector('#oam-page-' + arguments[0] + ' {PLOT}')"
VISIBLE_PAGE = f"""
const pages = [...document.querySelectorAll('.oam-page')].filter(page => page.offsetParent);
return pages.length && pages[0].querySelector('{PLOT}') ? pages[0].id.slice('oam-page-'.length) : null;
"""
# An address may name settings before they are drawn.
DRAWN_AS_ADDRESSED = f"""
const page = (() => {{{VISIBLE_PAGE}}})(), link = document.querySelector('#oam-query textarea');
return page && link.value && link.value === location.search ? page : null;
"""
TROUBLE = """
return [...document.querySelectorAll('.toast-body.error, .toast-wrap .error, .oam-error')].map(e => e.innerText)
  .concat([...document.querySelectorAll('.error')].filter(e => e.offsetParent && e.innerText.trim() === 'Error')
  .map(e => e.innerText));
"""
LEAVING = ("AbortError", "Connection errored out")  # what Gradio logs when a page is left
# Text that is too pale for what lies behind it (WCAG 2 AA), as [contrast, text].
PALE = """
function parse(c) { return (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number); }
function light(c) {
  const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function behind(e) {
  for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0.99) return c;
  }
  return [255, 255, 255];
}
const pale = [];
const walker = document.createTreeWalker(document.querySelector('.gradio-container'), NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
  if (!text || !e.checkVisibility({visibilityProperty: true, opacityProperty: true}) || e.closest('svg, style, footer'))
    continue;
  const [low, high] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => a - b);
  const ratio = (high + 0.05) / (low + 0.05);
  if (ratio < 4.5) pale.push([ratio.toFixed(2), text.slice(0, 40)]);
}
return pale;
"""


def open_app(page, url, query=""):
    page.open(url + query)
    page.wait(DRAWN_AS_ADDRESSED, seconds=40)
    return page


def wait_for_query(page, key, value):
    """Waits until the address bar holds `key=value`, which happens when the settings are drawn."""
    page.wait("return new URLSearchParams(location.search).get(arguments[0]) === arguments[1]", key, value)


def address(page):
    return dict(parse_qsl(urlsplit(page.run("return location.href")).query, keep_blank_values=True))


@pytest.fixture(scope="module")
def page(new_page, oam_url):
    return open_app(new_page(), oam_url)


@pytest.fixture
def fresh(page, oam_url):
    """The page with the first preset, reloaded; afterwards there must be no trouble on it."""
    open_app(page, oam_url)
    page.console()
    yield page
    assert page.run(TROUBLE) == []
    severe = [entry["message"] for entry in page.console() if entry["level"] == "SEVERE"]
    assert [message for message in severe if not any(noise in message for noise in LEAVING)] == []


def test_the_first_plot_appears(fresh):
    assert fresh.run(VISIBLE_PAGE) == "efficiency"
    assert fresh.run("return document.title") == "OAM link simulator"
    assert fresh.run("return document.documentElement.lang") == "en"


def test_the_first_plot_takes_less_than_two_seconds_of_the_server(oam_url):
    from mimo_hf.hub import spaces

    app = spaces.load("oam")
    settings = app.Settings.from_preset("claim-bepre-tilt")
    app.VIEWS["efficiency"](settings)
    best = min(_seconds(lambda: app.VIEWS["efficiency"](settings)) for _ in range(3))
    assert best < 2


def _seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_opens_its_tab_and_draws(fresh, oam_url, preset):
    open_app(fresh, oam_url, f"?p={preset}")
    command = PRESETS[preset].command
    assert fresh.wait(VISIBLE_PAGE) == {"sweep": "efficiency", "dof": "mimo", "oem": "oem"}[command]
    assert preset in fresh.run("return document.querySelector('#oam-about').innerText")


def test_a_preset_is_chosen_from_the_list(fresh):
    fresh.click("#oam-preset input")
    choose(fresh, "counter-oem-intermode")
    wait_for_query(fresh, "p", "counter-oem-intermode")
    fresh.wait(DRAWN, "oem")
    fresh.wait("return !!document.querySelector('#oam-page-oem .oam-warning')")


def choose(page, name):
    """Takes an entry of the dropdown that is open."""
    find = "[...document.querySelectorAll('[role=option]')].find(e => e.innerText.includes(arguments[0]))"
    page.wait(f"return !!{find}", name)
    page.run(f"{find}.id = 'wanted'", name)
    page.click("#wanted")


SLIDERS = [
    ("off-axis-deg", "th", "5"),
    ("tilt-deg", "al", "20"),
    ("azimuth-deg", "az", "45"),
    ("tilt-azimuth-deg", "ga", "60"),
    ("spin-deg", "sp", "10"),
    ("num-tx", "nt", "12"),
    ("num-rx", "nr", "6"),
    ("snr-db", "snr", "30"),
    ("angle-error-deg", "ea", "0.05"),
]
NUMBERS = [
    ("freq-ghz", "f", "60"),
    ("distance-m", "d", "80"),
    ("radius-tx-wl", "rt", "20"),
    ("radius-rx-wl", "rr", "30"),
]
IN_TABS = [
    ("modes", "mode", "m", "2"),
    ("detection", "pilot-snr-db", "pe", "10"),
    ("detection", "seed", "seed", "7"),
    ("efficiency", "sweep-start", "s0", "5"),
    ("efficiency", "sweep-stop", "s1", "30"),
    ("efficiency", "sweep-num", "sn", "21"),
    ("mimo", "mimo-start-m", "m0", "10"),
    ("mimo", "mimo-stop-m", "m1", "90"),
    ("oem", "oem-rows", "or", "1"),
    ("oem", "oem-columns", "oc", "1"),
    ("oem", "oem-elements", "ol", "6"),
    ("oem", "oem-tilt-deg", "ot", "2"),
    ("oem", "oem-radius-wl", "ora", "8"),
    ("oem", "oem-pitch-wl", "op", "40"),
    ("oem", "oem-distance-m", "od", "12"),
    ("oem", "oem-focal-m", "of", "1"),
]


def wait_for_number(page, key, text):
    page.wait(
        "return Number(new URLSearchParams(location.search).get(arguments[0])) === Number(arguments[1])", key, text
    )


def test_every_number_beside_the_plot_moves_it(fresh, oam_url):
    open_app(fresh, oam_url, "?t=link")
    for control, key, value in SLIDERS + NUMBERS:
        fresh.type(f"#oam-{control} input[type=number]", value)
        wait_for_number(fresh, key, value)
        assert fresh.run(TROUBLE) == []


@pytest.mark.parametrize("tab", ["modes", "detection", "efficiency", "mimo", "oem"])
def test_every_number_in_a_tab_moves_it(fresh, oam_url, tab):
    open_app(fresh, oam_url, f"?t={tab}")
    for place, control, key, value in IN_TABS:
        if place == tab:
            fresh.type(f"#oam-{control} input[type=number]", value)
            wait_for_number(fresh, key, value)
            assert fresh.run(TROUBLE) == []


@pytest.mark.parametrize(
    ("tab", "control", "key", "value"),
    [
        ("link", "snr-reference", "ref", "frobenius"),
        ("link", "power", "pw", "waterfill"),
        ("interference", "precoding", "bp", "svd"),
        ("detection", "modulation", "mod", "16"),
        ("detection", "detector", "det", "mmse"),
    ],
)
def test_a_choice_changes_the_plot(fresh, oam_url, tab, control, key, value):
    open_app(fresh, oam_url, f"?t={tab}")
    fresh.click(f"#oam-{control} input[value='{value}']")
    wait_for_query(fresh, key, value)
    assert fresh.run(VISIBLE_PAGE) == tab


def test_a_scheme_is_left_out_but_never_the_capacity(fresh):
    legend = "return document.querySelector('#oam-page-efficiency .js-plotly-plot').textContent"
    assert "joint MMSE" in fresh.run(legend)
    fresh.click("#oam-schemes input[type=checkbox]:checked")
    fresh.wait("return new URLSearchParams(location.search).has('sch')")
    assert "plain OAM" not in fresh.run(legend)
    assert "capacity, water-filling" in fresh.run(legend)


def test_a_sweep_brings_its_own_range(fresh):
    fresh.click("#oam-sweep input")
    choose(fresh, "Distance")
    wait_for_query(fresh, "sx", "distance_m")
    assert fresh.run("return document.querySelector('#oam-sweep-stop input').value") == "200"


def test_every_tab_opens_by_a_click(fresh):
    for name in ("Link", "Modes", "Interference", "Constellation & BER", "OAM vs MIMO", "OEM", "Docs"):
        find = "return [...document.querySelectorAll('[role=tab]')].find(e => e.offsetParent && e.innerText.trim() === arguments[0])"
        fresh.run(find.replace("return ", "") + ".click()", name)
        tab = {"Constellation & BER": "detection", "OAM vs MIMO": "mimo"}.get(name, name.lower())
        wait_for_query(fresh, "t", tab)
        if tab != "docs":
            fresh.wait(DRAWN, tab)
    fresh.wait("return document.body.innerText.includes('Edfors')")


def test_a_link_brings_the_same_page_back(fresh, new_page, oam_url):
    query = "?v=1&p=claim-bepre-tilt&t=link&d=30.0&th=2.0&al=33.0&nt=12&rt=20.0&ref=frobenius&sch=plain%2Cmmse&pe=15.0"
    open_app(fresh, oam_url, query)
    wait_for_query(fresh, "al", "33.0")
    assert address(fresh) == dict(parse_qsl(query[1:]))
    found = "return ['tilt-deg', 'num-tx', 'distance-m'].map(n => document.querySelector(`#oam-${n} input[type=number]`).value)"
    assert fresh.run(found) == ["33", "12", "30"]
    shown = fresh.run("return document.querySelector('#oam-page-link').innerText")
    open_app(fresh, oam_url, "?" + urlsplit(fresh.run("return location.href")).query)
    assert fresh.run("return document.querySelector('#oam-page-link').innerText") == shown


def test_a_bad_link_says_so_and_draws_the_rest(fresh, oam_url):
    open_app(fresh, oam_url, "?t=link&al=NaN&nt=9999&d=40&p=nothing&x=<img src=x onerror=alert(1)>")
    said = fresh.run("return document.querySelector('#oam-problem').innerText")
    assert "Tilt" in said
    assert "nothing" in said
    assert address(fresh)["d"] == "40.0"


def test_an_impossible_link_says_so_and_its_tabs_still_open(page, oam_url):
    page.open(oam_url + "?t=detection&det=zf&nt=8&nr=4")
    assert "N_r >= N_t" in page.wait("return document.querySelector('#oam-problem .oam-error')?.innerText")
    assert "claim-bepre-tilt" in page.run("return document.querySelector('#oam-about').innerText")
    wait_for_query(page, "det", "zf")
    page.run("[...document.querySelectorAll('[role=tab]')].find(e => e.innerText.trim() === 'Link').click()")
    page.wait(DRAWN, "link")
    page.wait("return !document.querySelector('#oam-problem .oam-error')")


def test_an_impossible_value_keeps_the_last_picture(page, oam_url):
    open_app(page, oam_url, "?t=link")
    before = page.run("return document.querySelector('#oam-page-link .js-plotly-plot').innerHTML")
    page.type("#oam-distance-m input", "0")
    said = page.wait("return document.querySelector('#oam-problem .oam-error')?.innerText")
    assert "Distance D (m)" in said
    assert page.run("return document.querySelector('#oam-page-link .js-plotly-plot').innerHTML") == before
    page.type("#oam-distance-m input", "20")
    page.wait("return !document.querySelector('#oam-problem .oam-error')")
    wait_for_number(page, "d", "20")


def test_two_sessions_do_not_see_each_other(fresh, new_page, oam_url):
    other = open_app(new_page(), oam_url, "?t=link&al=40&d=20")
    open_app(fresh, oam_url, "?t=link&al=5&d=70")
    other.type("#oam-snr-db input[type=number]", "35")
    fresh.type("#oam-snr-db input[type=number]", "11")
    wait_for_number(other, "snr", "35")
    wait_for_number(fresh, "snr", "11")
    assert (address(other)["al"], address(other)["d"], address(other)["snr"]) == ("40.0", "20.0", "35.0")
    assert (address(fresh)["al"], address(fresh)["d"], address(fresh)["snr"]) == ("5.0", "70.0", "11.0")
    assert "D = 20 m" in other.run("return document.querySelector('#oam-page-link').textContent")
    assert "D = 70 m" in fresh.run("return document.querySelector('#oam-page-link').textContent")


def test_the_tab_key_reaches_every_control(fresh):
    wanted = set(
        fresh.run("return [...document.querySelectorAll('[id^=oam-]')].filter(e => e.offsetParent && "
        "e.querySelector('input:not([disabled])')).map(e => e.id)")
    )  # fmt: skip
    assert len(wanted) > 18
    reached, links = set(), 0
    fresh.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    for _ in range(140):
        fresh.press("Tab")
        found = fresh.run(
            "const e = document.activeElement; "
            "return [e.closest('[id^=oam-]:not(.oam-page)')?.id, e.className, e.getAttribute('role')]"
        )
        reached.add(found[0])
        links += found[1] == "oam-csv"
        reached.add("tab" if found[2] == "tab" else None)
        if wanted <= reached and links and "tab" in reached:
            break
    assert wanted - reached == set()
    assert "tab" in reached
    assert links


def test_the_arrow_keys_move_a_slider(fresh, oam_url):
    open_app(fresh, oam_url, "?t=link")
    fresh.run("document.querySelector('#oam-tilt-deg input[type=range]').focus()")
    fresh.press("ArrowRight")
    wait_for_number(fresh, "al", "10.5")


@pytest.mark.parametrize("tab", ["link", "efficiency", "oem", "docs"])
def test_text_is_dark_enough(fresh, oam_url, tab):
    fresh.open(f"{oam_url}?p=counter-oem-intermode&t={tab}")
    wait_for_query(fresh, "p", "counter-oem-intermode")
    assert fresh.run(PALE) == []


def test_a_narrow_window_does_not_scroll_sideways(new_page, oam_url):
    narrow = open_app(new_page(400, 800), oam_url)
    assert narrow.run("return document.documentElement.scrollWidth") <= 400
    top = "return document.querySelector(arguments[0]).getBoundingClientRect().top"
    assert narrow.run(top, f"#oam-page-efficiency {PLOT}") < narrow.run(top, "#oam-preset")


def test_nothing_is_fetched_from_elsewhere(fresh, oam_url):
    hosts = fresh.run("return [...new Set(performance.getEntriesByType('resource').map(e => new URL(e.name).origin))]")
    assert {host for host in hosts if host.startswith("http")} <= {oam_url.rstrip("/")}
