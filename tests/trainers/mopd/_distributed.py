"""
Trains on every process that torchrun starts, once with each of the options, and writes what each process saw to
NAME-RANK.json: `torchrun ... _distributed.py FOLDER '{"NAME": OPTIONS, ...}'`.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch

spec = importlib.util.spec_from_file_location("mopd_helpers", Path(__file__).parent / "conftest.py")
mopd = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mopd)


def train(folder, options):
    """What this process saw. The rows of the second process are all of one domain, those of the first of all others."""
    from datasets import Dataset

    prompts = ["solve " * (1 + index % 4) + str(index % 10) for index in range(32)]
    share = 4 * options.get("gradient_accumulation_steps", 1)  # rows of a generation on one process
    names = ["a" if index % (2 * share) >= share else "bc"[index % 2] for index in range(32)]
    rows = Dataset.from_dict({"prompt": prompts, "domain": names})
    trainer = mopd.build(folder, rows=rows, shuffle_dataset=False, per_device_train_batch_size=4, **options)
    domains, passes = [], []
    trainer.pool.is_sharded = (
        options.get("kl_estimator", "sampled") == "sampled"
    )  # all take as many passes as the busiest
    for teacher in trainer.pool.teachers:
        score = teacher.host.score
        teacher.host.score = lambda *args, score=score, **more: passes.append(1) or score(*args, **more)
    generate = trainer._generate_round

    def recording(inputs):
        batch = generate(inputs)
        domains.append(sorted(set(batch["domain_idx"].tolist())))
        return batch

    trainer._generate_round = recording
    trainer.train()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return {
        "world": trainer.accelerator.num_processes,
        "domains": domains,
        "passes": len(passes),
        "weights": [float(value.double().sum()) for value in trained.parameters()],
        "log": [
            {name: value for name, value in entry.items() if name.startswith("mopd/") and "seconds" not in name}
            for entry in trainer.state.log_history
        ],
    }


folder = Path(sys.argv[1])
for name, options in json.loads(sys.argv[2]).items():
    result = train(folder / name, options)
    (folder / f"{name}-{torch.distributed.get_rank()}.json").write_text(json.dumps(result))
# Without this, gloo's threads may abort a process that ends before the other.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
