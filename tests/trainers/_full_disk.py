"""Trains on a disk that fills up, frees it and resumes: `_full_disk.py FOLDER ROOM ...`, with FOLDER on a small file system."""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

from transformers import TrainerCallback

spec = importlib.util.spec_from_file_location("trainer_helpers", Path(__file__).parent / "conftest.py")
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

OPTIONS = {
    "dynamic_sampling": True,
    "carry_surplus": True,
    "easy_pool_alpha": 0.2,
    "per_device_train_batch_size": 16,
    "save_strategy": "steps",
    "save_steps": 1,
    "max_steps": 3,
}


class Fill(TrainerCallback):
    """Leaves `room` bytes after the first checkpoint."""

    def __init__(self, filler, room):
        self.filler, self.room = filler, room

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == 1:
            free = os.statvfs(self.filler.parent)
            with open(self.filler, "wb") as file:
                file.write(bytes(max(0, free.f_bavail * free.f_bsize - self.room)))


def train(folder, room):
    """What happened on a disk with `room` bytes left."""

    def build(name, **options):
        return helpers.build_trainer(folder / name, ("mixed", "right", "wrong"), **OPTIONS, **options)

    undisturbed = build("undisturbed", save_total_limit=1)
    undisturbed.train()
    trainer, filler = build("run"), folder / "filler"
    trainer.add_callback(Fill(filler, room))
    result = {"error": None, "after": None}
    try:
        trainer.train()
    except OSError as error:
        result |= {"error": str(error), "errno": error.errno}
    result["after"] = sorted(path.name for path in (folder / "run").glob("checkpoint-*"))
    filler.unlink()
    resumed = build("run")
    resumed.train(resume_from_checkpoint=True)
    weights = helpers.copy_weights(undisturbed)
    result["same"] = all(value.equal(weights[name]) for name, value in helpers.copy_weights(resumed).items())
    result["draws"] = resumed.sampler.draw(20) == undisturbed.sampler.draw(20)
    return result


results = {}
for room in sys.argv[2:]:
    folder = Path(sys.argv[1]) / room
    folder.mkdir()
    results[room] = train(folder, int(room))
    shutil.rmtree(folder)
print("RESULTS", json.dumps(results))
