"""One computation at a time, also after calls that were cancelled."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mimo-hf[spaces]'")
import gradio as gr
import gradio_client

from mimo_hf.hub import spaces

app = spaces.load("oam")
import oam_api  # noqa: E402  found by the Space's own folder, which loading it adds to the path
import oam_turns  # noqa: E402  as above


class Counted:
    """A computation that says how many of it ran at once."""

    def __init__(self):
        self.lock, self.now, self.most, self.ended = threading.Lock(), 0, 0, 0

    def run(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        with self.lock:
            self.now -= 1
            self.ended += 1


def test_of_many_calls_at_once_one_runs_and_too_many_are_told_to_come_back():
    counted = Counted()
    work = oam_turns.in_turn(counted.run)
    with ThreadPoolExecutor(20) as threads:
        calls = [threads.submit(work) for _ in range(20)]
    errors = [call.exception() for call in calls if call.exception() is not None]
    assert counted.most == 1
    assert counted.ended == 20 - len(errors) >= oam_turns.MAX_CALLS
    assert errors
    assert all(isinstance(error, gr.Error) and "busy" in error.message for error in errors)


def test_places_come_back_from_calls_that_fail():
    def fails():
        raise ValueError("no")

    for _ in range(2 * oam_turns.MAX_CALLS):
        with pytest.raises(ValueError, match="no"):
            oam_turns.in_turn(fails)()


def test_every_endpoint_and_every_page_takes_its_turn():
    for function in (*oam_api.endpoints(), *app.VIEWS.values()):
        codes = []
        while function is not None:
            codes.append(function.__code__)
            function = getattr(function, "__wrapped__", None)
        assert oam_turns.in_turn(len).__code__ in codes


def test_cancelled_calls_do_not_run_at_once(monkeypatch):
    """Gradio gives the place of a cancelled call away at once, and lets it run to its end."""
    counted = Counted()
    with gr.Blocks() as page:
        gr.api(oam_turns.in_turn(counted.run), api_name="work", concurrency_limit=1)
    page.queue(default_concurrency_limit=1).launch(prevent_thread_lock=True, quiet=True)
    try:
        client = gradio_client.Client(page.local_url, verbose=False)
        jobs = [client.submit(api_name="/work") for _ in range(6)]
        for job in jobs:
            time.sleep(0.03)
            job.cancel()
        deadline = time.monotonic() + 20
        while counted.now and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        page.close()
    assert counted.ended >= 1
    assert counted.most == 1
