"""Trainers for MiMo's post-training methods, as subclasses of TRL's.

One method is two files, `<name>_config.py` and `<name>_trainer.py`, with a script of the same name in `examples/`.
A trainer takes any causal language model and never imports `mimo_hf.modeling`.
"""
