"""The API of the OAM link simulator: the numbers of the library, typed, with bounds."""

import json
import typing
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mimo-hf[spaces]'")
import gradio_client
import httpx
from gradio_client.exceptions import AppError

from mimo_hf.hub import spaces

app = spaces.load("oam")
import oam_api  # noqa: E402  found by the Space's own folder, which loading it adds to the path


@pytest.fixture(scope="module")
def client(oam_url):
    return gradio_client.Client(oam_url, verbose=False)


def test_the_api_is_typed_and_documented(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/simulate", "/sweep", "/field", "/oem", "/dof", "/ber"}
    for endpoint in endpoints.values():
        assert all(parameter["parameter_has_default"] for parameter in endpoint["parameters"])


@pytest.mark.parametrize("name", ["simulate", "sweep", "field", "oem", "dof", "ber"])
def test_an_endpoint_answers_its_defaults_in_plain_json(client, name):
    answer = client.predict(api_name=f"/{name}")
    assert answer["rows"]
    assert answer["parameters"]["versions"]
    json.dumps(answer, allow_nan=False)


def test_a_whole_number_may_be_written_with_a_point(client):
    assert client.predict(num_tx=4.0, num_rx=4, api_name="/simulate")["parameters"]["num_tx"] == 4


def test_every_integer_of_every_endpoint_has_bounds():
    for endpoint in oam_api.endpoints():
        hints = typing.get_type_hints(endpoint)
        integers = [name for name, hint in hints.items() if hint is int]
        assert set(integers) <= set(oam_api.CAPS), endpoint.__name__


def test_nothing_can_be_uploaded_and_the_queue_is_bounded(client, oam_url):
    answer = httpx.post(f"{oam_url.rstrip('/')}/gradio_api/upload", files={"files": ("a.txt", b"some text")})
    assert answer.status_code == 413
    assert app.build_demo()._queue.max_size == app.MAX_WAITING


def test_the_api_gives_the_numbers_of_the_library(client):
    answer = client.predict(tilt_deg=10, tilt_azimuth_deg=25, api_name="/simulate")
    found = answer["summary"]["spectral_efficiency_bit_s_hz"]
    assert found["plain"] == pytest.approx(2.37, abs=0.01)
    assert found["bepre_angle"] == pytest.approx(51.13, abs=0.01)
    assert found["capacity_waterfill"] == pytest.approx(51.77, abs=0.01)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "simulate",
            {"freq_ghz": 30.0, "wavelength_m": 0.01},
            "`freq_ghz` must not be given together with `wavelength_m`",
        ),
        ("simulate", {"distance_m": 0.001}, "at least one wavelength"),
        ("simulate", {"num_tx": 1}, "num_tx"),
        ("simulate", {"num_tx": 8.5}, "`num_tx` must be a whole number; got 8.5"),
        ("simulate", {"num_tx": "8"}, "`num_tx` must be a number; got a str"),
        ("simulate", {"num_tx": [8, 8]}, "`num_tx` must be a number; got a list"),
        ("simulate", {"num_tx": True}, "`num_tx` must be a number; got a bool"),
        ("simulate", {"num_tx": None}, "`num_tx` must be a number; got a NoneType"),
        ("simulate", {"snr_db": {"a": 1}}, "`snr_db` must be a number; got a dict"),
        ("simulate", {"snr_db": 1e300}, "`snr_db` must be .* got a number above 1e15"),
        ("simulate", {"power": 3}, "`power` must be a text; got 3"),
        ("simulate", {"power": "x" * 1000}, "`power` must be one of a few words; got 1000 characters"),
        ("oem", {"rows": -1}, "`rows` must be at least 1; got -1"),
        ("oem", {"rows": 10**30}, "`rows` must be at most 16 here; got a number of more than 15 digits"),
        ("ber", {"seed": -1}, "`seed` must be at least 0"),
        ("simulate", {"num_tx": 64}, "at most 32 here"),
        ("sweep", {"num": 10_000}, "at most 1001 here"),
        ("sweep", {"param": "colour"}, "param"),
        ("field", {"mode": 9}, "mode"),
        ("oem", {"focal_length_m": 1.0, "radius_m": 0.004}, "kR of `radius_m` must exceed"),
        ("oem", {"rows": 16, "columns": 16}, "at most 128 here"),
        ("ber", {"order": 5}, "order"),
        ("ber", {"num_symbols": 10_000_000}, "at most"),
    ],
)
def test_the_api_says_what_is_wrong(client, name, arguments, message):
    with pytest.raises(AppError, match=message):
        client.predict(api_name=f"/{name}", **arguments)


def test_two_clients_at_once_get_their_own_answers(oam_url):
    def ask(tilt):
        return gradio_client.Client(oam_url, verbose=False).predict(tilt_deg=tilt, api_name="/simulate")

    with ThreadPoolExecutor(2) as pool:
        for tilt, answer in zip([5, 30, 5, 30], pool.map(ask, [5, 30, 5, 30]), strict=True):
            assert answer["parameters"]["tilt_deg"] == tilt
