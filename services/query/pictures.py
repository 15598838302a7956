"""Frames and saliency maps as PNG, rendered on demand and kept in a bounded memory."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from services.query import metrics
from shared.archive import Archive
from shared.errors import ArchiveObjectCorruptError
from shared.events import ExplanationMap
from shared.manifest import InstanceEntry
from shared.pixels.frame import Frame
from shared.pixels.frame_reader import FrameReader

# One hue over grey, read by its strength, so by every kind of colour vision; dark enough for bright tissue.
WEAK_RGB: Final = (226, 74, 0)
STRONG_RGB: Final = (255, 138, 24)


class GridBox(BaseModel):
    """Where the frame lies on the map's grid, in its pixels."""

    top: NonNegativeInt
    left: NonNegativeInt
    height: PositiveInt
    width: PositiveInt


class ColourScale(BaseModel):
    """Ends of the colour scale, in units of the target's probability."""

    low: FiniteFloat
    high: FiniteFloat


class MapRecord(BaseModel):
    """What a layer needs of the record beside each map."""

    letterbox: GridBox
    overlay_scale: ColourScale


@dataclass(slots=True)
class PictureCache:
    """The last pictures used, up to so many bytes. Safe from several threads."""

    max_bytes: int
    _held: OrderedDict[tuple[object, ...], bytes] = field(default_factory=OrderedDict)
    _size: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: tuple[object, ...], render: Callable[[], bytes]) -> bytes:
        """The picture of `key`, rendered if it is not held. Two at once may both render."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
        if found is not None:
            metrics.PICTURES.labels("memory").inc()
            return found
        picture = render()
        metrics.PICTURES.labels("rendered").inc()
        with self._lock:
            self._size += len(picture) - len(self._held.pop(key, b""))
            self._held[key] = picture
            while self._size > self.max_bytes and self._held:
                self._size -= len(self._held.popitem(last=False)[1])
            metrics.PICTURE_CACHE_BYTES.set(self._size)
        return picture


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures of what the archive holds. All methods may block."""

    archive: Archive
    cache: PictureCache
    reader: FrameReader
    max_px: int

    def frame(self, instance: InstanceEntry, frame_number: int, size_px: int | None) -> bytes:
        """A frame in its own window as 8-bit PNG with square pixels, its longest side at most `size_px`.

        Raises:
            ArchiveObjectMissingError, NotAnImageError, UndecodablePixelsError: there is no such picture.
            ArchiveObjectCorruptError: the bytes are not those that were received.
        """
        longest = min(size_px or self.max_px, self.max_px)
        key = ("frame", instance.archive_key, instance.sha256, frame_number, longest)
        return self.cache.get(key, lambda: encode_png(self._decode(instance, frame_number), longest))

    def map_layer(self, saliency: ExplanationMap, event_id: str) -> bytes:
        """The map alone, transparent, as large as the frame's content in the model's input.

        The letterbox is undone, so the layer covers the whole frame when it is stretched over it. The scale
        is that of the archived overlay: a map that hardly varies stays pale.

        Raises:
            ArchiveObjectMissingError, ArchiveObjectCorruptError: the map, or its record, cannot be read.
        """
        return self.cache.get(("map", saliency.map_key, event_id), lambda: self._layer(saliency))

    def _decode(self, instance: InstanceEntry, frame_number: int) -> Frame:
        data = self.archive.get(instance.archive_key)
        return self.reader.read(data, [frame_number], key=instance.archive_key, sha256=instance.sha256)[0]

    def _layer(self, saliency: ExplanationMap) -> bytes:
        values = _load_map(self.archive.get(saliency.map_key))
        try:
            record = MapRecord.model_validate_json(self.archive.get(saliency.record_key))
        except ValidationError as error:
            raise ArchiveObjectCorruptError("the map's record lacks its place or its scale") from error
        box, scale = record.letterbox, record.overlay_scale
        content = values[box.top : box.top + box.height, box.left : box.left + box.width]
        if not content.size:
            raise ArchiveObjectCorruptError("the map's record places the frame outside of the map")
        # N times the map is the mean score of the masks that let a pixel through: a probability.
        strength = (content * saliency.mask_count - scale.low) / max(scale.high - scale.low, 1e-9)
        return _png(Image.fromarray(map_colours(strength), "RGBA"))


def encode_png(frame: Frame, longest_px: int) -> bytes:
    """A frame as 8-bit PNG with square pixels; it is made smaller, never larger."""
    image = Image.fromarray((np.clip(frame.pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    width, height = float(image.width), image.height * frame.pixel_aspect
    scale = min(1.0, longest_px / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return _png(image if size == image.size else image.resize(size, Image.Resampling.LANCZOS))


def map_colours(strength: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Strength (H, W) from 0 to 1 as RGBA (H, W, 4): the stronger, the lighter and, by its square, the more opaque.

    As in the archived overlay: what stands out shows, what is common stays anatomy.
    """
    clipped = np.clip(strength, 0.0, 1.0)[..., None]
    hue = (1 - clipped) * np.array(WEAK_RGB) + clipped * np.array(STRONG_RGB)
    colours: NDArray[np.uint8] = np.concatenate([hue, 255 * clipped**2], axis=2).round().astype(np.uint8)
    return colours


def _load_map(data: bytes) -> NDArray[np.float32]:
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArchiveObjectCorruptError("the archived map cannot be read") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not np.isfinite(values).all():
        raise ArchiveObjectCorruptError("the archived map is not a finite (H, W) array")
    return values.astype(np.float32)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
