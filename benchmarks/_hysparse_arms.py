"""The arms of the HySparse study: what differs between two of them is one line of the table below, and their MLP's width."""

from torch import nn

from mimo_hf.modeling.hysparse import HySparseConfig

ARMS: dict[str, dict] = {
    "full": {"sparse_layers_per_full": 0},
    "hybrid_swa": {"use_sparse_branch": False},
    "hysparse": {},
    "no_swa_branch": {"use_swa_branch": False},
    "swa_shares_kv": {"swa_shares_kv": True},
    "random_blocks": {"oracle_reduce": "random"},
    "recent_blocks": {"oracle_reduce": "recent"},
}
MAIN_ARMS = ("full", "hybrid_swa", "hysparse")
ABLATIONS = tuple(arm for arm in ARMS if arm not in MAIN_ARMS)


def arm_config(arm: str, shape: dict, width: int) -> HySparseConfig:
    """The model of an arm; `shape`: fields that all arms of an experiment have."""
    fields = {**shape, **ARMS[arm], "intermediate_size": width}
    if "layer_types" in shape and arm == "full":
        fields["layer_types"] = ["full_attention"] * shape["num_hidden_layers"]
    return HySparseConfig(**fields)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def matched_width(arm: str, experiment, width: int) -> int:
    """The MLP width that gives an arm as nearly as can be the parameters of `full` with an MLP of `width`."""

    def size(arm: str, width: int) -> int:
        return num_parameters(experiment.build(experiment.config(arm, width)))

    per_channel = size(arm, width + 1) - size(arm, width)
    return width + round((size("full", width) - size(arm, width)) / per_channel)
