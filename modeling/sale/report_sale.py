"""What SALE did in the last prefill of a model, layer by layer and head by head."""

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from .attention_sale import record_of
from .configuration_sale import SaleConfig


@dataclass(frozen=True)
class LayerReport:
    """
    Attributes:
        layer: its index.
        rows, queries, keys: rows of the batch that were long enough, and the longest of them.
        density: kept over causal tiles, of each head.
        estimated_share: tiles whose scores were estimated, over causal tiles: the others are kept whatever they hold.
        select_s, attend_s: seconds of the estimate with the choice, and of attention over what was chosen.
    """

    layer: int
    rows: int
    queries: int
    keys: int
    density: tuple[float, ...]
    estimated_share: float
    select_s: float
    attend_s: float

    @property
    def mean_density(self) -> float:
        return sum(self.density) / len(self.density)


@dataclass(frozen=True)
class SaleReport:
    """
    Attributes:
        layers: those whose last prefill went through SALE; a layer that was dense is missing.
    """

    layers: tuple[LayerReport, ...] = field(default=())

    @property
    def density(self) -> float:
        """Mean over layers and heads; NaN where nothing went through SALE."""
        return sum(layer.mean_density for layer in self.layers) / len(self.layers) if self.layers else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"density": self.density if self.layers else None, "layers": [asdict(layer) for layer in self.layers]}

    def __str__(self) -> str:
        if not self.layers:
            return (
                "SALE: no layer's last prefill went through it; the log says why (logger mimo_hf.modeling.sale), or nothing "
                "where a model's attention is its own."
            )
        lines = [
            f"{'layer':>5} {'keys':>8} {'density':>8} {'of heads':>15} {'estimated':>9} {'select':>9} {'attend':>9}"
        ]
        for one in self.layers:
            spread = f"{min(one.density):.3f}..{max(one.density):.3f}"
            lines.append(
                f"{one.layer:>5} {one.keys:>8,} {one.mean_density:>8.3f} {spread:>15} {one.estimated_share:>9.3f} "
                f"{one.select_s:>7.3f} s {one.attend_s:>7.3f} s"
            )
        return "\n".join([*lines, f"density {self.density:.3f} over {len(self.layers)} layers"])


def sale_report(model: nn.Module) -> SaleReport:
    """What the last prefill of `model` did with `attn_implementation="sale"`."""
    found = []
    for module in model.modules():
        record = record_of(module)
        if record is None or record.kept is None:
            continue
        found.append(
            LayerReport(
                layer=record.layer,
                rows=record.rows,
                queries=record.queries,
                keys=record.keys,
                density=tuple((record.kept.double() / record.causal).tolist()),
                estimated_share=record.estimated / record.causal,
                select_s=sum(seconds() for seconds in record.select_times),
                attend_s=sum(seconds() for seconds in record.attend_times),
            )
        )
    return SaleReport(tuple(sorted(found, key=lambda layer: layer.layer)))


def use_sale(model: Any, config: SaleConfig | None = None) -> Any:
    """
    Gives a model SALE's attention with these settings, which its configuration carries from then on (`config.sale`).

    Args:
        model: any causal language model of transformers.
        config: None: the defaults.

    Returns:
        The model.

    Raises:
        ValueError: the thresholds are of another model, or the model has attention of its own.
    """
    config = config or SaleConfig()
    if not model._can_set_attn_implementation():
        raise ValueError(
            f"`model` must have layers that ask transformers' attention interface; got {type(model).__name__}, whose attention "
            "is its own."
        )
    text = model.config.get_text_config()
    config.check_model(text.num_hidden_layers, text.num_attention_heads)
    text.sale = config.to_dict()
    model.set_attn_implementation("sale")
    return model
