"""Trains on every process that torchrun starts, and writes what each saw: `torchrun ... _distributed.py FOLDER OPTIONS`."""

import importlib.util
import json
import sys
from pathlib import Path

import torch

spec = importlib.util.spec_from_file_location("trainer_helpers", Path(__file__).parent / "conftest.py")
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)


def right_on_the_first_process_only(completions, kind, **columns):
    """At first, process 0 has only informative groups and process 1 has none."""
    rewards = helpers.scripted(completions, kind)
    if columns["trainer_state"].global_step == 0 and trainer.accelerator.process_index == 1:
        right_on_the_first_process_only.calls += 1
        if right_on_the_first_process_only.calls == 1:
            return [0.0] * len(rewards)
    return rewards


right_on_the_first_process_only.calls = 0
folder = Path(sys.argv[1])
trainer = helpers.build_trainer(
    folder / "run",
    ("mixed", "right", "wrong"),
    right_on_the_first_process_only,
    dynamic_sampling=True,
    easy_pool_alpha=0.1,
    logging_steps=1,
    **json.loads(sys.argv[2]),
)
batches, carried = [], []
generate = trainer._generate_and_score_completions


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


trainer._generate_and_score_completions = recording
rounds = []
log_rounds = trainer._log_rounds


def recording_rounds(rounds_, *rest):
    rounds.append(len(rounds_))
    log_rounds(rounds_, *rest)


trainer._log_rounds = recording_rounds
trainer.train()
result = {
    "world": trainer.accelerator.num_processes,
    "rounds": rounds,
    "batches": batches,
    "carried": carried,
    "next_draws": trainer.sampler.draw(50),
    "weights": sum(float(value.double().abs().sum()) for value in helpers.copy_weights(trainer).values()),
}
(folder / f"{trainer.accelerator.process_index}.json").write_text(json.dumps(result))
# Without this, gloo's threads may abort a process that ends before the other.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
