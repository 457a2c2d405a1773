#!/usr/bin/env bash
# transformers 5.22.2: AutoModelForCausalLM.from_pretrained of a PEFT folder with DoRA leaves the learned magnitudes out.
#
# Guess: from_pretrained of an adapter folder gives the same model as PEFT's own PeftModel.from_pretrained.
# Seen:  for LoRA it does. For DoRA (use_dora=True) the magnitude vectors are among the missing keys under one name
#        (...lora_magnitude_vector.default.weight) and among the unexpected ones under another (without .weight); they keep what a new
#        adapter starts with, nothing is raised, and the logits are another model's. PEFT loads the folder exactly.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.22.2 peft==0.21.2 accelerate==1.15.0
cd "$folder"
cat >look.py <<'PYTHON'
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

config = Qwen2Config(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                     num_key_value_heads=1)
torch.manual_seed(0)
Qwen2ForCausalLM(config).save_pretrained("base")
ids = torch.tensor([[1, 2, 3, 4]])
off = {}
for name, use_dora in (("LoRA", False), ("DoRA", True)):
    settings = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", use_dora=use_dora)
    trained = get_peft_model(AutoModelForCausalLM.from_pretrained("base"), settings).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:  # as training would leave it
                parameter += 0.5 * torch.randn_like(parameter)
        trained.save_pretrained(name)
        expected = trained(ids).logits
        model, info = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True)
        by_transformers = (model.eval()(ids).logits - expected).abs().max().item()
        by_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), name).eval()
        by_peft = (by_peft(ids).logits - expected).abs().max().item()
    off[name] = by_transformers, by_peft, len(info["missing_keys"]), len(info["unexpected_keys"])
    print(f"{name}: logits off by {by_transformers:.1e} with transformers, {by_peft:.1e} with PEFT; "
          f"{off[name][2]} missing keys, {off[name][3]} unexpected")
print(f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}")
assert off["LoRA"][0] < 1e-5 and off["LoRA"][1] < 1e-5 and off["LoRA"][2:] == (0, 0), "the behaviour has changed"
assert off["DoRA"][0] > 1e-2 and off["DoRA"][1] < 1e-5 and off["DoRA"][2:] == (2, 2), "the behaviour has changed"
PYTHON
HF_HUB_OFFLINE=1 venv/bin/python -W ignore look.py 2>/dev/null
