"""The simulator of services against queueing by hand, and what sticky residency is for."""

import heapq

import pytest

from mimo_hf.scheduler.simulate.service_calls import Request, mopd_requests, simulate_services


def test_resident_services_are_queues_of_their_own():
    requests = mopd_requests(1500, rate=30.0, seed=1)
    result = simulate_services(requests, 36, concurrency=2, resident=True)
    places = {request.service: [0.0, 0.0] for request in requests}
    expected = []
    for request in requests:
        free_at = heapq.heappop(places[request.service])
        end = max(free_at, request.at_s) + request.exec_s
        heapq.heappush(places[request.service], end)
        expected.append(end - request.at_s)
    assert result.act_s == pytest.approx(expected)
    assert result.switches == 0


@pytest.mark.parametrize("sticky", [True, False])
@pytest.mark.parametrize("gpus", [4, 8, 20])
def test_every_request_is_served_within_the_device(gpus, sticky):
    requests = mopd_requests(1200, rate=6.0, seed=2)
    result = simulate_services(requests, gpus, restore_s=0.5, sticky=sticky)
    assert len(result.act_s) == 1200
    assert all(act >= request.exec_s - 1e-9 for act, request in zip(result.act_s, requests, strict=True))
    assert 4 <= result.most <= gpus
    assert result.switches > 0


@pytest.mark.parametrize("seed", range(12))
def test_no_request_is_stranded(seed):
    for restore_s, gpus, sticky in ((1.5, 8, False), (0.5, 12, True), (5.0, 4, True), (0.2, 4, False)):
        requests = mopd_requests(250, rate=6.7, seed=seed, services=3 + seed % 4)
        assert min(simulate_services(requests, gpus, restore_s=restore_s, sticky=sticky).act_s) > 0


def test_one_service_alone_waits_for_its_restore_once():
    requests = [Request(float(n), "a", 0.25) for n in range(5)]
    result = simulate_services(requests, 4, restore_s=2.0, concurrency=1)
    assert result.act_s == pytest.approx([2.25, 1.5, 0.75, 0.25, 0.25])
    assert result.switches == 1


def test_sticky_residency_switches_less_and_waits_less_under_pressure():
    requests = mopd_requests(1500, rate=6.0, seed=3)
    sticky = simulate_services(requests, 8, restore_s=3.0)
    naive = simulate_services(requests, 8, restore_s=3.0, sticky=False)
    assert sticky.switches < naive.switches
    assert sum(sticky.act_s) < 0.5 * sum(naive.act_s)


def test_a_static_partition_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="resident"):
        simulate_services(mopd_requests(100), 8, resident=True)
