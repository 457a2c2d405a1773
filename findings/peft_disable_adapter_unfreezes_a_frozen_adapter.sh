#!/usr/bin/env bash
# peft 0.21.2: leaving `with model.disable_adapter():` makes an adapter trainable that was loaded as frozen.
#
# Guess: PeftModel.from_pretrained(..., is_trainable=False) gives an adapter without gradients, and `disable_adapter`, whose purpose is to
#        look at the base model for a moment, leaves everything as it was.
# Seen:  after the block all weights of the active adapter require gradients, and an optimizer over
#        [p for p in model.parameters() if p.requires_grad] would train them. `set_adapter("name")` does the same; its
#        `inference_mode=True` does not, but the next `disable_adapter` undoes that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.22.2 peft==0.21.2 accelerate==1.15.0
cd "$folder"
cat >look.py <<'PYTHON'
import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

config = Qwen2Config(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                     num_key_value_heads=1)
base = Qwen2ForCausalLM(config)
get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).save_pretrained("reference")
model = PeftModel.from_pretrained(Qwen2ForCausalLM(config), "reference", is_trainable=False)


def trainable():
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


loaded = trainable()
with model.disable_adapter():
    model(torch.tensor([[1, 2, 3]]))
after = trainable()
model.set_adapter("default", inference_mode=True)
frozen = trainable()
with model.disable_adapter():
    pass
again = trainable()
print(f"peft {peft.__version__}, torch {torch.__version__}: trainable weights as loaded {loaded}, after disable_adapter {after}, "
      f"after set_adapter(inference_mode=True) {frozen}, after disable_adapter {again}")
assert (loaded, frozen) == (0, 0) and after == again > 0, "the behaviour has changed"
PYTHON
HF_HUB_OFFLINE=1 venv/bin/python -W ignore look.py 2>/dev/null
