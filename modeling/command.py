"""
`mimo-hf hysparse memory`: the bytes of `hysparse/memory.py` as a table. `mimo-hf sale calibrate`: SALE's thresholds for a model.
`mimo-hf audio ...`: `mimo_audio/command.py`.
"""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .mimo_audio.command import add_audio_commands

if TYPE_CHECKING:
    from .hysparse import HySparseConfig

COLUMNS = {
    "context": "context",
    "full": "full_bytes",
    "hybrid SWA": "hybrid_swa_bytes",
    "HySparse": "hysparse_bytes",
    "full / hybrid": "full_over_hybrid_swa",
    "full / HySparse": "full_over_hysparse",
    "scores at once": "all_scores_bytes",
    "a query": "scores_bytes_a_query",
    "indices": "indices_bytes",
}
NOTES = (
    "full, hybrid SWA, HySparse: keys and values, a window of w tokens in each sparse layer (transformers keeps w - 1 between",
    "steps). Passing, in a full layer that selects: block scores of a whole prefill at once, which chunks of queries avoid, or",
    "of one query; and the selected indices. Computed, not measured.",
)


def add_commands(kit: Any) -> None:
    """Adds `hysparse`, `sale` and `audio` with their sub-commands."""
    _add_memory(kit)
    _add_calibrate(kit)
    add_audio_commands(kit)


def _add_memory(kit: Any) -> None:
    parser = kit.group("hysparse", "Calculate the memory of HySparse models.").command(
        "memory",
        _memory,
        "Bytes of the KV cache: full attention, hybrid sliding window, HySparse.",
        "  mimo-hf hysparse memory --model hysparse-80b-a3b --context 4k,32k,1M --kv-cache-dtype fp8\n"
        "  mimo-hf hysparse memory --model ./my-checkpoint --batch 8 --out memory.json",
    )
    kit.shared(parser, "--model", "Or its config.json, or hysparse-7b, hysparse-80b-a3b.", required=True)
    kit.renamed(parser, "--config", "--model", is_read=True)
    parser.add_argument(
        "--context",
        metavar="LENGTHS",
        type=_lengths,
        default="4k,32k,128k,1M",
        help="Tokens a sequence, with commas between; k is 1024, M is 1024 times that.",
    )
    parser.add_argument(
        "--kv-cache-dtype",
        choices=["fp8", "bf16", "fp16", "fp32"],
        default="bf16",
        help="Number format of keys and values.",
    )
    kit.renamed(parser, "--dtype", "--kv-cache-dtype")
    parser.add_argument("--batch", metavar="N", type=kit.Whole(), default=1, help="Sequences at once.")
    parser.add_argument(
        "--hybrid-full-layers",
        metavar="N",
        type=kit.Whole(),
        help="Full layers of the hybrid sliding window (default: as many as HySparse has).",
    )
    kit.shared(parser, "--json")
    kit.shared(parser, "--out", endings=(".json",))


def _add_calibrate(kit: Any) -> None:
    parser = kit.group("sale", "Sparse prefill (SALE): attn_implementation='sale'.").command(
        "calibrate",
        _calibrate,
        "Find the threshold of each head, on long prompts made of random keys and values.",
        "  mimo-hf sale calibrate --model Qwen/Qwen3-0.6B --dtype bfloat16 --device cuda --folder qwen3-sale\n"
        "  mimo-hf sale calibrate --model ./my-checkpoint --length 4096 --prompts 3 --folder taus --plot taus.png",
    )
    kit.shared(parser, "--model", "Any causal language model of transformers.", required=True)
    parser.add_argument(
        "--folder",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="Where the thresholds go (sale_config.json, sale_thresholds.safetensors). A call that was cut short goes on from there.",
    )
    parser.add_argument("--prompts", metavar="N", type=kit.Whole(), default=5, help="Prompts.")
    parser.add_argument("--length", metavar="N", type=kit.Whole(), default=32768, help="Tokens of a prompt, at most.")
    parser.add_argument(
        "--theta",
        metavar="X",
        type=kit.Number(above=0),
        default=0.4,
        help="Mean L1 error of a token's output that a head may have; larger is sparser.",
    )
    parser.add_argument(
        "--min-seq-len",
        metavar="N",
        type=kit.Whole(0),
        default=1024,
        help="Up to so many queries attention stays dense, here and later.",
    )
    kit.shared(parser, "--seed", "Here: the prompts.")
    kit.shared(parser, "--device")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="Number format of the weights."
    )
    kit.shared(parser, "--plot")
    kit.shared(parser, "--json")
    kit.shared(parser, "--out", endings=(".json",))


def _calibrate(kit: Any, args: argparse.Namespace) -> int:
    drawing = kit.drawing() if args.plot else None
    with kit.stage("importing torch and transformers"):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from .sale import SaleConfig
        from .sale.calibration_sale import calibrate
        from .sale.retrieval_prompts import retrieval_prompt

        kit.register_models()
    config = SaleConfig(theta=args.theta, min_seq_len=args.min_seq_len)
    with kit.stage("loading the checkpoint"):
        try:
            # What the Hub has now; no code of a checkpoint is run.
            tokenizer = AutoTokenizer.from_pretrained(args.model)  # nosec B615  # as said above
            model = AutoModelForCausalLM.from_pretrained(  # nosec B615  # as said above
                args.model, dtype=getattr(torch, args.dtype)
            ).to(args.device)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"--model must be a folder or a model of the Hub with a causal language model and its tokenizer; got {args.model}: "
                f"{reason}"
            ) from error
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or args.length
    if args.length > most:
        raise ValueError(f"`length` must be at most {most}, the positions of this model; got {args.length}.")
    with kit.stage("writing prompts"):
        prompts = [
            retrieval_prompt(tokenizer, args.length, 1000 * args.seed + number) for number in range(args.prompts)
        ]
    shortest = min(map(len, prompts))
    if shortest <= args.min_seq_len:
        raise ValueError(
            f"`length` must be so large that each prompt has more than --min-seq-len, {args.min_seq_len} tokens; got {args.length}, and "
            f"{shortest} tokens in a prompt of whole records."
        )
    settings = {"model": args.model, "length": args.length, "seed": args.seed, "dtype": args.dtype}
    try:
        found = calibrate(model, prompts, config, out=args.folder, settings=settings)
    except ValueError as error:
        raise ValueError(str(error).replace("`out`", "`folder`")) from error
    if drawing is not None:
        drawing.save(_threshold_maps(drawing, found, args.model), args.plot)
    result = settings | {
        "theta": args.theta,
        "prompt_lengths": found.lengths,
        "thresholds": found.thresholds.tolist(),
        "densities": found.densities.tolist(),
        "errors": found.errors.tolist(),
    }
    if kit.write(args, kit.as_json({"command": args.command_line, **result})):
        return 0
    dense = int((found.thresholds == 0).sum())
    print(f"{args.model}: {found.thresholds.shape[0]} layers of {found.thresholds.shape[1]} heads, {found.prompts} prompts of up to "
          f"{max(found.lengths):,} tokens, theta {args.theta:g}")  # fmt: skip
    print(
        f"density {found.densities.mean():.3f} at {max(found.lengths):,} tokens, where what stays dense counts as 1; {dense} heads found no threshold and stay dense"
    )
    print(f"thresholds in {args.folder}: use_sale(model, SaleConfig.from_pretrained({str(args.folder)!r}))")
    return 0


def _threshold_maps(drawing: Any, found: Any, model: str) -> Any:
    labels: dict[str, Any] = {"x_label": "head", "y_label": "layer"}
    labels |= {name: range(count) for name, count in zip(("rows", "columns"), found.thresholds.shape, strict=True)}
    return drawing.heat_maps(
        [
            drawing.HeatMap("Threshold (0: dense)", found.thresholds, scale_label="tau", low=0.0, **labels),
            drawing.HeatMap(
                "Density on the last prompt", found.densities, scale_label="kept tiles", low=0.0, high=1.0, **labels
            ),
        ],
        title=f"SALE's thresholds of {model}",
    )


def _lengths(text: str) -> list[int]:
    units = {"": 1, "k": 1024, "M": 1024**2}
    lengths = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,12})([kM]?)", part, re.ASCII)
        if match is None or int(match[1]) < 1:
            raise argparse.ArgumentTypeError(f"must be numbers of tokens such as 4k,32768,1M; got {text!r}.")
        lengths.append(int(match[1]) * units[match[2]])
    return lengths


def _memory(kit: Any, args: argparse.Namespace) -> int:
    with kit.stage("reading the configuration"):
        from .hysparse.memory import BYTES_PER_ELEMENT, memory_table

        config = read_config(args.model)
    rows = memory_table(
        config,
        args.context,
        batch_size=args.batch,
        bytes_per_element=BYTES_PER_ELEMENT[args.kv_cache_dtype],
        hybrid_full_layers=args.hybrid_full_layers,
    )
    full_layers = config.layer_types.count("full_attention")
    hybrid_full_layers = args.hybrid_full_layers or full_layers
    settings = {
        "config": args.model,
        "kv_cache_dtype": args.kv_cache_dtype,
        "batch": args.batch,
        "hybrid_full_layers": hybrid_full_layers,
    }
    if kit.write(args, kit.as_json({"command": args.command_line, **settings, "rows": rows})):
        return 0
    print(
        f"{args.model}: {config.num_hidden_layers} layers, {full_layers} of them full (hybrid SWA: {hybrid_full_layers}), "
        f"window {config.sliding_window}, blocks of {config.sparse_block_size}, {config.sparse_topk_tokens} tokens selected; "
        f"{args.kv_cache_dtype}, batch {args.batch}"
    )
    print()
    for line in kit.aligned([list(COLUMNS), *([_show(name, row[name]) for name in COLUMNS.values()] for row in rows)]):
        print(line)
    print()
    for line in NOTES:
        print(line)
    return 0


def read_config(name: str) -> "HySparseConfig":
    """
    A preset, or the configuration in a folder or file, or of a model of the Hub.

    Raises:
        ValueError: it is neither, or another model's.
    """
    from ..hub.checkpoints import HUB_ID
    from .hysparse.configuration_hysparse import PRESETS, HySparseConfig

    if name in PRESETS:
        return HySparseConfig.from_preset(name)
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if not path.exists() and HUB_ID.fullmatch(name):
        try:
            return HySparseConfig.from_dict(HySparseConfig.get_config_dict(name)[0])
        except OSError as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"--model must be a folder here, or a model that can be loaded from the Hub; got {name}: {reason}"
            ) from error
    if not path.is_file():
        raise ValueError(
            f"--model must be a preset ({', '.join(PRESETS)}), a checkpoint folder or its config.json, or a model "
            f"of the Hub; got {name}."
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--model {name} must have a {path.name} that is JSON; got {error}. Copy it again.") from None
    if not isinstance(fields, dict) or "model_type" not in fields:
        raise ValueError(
            f"--model {name} must name its `model_type` in {path.name}; got none. Give the one that "
            "`save_pretrained` wrote."
        )
    return HySparseConfig.from_dict(fields)


def _show(name: str, value: float) -> str:
    if name == "context":
        return f"{value:,}"
    return human_bytes(value) if name.endswith("_bytes") or "bytes_" in name else f"{value:.2f}"


def human_bytes(number: float) -> str:
    """In units of 1000, as papers print them: `6.72 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    return f"{number} B" if unit == "B" else f"{number:.2f} {unit}"
