"""A training with teachers behind HTTP is the training with the same models in its own process."""

import pytest
import torch

from mimo_hf.trainers.mopd.server_teacher import TeacherError
from mimo_hf.trainers.mopd.teacher_server import serve_teacher


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"kl_estimator": "topk_teacher", "kl_top_k": 4}])
def test_served_teachers_teach_as_local_ones(make_mopd, far_model, options):
    models = {name: far_model(seed) for seed, name in enumerate("abc", 1)}
    local = make_mopd(teachers=models, output="local", **options)
    local.train()
    with serve_teacher(far_model(1)) as first, serve_teacher(far_model(2)) as second:
        mixed = make_mopd(teachers={"a": first, "b": second, "c": models["c"]}, output="mixed", **options)
        mixed.train()
    for own, other in zip(local.model.parameters(), mixed.model.parameters(), strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)


def test_a_server_that_goes_away_ends_the_training_with_its_address(make_mopd, far_model, monkeypatch):
    monkeypatch.setattr("mimo_hf.trainers.mopd.server_connection.FIRST_DELAY_S", 0.01)
    with serve_teacher(far_model(1)) as url:
        trainer = make_mopd(teachers=dict.fromkeys("abc", url))
    with pytest.raises(TeacherError, match=rf"{url} can't be reached .*Is the server running"):
        trainer.train()
