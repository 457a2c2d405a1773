"""`mimo-hf hysparse memory`: the bytes of `memory.py` as a table."""

import argparse
import json
from pathlib import Path

from .configuration_hysparse import PRESETS, HySparseConfig
from .memory import BYTES_PER_ELEMENT, memory_table

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


def run(args: argparse.Namespace) -> int:
    """
    Prints the table, or JSON with `args.json`, and writes JSON to `args.out` where that is given.

    Raises:
        ValueError: `args.config` is neither a preset nor a configuration of HySparse.
    """
    config = read_config(args.config)
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
        "config": args.config,
        "kv_cache_dtype": args.kv_cache_dtype,
        "batch": args.batch,
        "hybrid_full_layers": hybrid_full_layers,
    }
    content = json.dumps({"command": args.command_line, **settings, "rows": rows}, indent=1) + "\n"
    if args.out is not None:
        args.out.write_text(content, encoding="utf-8")
    if args.json:
        print(content, end="")
        return 0
    print(
        f"{args.config}: {config.num_hidden_layers} layers, {full_layers} of them full (hybrid SWA: {hybrid_full_layers}), "
        f"window {config.sliding_window}, blocks of {config.sparse_block_size}, {config.sparse_topk_tokens} tokens selected; "
        f"{args.kv_cache_dtype}, batch {args.batch}"
    )
    print()
    for line in aligned([list(COLUMNS), *([_show(name, row[name]) for name in COLUMNS.values()] for row in rows)]):
        print(line)
    print()
    for line in NOTES:
        print(line)
    return 0


def read_config(name: str) -> HySparseConfig:
    """
    A preset, or the configuration in a folder or file.

    Raises:
        ValueError: it is neither, or another model's.
    """
    if name in PRESETS:
        return HySparseConfig.from_preset(name)
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"--config {name}: there is no such preset ({', '.join(PRESETS)}) and no such configuration; give a preset, a "
            "folder with a config.json, or that file."
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--config {name}: {path.name} is not JSON ({error}); copy it again.") from None
    if not isinstance(fields, dict) or "model_type" not in fields:
        raise ValueError(
            f"--config {name}: {path.name} names no `model_type`; give the one that `save_pretrained` wrote."
        )
    return HySparseConfig.from_dict(fields)


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines with columns of even width, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


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
