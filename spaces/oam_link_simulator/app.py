"""OAM link simulator: orbital-angular-momentum radio links beside the capacity that binds them. `python app.py`"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
FOLDER = Path(__file__).resolve().parent
if str(FOLDER) not in sys.path:
    sys.path.insert(0, str(FOLDER))

import gradio as gr  # noqa: E402  after the lines above
import oam_rates  # noqa: E402  after the lines above
import oam_views  # noqa: E402  after the lines above
from oam_api import endpoints  # noqa: E402  after the lines above
from oam_charts import Page  # noqa: E402  after the lines above
from oam_settings import CONTROLS, SWEEPS, Settings, from_values  # noqa: E402  after the lines above
from oam_turns import in_turn  # noqa: E402  after the lines above

TAB_NAMES = {
    "link": "Link",
    "modes": "Modes",
    "interference": "Interference",
    "detection": "Constellation & BER",
    "efficiency": "Spectral efficiency",
    "mimo": "OAM vs MIMO",
    "oem": "OEM",
    "docs": "Docs",
}
SIDEBAR = {
    "Geometry": ["freq_ghz", "distance_m", "off_axis_deg", "tilt_deg", "azimuth_deg", "tilt_azimuth_deg", "spin_deg"],
    "Arrays": ["num_tx", "num_rx", "radius_tx_wl", "radius_rx_wl"],
    "Signal": ["snr_db", "snr_reference", "power", "precoding", "angle_error_deg", "schemes"],
}
IN_TABS = {
    "modes": [["mode"]],
    "detection": [["modulation", "detector", "pilot_snr_db", "seed"]],
    "efficiency": [["sweep", "sweep_start", "sweep_stop", "sweep_num"]],
    "mimo": [["mimo_start_m", "mimo_stop_m"]],
    "oem": [
        ["oem_rows", "oem_columns", "oem_elements", "oem_tilt_deg"],
        ["oem_radius_wl", "oem_pitch_wl", "oem_distance_m", "oem_focal_m"],
    ],
}
# Plots beside each other in each picture of a tab.
PLOTS = {
    "link": (2, 1),
    "modes": (2, 1),
    "interference": (2, 2),
    "detection": (1, 1),
    "efficiency": (1, 1),
    "mimo": (1, 1, 1),
    "oem": (1, 1, 1),
}
WIDE = {"link": (1,), "modes": (1,), "detection": (0,), "oem": (0,)}  # pictures that a phone scrolls sideways
VIEWS: dict[str, Callable[[Settings], Page]] = {
    "link": in_turn(oam_views.link),
    "modes": in_turn(oam_views.modes),
    "interference": in_turn(oam_views.interference),
    "detection": in_turn(oam_views.detection),
    "efficiency": in_turn(oam_rates.efficiency),
    "mimo": in_turn(oam_rates.mimo),
    "oem": in_turn(oam_rates.oem),
}
MAX_WAITING = 64  # events: a crowd is told to come back instead of filling the memory
NAMES = [name for name in CONTROLS if name != "tab"]
CSS = (FOLDER / "style.css").read_text(encoding="utf-8")
LANGUAGE = "<script>document.documentElement.lang = 'en'</script>"
SET_ADDRESS = "(query) => { window.history.replaceState(null, '', window.location.pathname + query); return []; }"
COPY_LINK = "() => { navigator.clipboard && navigator.clipboard.writeText(window.location.href); return []; }"


def make_control(name: str, start: Settings) -> gr.components.Component:
    """The component of one setting: a choice, a slider where there is a step, a number field otherwise."""
    meta, value = CONTROLS[name], getattr(start, name)
    common = {"value": value, "label": meta.label, "info": meta.info, "elem_id": f"oam-{name.replace('_', '-')}"}
    if meta.many:
        return gr.CheckboxGroup(
            [(oam_views.NAMES[key], key) for key in meta.choices], **common | {"value": list(value)}
        )
    if name == "sweep":
        return gr.Dropdown([(CONTROLS[key].label, key) for key in SWEEPS], **common)
    if meta.choices:
        kind = gr.Dropdown if name == "preset" else gr.Radio
        return kind(list(meta.choices), **common)
    if meta.step:
        slider = gr.Slider(*meta.range, step=meta.step, **common)
        slider.preprocess = _as_typed
        return slider
    return gr.Number(**common)


def _as_typed(payload: float) -> float:
    """What was typed beside a slider, beyond its ends too: `oam_settings` refuses that in the words of the page."""
    return payload


def theme() -> gr.themes.Base:
    """Gradio's default with greys and accents dark enough to read on white (WCAG AA)."""
    return gr.themes.Default(primary_hue="blue").set(
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        color_accent="*primary_700",
        link_text_color="*primary_700",
        slider_color="*primary_700",
        checkbox_background_color_selected="*primary_700",
        checkbox_border_color_selected="*primary_700",
    )


def build_demo() -> gr.Blocks:
    """The whole page. Nothing is computed before a browser asks; every session brings its own settings."""
    start = Settings.from_preset(Settings.preset)
    controls: dict[str, Any] = {}
    pages: dict[str, list[gr.components.Component]] = {}
    with gr.Blocks(title="OAM link simulator", analytics_enabled=False) as demo:
        tab = gr.State(start.tab)
        gr.Markdown(
            "# OAM link simulator\nRadio links between circular arrays, with the capacity that binds them always drawn."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=290):
                _sidebar(controls, start)
                link = gr.Textbox(label="Link to these settings", elem_id="oam-query", interactive=False, max_lines=2)
                copy = gr.Button("Copy link", elem_id="oam-copy", size="sm")
            with gr.Column(scale=3, min_width=320, elem_classes="oam-views"):
                about = gr.HTML(elem_id="oam-about")
                problem = gr.HTML(elem_id="oam-problem")
                with gr.Tabs(selected=start.tab) as tabs:
                    items = {key: _tab(key, controls, pages, start) for key in TAB_NAMES}
        parts = [part for page in pages.values() for part in page]
        outputs = [*controls.values(), *parts, tabs, tab, about, problem, link]
        show = _shower(controls, pages, tabs, tab, about, problem, link)
        _events(demo, controls, items, tab, show, outputs, link, copy)
        for endpoint in endpoints():
            gr.api(endpoint, api_name=endpoint.__name__, concurrency_id="oam", concurrency_limit=1)
    return demo.queue(default_concurrency_limit=1, max_size=MAX_WAITING)


def _sidebar(controls: dict[str, Any], start: Settings):
    controls["preset"] = make_control("preset", start)
    for title, names in SIDEBAR.items():
        with gr.Accordion(title, open=True):
            for name in names:
                controls[name] = make_control(name, start)


def _tab(key: str, controls: dict[str, Any], pages: dict[str, list], start: Settings) -> gr.Tab:
    with gr.Tab(TAB_NAMES[key], id=key) as item:
        for names in IN_TABS.get(key, []):
            with gr.Row():
                for name in names:
                    controls[name] = make_control(name, start)
        if key == "docs":
            gr.Markdown(conventions(), latex_delimiters=[{"left": "$", "right": "$", "display": False}])
        else:
            with gr.Column(elem_id=f"oam-page-{key}", elem_classes="oam-page"):
                pages[key] = _page(key)
    return item


def _page(key: str) -> list[gr.components.Component]:
    """The components of a tab in the order of `Page.parts`."""
    parts: list[gr.components.Component] = [gr.HTML()]
    for i, plots in enumerate(PLOTS[key]):
        with gr.Column(elem_classes="oam-figure"):
            with gr.Row(elem_classes="oam-wide" if i in WIDE.get(key, ()) else None):
                parts += [gr.Plot(show_label=False, container=False, min_width=300) for _ in range(plots)]
            parts.append(gr.HTML())
    return parts


def conventions() -> str:
    """The text of the docs tab."""
    return (FOLDER / "conventions.md").read_text(encoding="utf-8")


def refusal(error: Exception) -> str:
    return oam_views.note("error", f"{error} A picture still to be seen below is of earlier settings.")


def _shower(controls, pages, tabs, tab, about, problem, link) -> Callable[..., dict]:
    """A function that renders settings: the tab in sight, the address, the notes; and the controls where they moved."""

    def show(settings: Settings, problems: tuple[str, ...] = (), move: bool = False) -> dict:
        updates: dict[Any, Any] = {
            problem: "".join(oam_views.note("warning", text) for text in problems),
            tab: settings.tab,
            about: oam_views.status(settings),
            link: settings.to_query(),
        }
        if move:
            updates[tabs] = gr.Tabs(selected=settings.tab)
            for name, control in controls.items():
                value = getattr(settings, name)
                updates[control] = list(value) if CONTROLS[name].many else value
        try:
            if settings.tab in pages:
                page = VIEWS[settings.tab](settings)
                updates |= zip(pages[settings.tab], page.parts(), strict=True)
        except (ValueError, TypeError) as error:
            updates[problem] = refusal(error)
        return updates

    return show


def _events(demo, controls, items, tab, show, outputs, link, copy):
    order = [controls[name] for name in NAMES]
    about, problem = outputs[-3:-1]
    options = {"outputs": outputs, "api_visibility": "private", "show_progress": "minimal"}
    options |= {"show_progress_on": about, "trigger_mode": "always_last"}
    options |= {"concurrency_id": "oam", "concurrency_limit": 1}

    def changed(tab_name: str, *values: Any) -> dict:
        try:
            settings = from_values({"tab": tab_name, **dict(zip(NAMES, values, strict=True))})
        except ValueError as error:
            return {tab: tab_name, problem: refusal(error)}
        return show(settings)

    def selected(address: str, seen: str, *values: Any, key: str) -> dict:
        # Before the first settings have come back, what is selected is the tab that the page starts with.
        if not address:
            return {tab: seen}
        # A tab that a preset or a link has opened is drawn already.
        return {tab: key} if seen == key else changed(key, *values)

    def swept(tab_name: str, *values: Any) -> dict:
        given = dict(zip(NAMES, values, strict=True))
        given["sweep_start"], given["sweep_stop"] = SWEEPS[given["sweep"]]
        ends = {controls[name]: given[name] for name in ("sweep_start", "sweep_stop")}
        return {**ends, **changed(tab_name, *(given[name] for name in NAMES))}

    def opened(request: gr.Request) -> dict:
        settings, problems = Settings.from_query(dict(request.query_params))
        return show(settings, tuple(problems), move=True)

    demo.load(opened, None, **options)
    controls["preset"].input(lambda name: show(Settings.from_preset(name), move=True), controls["preset"], **options)
    controls["sweep"].input(swept, [tab, *order], **options)
    rest = [controls[name].input for name in NAMES if name not in ("preset", "sweep")]
    gr.on(rest, changed, [tab, *order], **options)
    for key, item in items.items():
        item.select(partial(selected, key=key), [link, tab, *order], **options)
    link.change(None, link, None, js=SET_ADDRESS, api_visibility="private")
    copy.click(None, None, None, js=COPY_LINK, api_visibility="private")


LAUNCH = {
    "max_file_size": 0,  # nothing here takes a file, so nobody uploads one
    "css": CSS,
    "head": LANGUAGE,
    "theme": theme(),
    "ssr_mode": False,
    "footer_links": ["api", "gradio", "settings"],
}
demo = build_demo()

if __name__ == "__main__":
    demo.launch(**LAUNCH)
