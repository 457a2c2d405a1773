"""
Every Python and shell block of the README and the guides runs as it stands, one after the other, on a CPU and offline.

A block that can't is marked in the guide by `<!-- not run: why -->` in the line above it. What a guide leaves to its reader, such
as a model of their own, is given in `GIVEN`; a path that stands for one is replaced by `PLACES`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "examples/README.md", "docs/*.md", "mimo_hf/*/README.md", "trainers/README.md",
                    "kernels/README.md", "kernels/*/README.md", "modeling/*/README.md", "spaces/README.md", "spaces/*/README.md")
    for path in ROOT.glob(pattern)
    if not path.parent.is_symlink()
)  # fmt: skip
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>.+?) -->\n+)?```(?P<language>python|bash|sh|shell|console)\n(?P<text>.*?)```", re.DOTALL
)

TINY_QWEN = """
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig
from mimo_hf.hub.checkpoints import bundled
model = str(bundled("mimo-v2-flash"))
import mimo_hf
mimo_hf.register()
args = GRPOConfig("outputs", bf16=False, report_to="none")
dataset = Dataset.from_list([{"prompt": "1 + 1 = ", "solution": "$2$", "tests": []}] * 8)
"""
ATTENTION = """
import torch
from transformers import AutoModelForCausalLM
import mimo_hf
from mimo_hf.hub import kernels as _ours
from mimo_hf.hub.checkpoints import bundled
mimo_hf.register()
_ours.use_local_kernels()
path = bundled("mimo-v2-flash")
query = q = q_of_next_layer = torch.randn(1, 4, 160, 64)
key = value = k = v = torch.randn(1, 2, 160, 64)
sinks = torch.zeros(4)
"""
PUBLISHED = """
from mimo_hf.hub.checkpoints import bundled
from mimo_hf.hub.publish import publish
publish(bundled("{name}"), "published")
"""
TINY_MIMO = """
from transformers import AutoTokenizer
from mimo_hf import MiMoConfig, MiMoForCausalLM
from mimo_hf.hub.checkpoints import bundled
from mimo_hf.hub.publish import publish
MiMoForCausalLM(MiMoConfig(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1)).save_pretrained("tiny")
AutoTokenizer.from_pretrained(bundled("mimo-v2-flash")).save_pretrained("tiny")
publish("tiny", "published")
"""
DENSE = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
dense = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=12,
    num_attention_heads=4, num_key_value_heads=2))
dense.save_pretrained("dense")
batches_of_token_ids = [torch.randint(64, (1, 1100))]
"""
TRACES = """
from functools import partial
from mimo_hf.scheduler import Action, ActionScheduler, SchedulerConfig
with ActionScheduler(SchedulerConfig(trace_path="recorded.jsonl")) as scheduler:
    scheduler.run_sync(Action("square", partial(pow, 7, 2), cost={"cpu": 1}))
import shutil
shutil.copy("recorded.jsonl", "my_trace.jsonl")
"""
TINY_CODEC = """
from mimo_hf import MiMoAudioFeatureExtractor, MiMoAudioTokenizerConfig, MiMoAudioTokenizerModel
sizes = {f"{part}_{name}": size for part in ("encoder", "decoder")
    for name, size in {"layers": 2, "attention_heads": 2, "ffn_dim": 48}.items()}
MiMoAudioTokenizerModel(MiMoAudioTokenizerConfig(d_model=32, encoder_skip_layer_id=1, vocoder_dim=16, vocoder_num_layers=2,
    vocoder_attention_heads=2, vocoder_intermediate_dim=24, num_quantizers=8, codebook_size=[16], **sizes)).save_pretrained("codec")
MiMoAudioFeatureExtractor().save_pretrained("codec")
from transformers import AutoTokenizer
from mimo_hf.hub.checkpoints import bundled
tokenizer = AutoTokenizer.from_pretrained(bundled("mimo-v2-flash"))
tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
"""
GIVEN = {
    "kernels/hysparse-attn/README.md": ATTENTION,
    "kernels/sale-attn/README.md": ATTENTION,
    "kernels/sink-swa-attn/README.md": ATTENTION,
    "mimo_hf/rewards/README.md": TINY_QWEN,
    "mimo_hf/scheduler/README.md": TRACES,
    "modeling/hysparse/README.md": DENSE + PUBLISHED.format(name="hysparse"),
    "modeling/mimo/README.md": TINY_MIMO,
    "modeling/mimo_audio/README.md": TINY_CODEC,
    "modeling/mimo_v2_flash/README.md": PUBLISHED.format(name="mimo-v2-flash"),
}
PLACES = {"path/to/this/folder": "published", "path/or/id": "dense", "path/to/the/codec": "codec"}
# What has to be true at the end, where "it ran" says little.
THEN = {
    "README.md": "assert trainer.state.global_step == 2",
    "trainers/README.md": "assert generator.state.global_step >= 1\n"
    "import os\nassert set(os.listdir('outputs')) == {'rl', 'engine', 'judge', 'generate', 'mopd'}",
}


def blocks(guide):
    """(language, text, why it is not run or None) of each, and the rest of the guide without them."""
    return [(m["language"], m["text"], m["why"]) for m in BLOCK.finditer((ROOT / guide).read_text(encoding="utf-8"))]


def environment(folder):
    """Offline, with the Python of the tests first, and nothing left in the user's folders."""
    own = {
        "HF_HOME": str(folder / "hf"),
        "MIMO_SCHED_LOCK": str(folder / "lock"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]),
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return clean | own | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(command, folder, python=None):
    """`python`: a warm one, for a command that begins with Python's name."""
    if python is not None:
        done = python.run(*command[1:], cwd=folder, env=environment(folder), timeout=570)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return done
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done


@pytest.mark.slow
@pytest.mark.parametrize("guide", [guide for guide in GUIDES if any(why is None for *_, why in blocks(guide))])
def test_the_blocks_of_a_guide_run_in_order(guide, tmp_path, warm_python):
    """The README's in a Python of their own; of the other guides in a fork that has torch, transformers and TRL already."""
    python = [text for language, text, why in blocks(guide) if language == "python" and why is None]
    shell = [text for language, text, why in blocks(guide) if language != "python" and why is None]
    if python:
        source = "\n".join([GIVEN.get(guide, ""), *python, THEN.get(guide, "")])
        for stands_for, place in PLACES.items():
            source = source.replace(stands_for, place)
        (tmp_path / "guide.py").write_text(source)
        run([sys.executable, "guide.py"], tmp_path, None if guide == "README.md" else warm_python)
    for text in shell:
        run(["bash", "-euc", text], tmp_path)


def test_the_first_snippet_warns_of_nothing(tmp_path):
    """Of `make test`, tests/test_versions.py runs this on the oldest and the newest transformers as well."""
    first = next(text for language, text, _ in blocks("README.md") if language == "python")
    assert "use_mtp=True" in first
    done = run([sys.executable, "-W", "error::FutureWarning", "-c", first], tmp_path)
    said = [line for line in done.stderr.splitlines() if "Loading weights" not in line and line.strip()]
    assert said == []


def test_few_blocks_are_not_run_and_each_says_why():
    reasons = {(guide, why) for guide in GUIDES for *_, why in blocks(guide) if why}
    assert all(len(why) > 15 for _, why in reasons)
    assert len([why for guide in GUIDES for *_, why in blocks(guide) if why]) <= 12, sorted(reasons)


def test_every_fence_is_a_block_that_is_run_or_one_of_another_language():
    for guide in GUIDES:
        text = (ROOT / guide).read_text(encoding="utf-8")
        languages = re.findall(r"^```(\w+)$", text, re.MULTILINE)
        known = [language for language in languages if language in ("python", "bash", "sh", "shell", "console")]
        assert len(known) == len(blocks(guide)), guide
        assert set(languages) - set(known) <= {"bibtex", "json", "text"}, guide


@pytest.mark.parametrize("guide", [*GUIDES, "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_lead_somewhere(guide):
    text = re.sub(r"```.*?```", "", (ROOT / guide).read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (ROOT / guide).parent.joinpath(target.partition("#")[0]).exists(), target


def test_the_page_of_a_package_index_has_no_link_into_the_repository():
    text = (ROOT / "docs/package_page.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((?!https?:|#)", text) == []
    assert "long_description = file: docs/package_page.md" in (ROOT / "setup.cfg").read_text()
