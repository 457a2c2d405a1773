"""
Runs saved models on two processes and writes what each of them saw to NAME-RANK.pt: `_parallel.py FOLDER`, where
FOLDER/cases.json has for each NAME its model's folder, what `DistributedConfig`, `from_pretrained` and `generate` get, and
where the model is saved again.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

import mimo_hf
from mimo_hf.modeling.transformers_versions import CACHE


def outcome(model, inputs, generate=None):
    """Logits by three ways, tokens, losses, the gradients that two backward passes add up, and HySparse's selection."""
    ids, padded, mask = inputs
    seen = {"logits": {}, "selection": {}}
    with torch.no_grad():
        seen["logits"]["whole"] = model(ids).logits
        seen["logits"]["padded"] = model(padded, attention_mask=mask).logits
        first = model(ids[:, :9], use_cache=True)
        seen["logits"]["cached"] = model(ids[:, 9:], **{CACHE: first[CACHE]}).logits
        if model.config.model_type == "hysparse":
            cache = mimo_hf.HySparseCache(model.config, record_selection=True)
            model(ids, **{CACHE: cache})
            seen["selection"] = cache.last_selection
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, **(generate or {})}
    seen["tokens"] = model.generate(padded, attention_mask=mask, **options)
    losses = []
    for row in ids:
        loss = model.train()(row[None], labels=row[None]).loss
        loss.backward()
        losses.append(loss.item())
    seen["losses"] = torch.tensor(losses)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    seen["gradients"] = {
        name: gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        for name, gradient in gradients.items()
    }
    return seen


def run(folder, inputs, model, distributed, load=None, generate=None, save_as=None):
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder / model, distributed_config=DistributedConfig(**distributed), dtype=torch.float32, **(load or {})
        )
    except ValueError as error:
        return {"error": str(error)}
    seen = outcome(model, inputs, generate)
    seen["replicated"] = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
    if save_as:
        model.save_pretrained(folder / save_as)
    return seen


def work(rank, folder):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mimo_hf.register()
    inputs = torch.load(folder / "inputs.pt")
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        torch.save(run(folder, inputs, **case), folder / f"{name}-{rank}.pt")
    # Without this, gloo's threads may abort a process that ends before the other.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")  # what is imported by now need not be imported twice
    processes = [context.Process(target=work, args=(rank, Path(sys.argv[1]).resolve())) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))
