"""
A long prompt through dense attention and through SALE (arXiv 2505.24179), side by side.

    python examples/sale_long_prompt.py                                     # the bundled MiMo-V2-Flash on its longest context
    python examples/sale_long_prompt.py --model Qwen/Qwen3-0.6B --tokens 16000 --plot density.png

The prompt is real: held-out sources of Python's standard library, one after the other. Printed are how far the logits are from dense
attention's, what the model's guesses lose, and what SALE did, layer by layer; `--plot` draws the share of
tiles that each head keeps, and which tiles in the sparsest layer. On a CPU the estimate costs more than it saves: what is shown here is
what it keeps.
"""

import time
from dataclasses import dataclass, field

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser

import mimo_hf
from mimo_hf.data import held_out_files
from mimo_hf.hub.checkpoints import bundled
from mimo_hf.modeling.sale import SaleConfig, sale_report, use_sale, watch_tiles


@dataclass
class ScriptArguments:
    model: str | None = field(
        default=None,
        metadata={"help": "Checkpoint folder or Hub id of a causal language model; none: the bundled one."},
    )
    tokens: int | None = field(
        default=None, metadata={"help": "Length of the prompt; none: the model's context, at most 16,384."}
    )
    tau: float = field(default=0.004, metadata={"help": "Threshold of all heads."})
    sale: str | None = field(
        default=None, metadata={"help": "Folder that `mimo-hf sale calibrate` wrote, in the place of --tau."}
    )
    device: str = field(default="cpu", metadata={"help": "Where to compute."})
    dtype: str = field(default="float32", metadata={"help": "Format of the weights."})
    plot: str | None = field(
        default=None, metadata={"help": "Picture of the tiles that are kept (.png, .svg or .pdf)."}
    )


def long_document(tokenizer, tokens: int) -> torch.Tensor:
    """Token ids `[1, tokens]` of held-out sources."""
    ids: list[int] = []
    for path in held_out_files():
        ids += tokenizer(path.read_text(encoding="utf-8")).input_ids
        if len(ids) >= tokens:
            return torch.tensor([ids[:tokens]])
    raise ValueError(f"`tokens` must be at most {len(ids)}, all of the held-out sources; got {tokens}.")


@torch.no_grad()
def read(model, ids: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Logits `[tokens, vocabulary]` and seconds."""
    begin = time.perf_counter()
    logits = model(ids.to(model.device), use_cache=False).logits[0].float().cpu()
    return logits, time.perf_counter() - begin


def main(arguments: ScriptArguments) -> None:
    if arguments.plot:
        from mimo_hf.drawing import check_target

        check_target(arguments.plot, "--plot")
    mimo_hf.register()
    console = Console()
    source = arguments.model or str(bundled("mimo-v2-flash"))
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = (
        AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, arguments.dtype)).to(arguments.device).eval()
    )
    config = SaleConfig.from_pretrained(arguments.sale) if arguments.sale else SaleConfig(tau=arguments.tau)
    context = model.config.get_text_config().max_position_embeddings
    ids = long_document(tokenizer, arguments.tokens or min(context, 16_384))
    targets = ids[0, 1:]

    console.print(f"{ids.shape[1]:,} tokens of the standard library's sources")
    with console.status("dense"):
        read(model, ids[:, :64])
        dense, dense_s = read(model, ids)
    use_sale(model, config)
    with console.status("sale"), watch_tiles(model) as tiles:
        sparse, sparse_s = read(model, ids)

    for name, logits, seconds in (("dense", dense, dense_s), ("sale", sparse, sparse_s)):
        loss = torch.nn.functional.cross_entropy(logits[:-1], targets)
        right = (logits[:-1].argmax(-1) == targets).float().mean()
        console.print(f"{name:>6}: {seconds:6.2f} s, loss {loss:.4f} nats a token, next token right {right:.1%}")
    same = (dense.argmax(-1) == sparse.argmax(-1)).float().mean()
    console.print(
        f"logits: mean error {(dense - sparse).abs().mean():.4f} of {dense.std():.2f} (standard deviation), same guess {same:.1%}"
    )
    report = sale_report(model)
    console.print(str(report), markup=False)
    if arguments.plot:
        draw(report, tiles, arguments.plot)


def draw(report, tiles: dict[int, torch.Tensor], path: str) -> None:
    """Layer by head, and tile by tile of the layer that keeps the fewest."""
    from mimo_hf import drawing

    layers = [f"{layer.layer}" for layer in report.layers]
    values = [layer.density for layer in report.layers]
    told = drawing.HeatMap(
        "Kept tiles", values, "head", "layer", "density", low=0.0, high=1.0, rows=layers, columns=range(len(values[0]))
    )
    sparsest = min(report.layers, key=lambda layer: layer.mean_density).layer
    by_tile = drawing.HeatMap(
        f"Layer {sparsest}",
        tiles[sparsest].float().mean(0),
        "tile of keys",
        "tile of queries",
        "share of heads",
        low=0.0,
        high=1.0,
    )
    drawing.save(drawing.heat_maps([told, by_tile], title="What SALE keeps of a long prompt"), path)


if __name__ == "__main__":
    main(HfArgumentParser(ScriptArguments).parse_args_into_dataclasses()[0])
