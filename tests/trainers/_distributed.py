"""
Trains on every process that torchrun starts, once with each of the options, and writes what each process saw to
NAME-RANK.json: `torchrun ... _distributed.py FOLDER '{"NAME": OPTIONS, ...}'`.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch

spec = importlib.util.spec_from_file_location("trainer_helpers", Path(__file__).parent / "conftest.py")
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)


class RightOnTheFirstProcessOnly:
    """At first, process 0 has only informative groups and process 1 has none."""

    __name__ = "right_on_the_first_process_only"

    def __init__(self):
        self.calls = 0

    def __call__(self, completions, kind, **columns):
        rewards = helpers.scripted(completions, kind)
        if columns["trainer_state"].global_step == 0 and torch.distributed.get_rank() == 1:
            self.calls += 1
            if self.calls == 1:
                return [0.0] * len(rewards)
        return rewards


def train(folder, options):
    """What this process saw."""
    trainer = helpers.build_trainer(
        folder,
        ("mixed", "right", "wrong"),
        RightOnTheFirstProcessOnly(),
        dynamic_sampling=True,
        easy_pool_alpha=0.1,
        logging_steps=1,
        **options,
    )
    batches, carried, rounds = [], [], []
    generate, log_rounds = trainer._generate_and_score_completions, trainer._log_rounds

    def recording(inputs):
        batch = generate(inputs)
        carried.append(trainer._carried_groups)
        groups = batch["advantages"].view(-1, 4)
        batches.append(
            {
                "groups": len(groups),
                "informative": int((groups.abs().amax(1) > 0.1).sum()),
                "tokens": int(batch["completion_mask"].sum()),
                "num_items_in_batch": int(batch["num_items_in_batch"]),
            }
        )
        return batch

    def recording_rounds(rounds_, *rest):
        rounds.append(len(rounds_))
        log_rounds(rounds_, *rest)

    trainer._generate_and_score_completions, trainer._log_rounds = recording, recording_rounds
    trainer.train()
    return {
        "world": trainer.accelerator.num_processes,
        "rounds": rounds,
        "batches": batches,
        "carried": carried,
        "next_draws": trainer.sampler.draw(50),
        "weights": sum(float(value.double().abs().sum()) for value in helpers.copy_weights(trainer).values()),
    }


folder = Path(sys.argv[1])
for name, options in json.loads(sys.argv[2]).items():
    result = train(folder / name, options)
    (folder / f"{name}-{torch.distributed.get_rank()}.json").write_text(json.dumps(result))
# Without this, gloo's threads may abort a process that ends before the other.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
