"""Trains on a disk that fills up, frees it and resumes: `_full_disk.py FOLDER ROOM`, with FOLDER on a small file system."""

import importlib.util
import json
import os
import sys
from pathlib import Path

from transformers import TrainerCallback

spec = importlib.util.spec_from_file_location("trainer_helpers", Path(__file__).parent / "conftest.py")
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

folder, room = Path(sys.argv[1]), int(sys.argv[2])
filler = folder / "filler"
OPTIONS = {
    "dynamic_sampling": True,
    "carry_surplus": True,
    "easy_pool_alpha": 0.2,
    "per_device_train_batch_size": 16,
    "save_strategy": "steps",
    "save_steps": 1,
    "max_steps": 3,
}


def build(name, **options):
    return helpers.build_trainer(folder / name, ("mixed", "right", "wrong"), **OPTIONS, **options)


class Fill(TrainerCallback):
    """Leaves `room` bytes after the first checkpoint."""

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == 1:
            free = os.statvfs(folder)
            with open(filler, "wb") as file:
                file.write(bytes(max(0, free.f_bavail * free.f_bsize - room)))


undisturbed = build("undisturbed", save_total_limit=1)
undisturbed.train()
trainer = build("run")
trainer.add_callback(Fill())
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
print("RESULT", json.dumps(result))
