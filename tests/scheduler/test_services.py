"""Services: within the byte budget, never evicted while running, batched, and bit-identical after eviction."""

import asyncio
import random
import threading
import time

import pytest
import torch

from mimo_hf.scheduler import Action, ModelService, PinnedHostHook, ServiceCall, TorchService
from mimo_hf.scheduler.services.pinned import pinned_offload_with_hook

from .conftest import drive


class Device:
    """Fake device memory."""

    def __init__(self, budget):
        self.budget = budget
        self.used = self.most = 0
        self.lock = threading.Lock()

    def change(self, nbytes):
        with self.lock:
            self.used += nbytes
            self.most = max(self.most, self.used)
            assert 0 <= self.used <= self.budget


class Doubler(ModelService):
    def __init__(self, device, nbytes, name="", restore_s=0.0005, call_s=0.0005, **options):
        self.device, self.nbytes, self.name = device, nbytes, name
        self.restore_cost_s, self.call_s = restore_s, call_s
        self.resident = self.loaded = False
        self.batches = []
        for option, value in options.items():
            setattr(self, option, value)

    def load(self):
        assert not self.loaded
        self.loaded = True

    def to_device(self):
        assert self.loaded
        assert not self.resident
        self.device.change(self.nbytes)
        self.resident = True

    def to_host(self):
        assert self.resident
        self.resident = False
        self.device.change(-self.nbytes)

    def call(self, batch):
        assert self.resident
        self.batches.append(list(batch))
        time.sleep(self.call_s)
        assert self.resident
        return [2 * item for item in batch]


def ask(name, batch, **options):
    return Action(name, ServiceCall(name, batch, options.pop("tokens", 1)), {}, **options)


def test_room_made_for_a_service_that_loads_slowly_is_empty_before_others_count_on_it():
    device = Device(100)
    services = {name: Doubler(device, size) for name, size in (("a", 70), ("b", 60), ("c", 40))}
    quick = services["b"].load

    def load():
        time.sleep(0.3)
        quick()

    services["b"].load = load

    async def work(scheduler):
        await scheduler.run(ask("a", 1))
        return await asyncio.gather(scheduler.run(ask("b", 2)), scheduler.run(ask("c", 3)))

    drive(work, services=services, gpu_bytes=100)
    assert device.most <= 100


def test_a_thousand_random_calls_stay_within_the_byte_budget():
    rng = random.Random(0)
    device = Device(100)
    services = {f"s{n}": Doubler(device, size) for n, size in enumerate([60, 45, 40, 30, 55, 20])}

    async def work(scheduler):
        async def one(number):
            await asyncio.sleep(rng.uniform(0, 1.0))
            return await scheduler.run(ask(f"s{rng.randrange(6)}", number))

        return await asyncio.gather(*(one(number) for number in range(1000))), scheduler.stats()

    results, stats = drive(work, services=services, gpu_bytes=100)
    assert results == [2 * number for number in range(1000)]
    assert stats["service_switches"] > 20
    assert device.most > 60
    assert device.used == 0  # all are in host memory after close


def test_a_service_stays_while_it_has_work_and_is_not_switched_at_every_call():
    device = Device(10)
    services = {name: Doubler(device, 10, name, restore_s=0.02, call_s=0.002) for name in "ab"}

    async def work(scheduler):
        await scheduler.map([ask("ab"[n % 2], n) for n in range(100)])
        return scheduler.stats()["service_switches"]

    assert drive(work, timeout_s=20, services=services, gpu_bytes=10, restore_kappa=5.0) <= 10


def test_calls_are_joined_up_to_the_tokens_of_a_batch():
    device = Device(10)
    service = Doubler(device, 10, max_batch_tokens=8, max_wait_ms=50.0, call_s=0.01)

    async def work(scheduler):
        return await scheduler.map([ask("s", n, tokens=2) for n in range(9)])

    assert drive(work, services={"s": service}, gpu_bytes=10) == [2 * n for n in range(9)]
    assert [len(batch) for batch in service.batches] == [4, 4, 1]


def test_an_error_of_a_service_is_the_result_of_its_calls():
    device = Device(10)

    class Broken(Doubler):
        def call(self, batch):
            raise ArithmeticError("overflow")

    class Unloadable(Doubler):
        def load(self):
            raise OSError("no such checkpoint")

    class Short(Doubler):
        def call(self, batch):
            return []

    services = {"broken": Broken(device, 5), "unloadable": Unloadable(device, 5), "short": Short(device, 5)}

    async def work(scheduler):
        for name, error, words in (
            ("broken", ArithmeticError, "overflow"),
            ("unloadable", OSError, "no such checkpoint"),
            ("short", RuntimeError, "0 results for 1 requests"),
        ):
            for _ in range(2):
                with pytest.raises(error, match=words):
                    await scheduler.run(ask(name, 1))
        with pytest.raises(ValueError, match=r"`service` must be one of broken.*; got 'other'"):
            await scheduler.run(ask("other", 1))

    drive(work, services=services, gpu_bytes=10)


def test_a_service_larger_than_the_budget_is_refused():
    with pytest.raises(ValueError, match=r"must fit on the device, which has 10; got 20"):
        drive(lambda scheduler: scheduler.run(ask("s", 1)), services={"s": Doubler(Device(20), 20)}, gpu_bytes=10)


def test_a_cancelled_or_late_call_only_loses_its_result():
    device = Device(10)
    service = Doubler(device, 10, max_batch_tokens=4, max_wait_ms=30.0, call_s=0.1)

    async def work(scheduler):
        handles = [await scheduler.submit(ask("s", n)) for n in range(4)]
        late = await scheduler.submit(ask("s", 9, timeout_s=0.05))
        await asyncio.sleep(0.06)
        handles[1].cancel()
        results = await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)
        with pytest.raises(TimeoutError):
            await late
        return results, await scheduler.run(ask("s", 7))

    results, after = drive(work, services={"s": service}, gpu_bytes=10)
    assert results[0::2] == [0, 4]
    assert isinstance(results[1], asyncio.CancelledError)
    assert after == 14


def test_waiting_restoring_and_running_are_told_apart():
    device = Device(10)
    services = {"s": Doubler(device, 10, restore_s=0.2, call_s=0.1)}
    restore = services["s"].to_device

    def slowly():
        time.sleep(0.2)
        restore()

    services["s"].to_device = slowly

    async def work(scheduler):
        handles = []
        for pause_s in (0.1, 0.2, 0.0):  # the second comes amid the restore, the third amid the call of the first
            handles.append(await scheduler.submit(ask("s", 1)))
            await asyncio.sleep(pause_s)
        for handle in handles:
            await handle
        return [handle.timing for handle in handles], scheduler.stats()

    timings, stats = drive(work, services=services, gpu_bytes=10)
    for timing, restored_s, began_s in zip(timings, (0.2, 0.1, 0.0), (0.2, 0.3, 0.4), strict=True):
        assert timing.get("restore_s", 0.0) == pytest.approx(restored_s, abs=0.05)
        assert timing["start_s"] - timings[0]["submit_s"] == pytest.approx(began_s, abs=0.05)
        assert timing["exec_s"] == pytest.approx(0.1, abs=0.05)
    act_s = sum(timing["end_s"] - timing["submit_s"] for timing in timings)
    assert stats["overhead_frac"] * act_s == pytest.approx(0.3, abs=0.1)  # what was spent on the restore
    assert stats["queue_mean"] * 3 == pytest.approx(act_s - 0.3 - 0.3, abs=0.1)


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(11, 6)
        self.norm = torch.nn.BatchNorm1d(6)
        self.middle = torch.nn.Linear(6, 6, dtype=torch.bfloat16)
        self.head = torch.nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(1.5))
        self.eval()

    def forward(self, tokens):
        hidden = self.norm(self.embed(tokens))
        return self.head(self.middle(hidden.bfloat16()).float() * self.scale)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_outputs_are_bit_identical_before_and_after_eviction(device):
    torch.manual_seed(0)
    model, tokens = Tied(), torch.arange(11)
    expected = model.to(device)(tokens.to(device)).cpu()
    model, hook = pinned_offload_with_hook(model.cpu(), device)
    assert isinstance(hook, PinnedHostHook)
    baseline = torch.cuda.memory_allocated() if device == "cuda" else 0
    for _ in range(3):
        assert not hook.resident
        assert torch.equal(model(tokens).cpu(), expected)
        assert hook.resident
        assert model.head.weight is model.embed.weight
        assert model.head.weight.device.type == device
        assert model.head.weight.data_ptr() == model.embed.weight.data_ptr()
        hook.offload()
        assert model.scale.device.type == "cpu"
        if device == "cuda":
            assert torch.cuda.memory_allocated() <= 1.01 * baseline + 1024
    in_use = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()}
    assert sum(in_use.values()) <= hook.nbytes <= sum(in_use.values()) + 64 * 8 * len(in_use)
    hook.remove()
    assert not hasattr(model, "_hf_hook")
    assert torch.equal(model.to(device)(tokens.to(device)).cpu(), expected)


def test_a_second_model_pushes_the_first_off_the_device():
    first, one = pinned_offload_with_hook(Tied(), "cpu")
    second, two = pinned_offload_with_hook(Tied(), "cpu", prev_module_hook=one)
    first(torch.arange(3))
    second(torch.arange(3))
    assert (one.resident, two.resident) == (False, True)


def test_teachers_share_a_device_that_holds_only_two_of_them():
    def make(seed):
        torch.manual_seed(seed)
        return Tied()

    def logprobs(model, batch):
        return [model(tokens).log_softmax(-1) for tokens in batch]

    models = [make(seed) for seed in range(4)]
    expected = [logprobs(model, [torch.arange(11)])[0] for model in models]
    services = {
        f"t{seed}": TorchService(lambda model=model: model, logprobs, 100, device="cpu", restore_cost_s=0.001)
        for seed, model in enumerate(models)
    }

    async def work(scheduler):
        actions = [ask(f"t{n % 4}", torch.arange(11)) for n in range(40)]
        return await scheduler.map(actions), scheduler.stats()["service_switches"]

    results, switches = drive(work, services=services, gpu_bytes=200)
    assert all(torch.equal(result, expected[n % 4]) for n, result in enumerate(results))
    assert switches >= 4
