"""The Hub's formats: bundled checkpoints, model cards, publishing."""
