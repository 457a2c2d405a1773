"""The MiMo models, one folder each with transformers' file names; `mtp/` is what their MTP heads share."""

from mimo_hf.moved import moved

if __name__ != "mimo_hf.modeling":
    raise ImportError(f"{__name__} is called mimo_hf.modeling: under two names there would be two of each class.")

__all__ = ["hysparse", "mimo", "mimo_audio", "mimo_v2_flash", "sale"]


def __dir__() -> list[str]:
    return __all__


moved(
    __name__,
    {
        name: f"mtp.{name}"
        for name in ("mtp_batch", "mtp_config", "mtp_generation", "mtp_statistics", "mtp_stopping", "mtp_trunk")
    }
    | {"hysparse.memory_command": "command"},
)
