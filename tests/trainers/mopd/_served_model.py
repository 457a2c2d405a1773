"""What a model behind the teacher server is asked, and what it says itself."""

import requests
import torch

SEQUENCES = [[3, 5, 7, 2, 11, 4], [17, 3], [9, 9, 1, 4, 4, 4, 8, 0, 2, 16, 5], [6, 1, 12]]
LENGTHS = [2, 1, 7, 1]


def direct(model, ids, temperature=1.0):
    """Log-probabilities of every next token, from a pass of this sequence alone."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].float() / temperature, -1)


def ask(url, body, **options):
    return requests.post(f"{url}/v1/completions", json=body, timeout=30, **options)
