#!/usr/bin/env bash
# transformers 5.22.2: under tensor parallelism, gradients of Qwen3's query and key norms come out too large when they are accumulated.
#
# Guess: with tp_plan="auto", two backward passes leave the gradients that two passes on one process leave: those of one, twice.
# Seen:  the norms' plan style, replicated_with_grad_allreduce, sums `.grad` over the processes after each pass, with what earlier passes
#        left in it. On two processes the first pass is right and the second gives three times one pass's gradient, not twice; every
#        other parameter is right. No warning. Gradient accumulation of a Trainer does just this.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.22.2 accelerate==1.15.0 numpy
cd "$folder"
cat >look.py <<'PYTHON'
import os
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, __version__

NORM, OTHER = "model.layers.0.self_attn.q_norm.weight", "model.layers.0.input_layernorm.weight"
ids = torch.arange(1, 13).reshape(2, 6)


def gradients(model):
    found = []
    for _ in range(2):
        model(ids, labels=ids).loss.backward()
        named = dict(model.named_parameters())
        found.append({name: named[name].grad.clone() for name in (NORM, OTHER)})
    return found


if "RANK" not in os.environ:
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=8)
    Qwen3ForCausalLM(config).save_pretrained("model")
    torch.save(gradients(Qwen3ForCausalLM.from_pretrained("model", dtype="float32")), "single.pt")
else:
    split = gradients(Qwen3ForCausalLM.from_pretrained("model", dtype="float32", tp_plan="auto"))
    single = torch.load("single.pt")
    if os.environ["RANK"] == "0":
        ratios = {name: [float((s[name] * o[name]).sum() / o[name].pow(2).sum()) for s, o in zip(split, single)] for name in (NORM, OTHER)}
        print(f"transformers {__version__}, over one process's, after one pass and after two:")
        for name, (first, second) in ratios.items():
            print(f"  {name}: {first:.3f} {second:.3f}")
        assert [round(x, 2) for x in ratios[OTHER]] == [1, 1], "the control is wrong"
        assert [round(x, 2) for x in ratios[NORM]] == [1, 1.5], "the behaviour has changed"
    torch.distributed.barrier()
PYTHON
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
venv/bin/python -W ignore look.py 2>/dev/null
venv/bin/torchrun --nproc_per_node 2 --master_addr 127.0.0.1 --master_port 29731 look.py 2>err.txt || { tail -20 err.txt; exit 1; }
