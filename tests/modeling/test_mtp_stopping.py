"""Criteria other than end-of-sequence and length stop MTP decoding at the token where they stop plain decoding."""

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from mimo_hf import record_routing


class EndsWith(StoppingCriteria):
    def __init__(self, pattern: list[int]):
        self.pattern = pattern
        self.lengths: list[int] = []

    def __call__(self, input_ids, scores, **kwargs):
        self.lengths.append(input_ids.shape[1])
        return torch.tensor([input_ids[0, -len(self.pattern) :].tolist() == self.pattern])


class Collector(BaseStreamer):
    def __init__(self):
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value):
        self.tokens += value.reshape(-1).tolist()

    def end(self):
        self.ended = True


@pytest.fixture
def model(tiny_model):
    """Two symbols: drafts are often right, and patterns end inside them."""
    return tiny_model("mimo_sink", vocab_size=2, num_mtp_layers=3).eval()


@pytest.mark.parametrize("stop_after", range(3, 19))
def test_a_stop_inside_a_draft_is_the_stop_of_plain_decoding(model, stop_after):
    prompt = torch.tensor([[0, 1, 1, 0, 1]])
    whole = model.generate(prompt, max_new_tokens=24, do_sample=False)[0].tolist()
    end = prompt.shape[1] + stop_after
    outputs, criteria, streamers = [], [], []
    for use_mtp in (False, True):
        criteria.append(EndsWith(whole[end - 7 : end]))
        streamers.append(Collector())
        outputs.append(
            model.generate(
                prompt,
                max_new_tokens=24,
                do_sample=False,
                use_mtp=use_mtp,
                stopping_criteria=StoppingCriteriaList([criteria[-1]]),
                streamer=streamers[-1],
                return_dict_in_generate=True,
                output_scores=True,
            )
        )
    plain, drafted = outputs
    assert torch.equal(plain.sequences, drafted.sequences)
    assert criteria[0].lengths == criteria[1].lengths
    assert streamers[0].tokens == streamers[1].tokens == plain.sequences[0].tolist()
    assert streamers[1].ended
    assert len(plain.scores) == len(drafted.scores)
    assert plain.past_key_values.get_seq_length() == drafted.past_key_values.get_seq_length()
    assert sum(model.mtp_statistics.accepted) + model.mtp_statistics.forward_passes == len(drafted.scores)


def test_routing_behind_a_stop_is_forgotten(model):
    prompt = torch.tensor([[0, 1, 1, 0, 1]])
    whole = model.generate(prompt, max_new_tokens=24, do_sample=False)[0].tolist()
    recorded = []
    for use_mtp in (False, True):
        criteria = StoppingCriteriaList([EndsWith(whole[8:15])])
        with record_routing(model) as routing:
            model.generate(prompt, max_new_tokens=24, do_sample=False, use_mtp=use_mtp, stopping_criteria=criteria)
        recorded.append(routing.indices)
    assert torch.equal(*recorded)
