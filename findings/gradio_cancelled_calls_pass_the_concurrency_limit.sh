#!/usr/bin/env bash
# gradio 6.31.0: with concurrency_limit=1, calls that a client cancels run beside each other.
#
# Guess: `concurrency_limit=1` says that one call of the event runs at a time, whatever clients do; a cancelled call either ends or keeps its
#        place until it has.
# Seen:  a function that is no generator can't be ended, so it runs on; but its place is given away at once. Of four calls of three
#        seconds each that are cancelled as soon as they run, several run at the same time, and all reach their end. Without the
#        cancelling one runs at a time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gradio==6.31.0
cat >"$folder/look.py" <<'PYTHON'
import threading, time
import gradio as gr, gradio_client

lock, now, most, ended = threading.Lock(), 0, 0, 0


def work() -> str:
    global now, most, ended
    with lock:
        now += 1
        most = max(most, now)
    time.sleep(3)
    with lock:
        now, ended = now - 1, ended + 1
    return "done"


with gr.Blocks() as page:
    gr.api(work, api_name="work", concurrency_limit=1)
page.queue(default_concurrency_limit=1).launch(prevent_thread_lock=True, quiet=True)
client = gradio_client.Client(page.local_url, verbose=False)


def at_once(cancelled):
    global most, ended
    most = ended = 0
    jobs = []
    for count in range(1, 5):
        jobs.append(client.submit(api_name="/work"))
        if cancelled:
            deadline = time.monotonic() + 10
            while most < 1 or now + ended < count and time.monotonic() < deadline:
                time.sleep(0.01)
            jobs[-1].cancel()
    deadline = time.monotonic() + 60
    while ended < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    return most, ended


kept, cancelled = at_once(False), at_once(True)
print(f"gradio {gr.__version__}: (at once, ended) of four calls {kept}, of four cancelled ones {cancelled}")
page.close()
assert kept == (1, 4) and cancelled[0] > 1 and cancelled[1] == 4, "the behaviour has changed"
PYTHON
GRADIO_ANALYTICS_ENABLED=False "$folder/venv/bin/python" -W ignore "$folder/look.py" 2>/dev/null
