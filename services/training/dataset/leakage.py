"""Leakage: what training saw and the test sees again. A head looks better than it is wherever this is let through.

    same patient     a patient in two splits
    same file        byte-identical objects of two splits
    same pixels      identical decoded frames, whatever their files
    near duplicate   the same picture re-encoded, resized, slightly cropped or brightened, turned or mirrored

Near duplicates are looked for on 32 x 32 thumbnails, by a perceptual hash (the signs of the lowest cosine
frequencies, Zauner 2010) that proposes, and by correlation and feature cosine that decide. What all images share,
such as the bright disc of every fundus, is taken out of the thumbnails first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from services.training.dataset.cases import DatasetError, SplitName
from services.training.features.case_features import CaseFeatures

LeakKind = Literal["same patient", "same file", "same pixels", "near duplicate"]

HASH_BITS: Final = 10  # of 63 may differ
# Thumbnails' correlation and features' cosine. Thumbnails that are the same may be brightened, which features mind;
# those that are merely alike may be cropped or turned a little, if the features agree.
SAME: Final = (0.96, 0.4)
ALIKE: Final = (0.92, 0.7)
LEAST_SHARE: Final = 0.25  # of the frames of the smaller case: one slice like another patient's is chance
_BLANK: Final = 0.01  # standard deviation of a thumbnail that shows nothing: air above a head is no duplicate
_CHUNK: Final = 1024
_NAMED: Final = 5  # leaks that an error names

Parts = Mapping[SplitName, Sequence[CaseFeatures]]
Keys = Callable[[CaseFeatures], Iterable[tuple[str, str]]]  # of a case: what must not occur twice, and where it is


@dataclass(frozen=True, slots=True)
class Leak:
    """Two cases of different splits that must not be.

    Attributes:
        first: Split, case and object.
        second: Likewise.
    """

    kind: LeakKind
    first: tuple[SplitName, CaseFeatures, str]
    second: tuple[SplitName, CaseFeatures, str]

    def __str__(self) -> str:
        return f"{self.kind}: {self.first[2]} ({self.first[0]}) and {self.second[2]} ({self.second[0]})"


@dataclass(frozen=True, slots=True, eq=False)
class _Frames:
    """All frames of one split, in one line.

    Attributes:
        case: (N,) index of each frame's case.
        grey: float32 (N, 32, 32).
        features: float32 (N, F), standardised, of L2 norm 1.
        shows: bool (N,) whether anything is to be seen.
        shared: float32 (32, 32), the mean of all splits' thumbnails.
    """

    cases: Sequence[CaseFeatures]
    case: NDArray[np.int64]
    names: tuple[str, ...]
    pixels: tuple[str, ...]
    grey: NDArray[np.float32]
    features: NDArray[np.float32]
    shows: NDArray[np.bool_]
    shared: NDArray[np.float32]


def find_leaks(parts: Parts) -> list[Leak]:
    """All leaks between the splits, at most one of a kind for two cases."""
    found: dict[tuple[LeakKind, str, str], Leak] = {}
    frames = _frames_of({name: cases for name, cases in parts.items() if cases})
    for one, other in combinations(frames, 2):
        for leak in (
            *_by_key("same patient", parts, one, other, lambda case: [(case.case.patient, case.names[0])]),
            *_by_key("same file", parts, one, other, lambda case: zip(case.object_hashes, case.names, strict=True)),
            *_same_pixels(frames, one, other),
            *_near_duplicates(frames, one, other),
        ):
            found.setdefault((leak.kind, leak.first[1].case.study, leak.second[1].case.study), leak)
    return list(found.values())


def refuse_leaks(leaks: Sequence[Leak]) -> None:
    """Raise unless there is no leak.

    Raises:
        DatasetError: says how many of which kind, and names the first few files.
    """
    if not leaks:
        return
    counts = Counter(leak.kind for leak in leaks)
    what = ", ".join(f"{count} x {kind}" for kind, count in counts.items())
    named = "; ".join(map(str, leaks[:_NAMED]))
    raise DatasetError(
        f"leakage between splits: {what}. {named}{'; ...' if len(leaks) > _NAMED else ''}. Give these patients one "
        "split, or use --drop-duplicates"
    )


def without_leaks(parts: Parts, leaks: Sequence[Leak]) -> tuple[dict[SplitName, list[CaseFeatures]], int]:
    """The parts once every group of leaking patients is in one split, the one that training reads first.

    Returns:
        The parts, and how many cases were moved.

    Raises:
        DatasetError: images that are the same have different labels.
    """
    contradicting = [
        leak for leak in leaks if leak.kind != "same patient" and leak.first[1].label != leak.second[1].label
    ]
    if contradicting:
        raise DatasetError(
            f"{len(contradicting)} pairs of the same image have different labels; the first: {contradicting[0]}"
        )
    parent: dict[str, str] = {}

    def root(patient: str) -> str:
        while parent.setdefault(patient, patient) != patient:
            patient = parent[patient]
        return patient

    for leak in leaks:
        parent[root(leak.first[1].case.patient)] = root(leak.second[1].case.patient)
    leaking = {leak_side[1].case.patient for leak in leaks for leak_side in (leak.first, leak.second)}
    order = list(parts)
    home: dict[str, SplitName] = {}
    for name in order:
        for case in parts[name]:
            if case.case.patient in leaking:
                home.setdefault(root(case.case.patient), name)
    moved = 0
    result: dict[SplitName, list[CaseFeatures]] = {name: [] for name in order}
    for name in order:
        for case in parts[name]:
            to = home[root(case.case.patient)] if case.case.patient in leaking else name
            moved += to != name
            result[to].append(case)
    return result, moved


def own_part(grey: NDArray[np.float32], shared: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of (N, H, W) images once their best mixture of `shared` (H, W) and a constant is taken out.

    So a brightened copy leaves the same, but for its size.
    """
    known = np.stack([np.ones(shared.size), shared.reshape(-1)])
    basis = np.linalg.svd(known, full_matrices=False)[2]
    flat = grey.reshape(len(grey), -1)
    own: NDArray[np.float32] = (flat - flat @ basis.T @ basis).astype(np.float32).reshape(grey.shape)
    return own


def perceptual_hashes(grey: NDArray[np.float32]) -> NDArray[np.uint64]:
    """(N,) 63-bit hashes of (N, 32, 32) thumbnails: whether each low frequency lies above their median."""
    low = dctn(np.asarray(grey, np.float64), axes=(1, 2), norm="ortho")[:, :8, :8].reshape(len(grey), 64)[:, 1:]
    bits = low > np.median(low, axis=1, keepdims=True)
    weights = np.left_shift(np.uint64(1), np.arange(63, dtype=np.uint64))
    return np.asarray((bits * weights).sum(axis=1, dtype=np.uint64))


def turned(grey: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """(N, H, W) images as they are, then in the seven other ways that a square can be turned and mirrored."""
    for mirrored in (grey, grey[:, :, ::-1]):
        for quarter in range(4):
            yield np.rot90(mirrored, quarter, axes=(1, 2))


def _by_key(kind: LeakKind, parts: Parts, one: SplitName, other: SplitName, keys: Keys) -> Iterator[Leak]:
    by_key: dict[str, tuple[CaseFeatures, str]] = {}
    for case in parts[one]:
        for key, name in keys(case):
            by_key.setdefault(key, (case, name))
    for case in parts[other]:
        for key, name in keys(case):
            if key in by_key:
                yield Leak(kind, (one, *by_key[key]), (other, case, name))


def _same_pixels(frames: Mapping[SplitName, _Frames], one: SplitName, other: SplitName) -> Iterator[Leak]:
    left, right = frames[one], frames[other]
    at: dict[str, list[int]] = defaultdict(list)
    for index in np.flatnonzero(left.shows):
        at[left.pixels[index]].append(int(index))
    for index in np.flatnonzero(right.shows):
        for match in at.get(right.pixels[index], ()):
            yield _leak("same pixels", frames, (one, match), (other, int(index)))


def _near_duplicates(frames: Mapping[SplitName, _Frames], one: SplitName, other: SplitName) -> Iterator[Leak]:
    left, right = frames[one], frames[other]
    alike: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for first, second in _alike_frames(left, right):
        alike[int(left.case[first]), int(right.case[second])].append((first, second))
    for (first_case, second_case), pairs in alike.items():
        fewest = min(len(left.cases[first_case].joined), len(right.cases[second_case].joined))
        distinct = min(len({pair[side] for pair in pairs}) for side in (0, 1))
        if distinct >= LEAST_SHARE * fewest:
            yield _leak("near duplicate", frames, (one, pairs[0][0]), (other, pairs[0][1]))


def _alike_frames(left: _Frames, right: _Frames) -> Iterator[tuple[int, int]]:
    """Indices of frames that are the same picture, or nearly so."""
    right_own = own_part(right.grey, left.shared)
    right_hashes, right_flat = perceptual_hashes(right_own), _flat(right_own)
    for turn, grey in enumerate(turned(left.grey)):
        own = own_part(grey, left.shared)
        hashes, flat = perceptual_hashes(own), _flat(own)
        for start in range(0, len(hashes), _CHUNK):
            differing = np.bitwise_count(hashes[start : start + _CHUNK, None] ^ right_hashes)
            for row, column in np.argwhere(differing <= HASH_BITS):
                index = start + int(row)
                if not (left.shows[index] and right.shows[column]):
                    continue
                correlation = float(flat[index] @ right_flat[column])
                # Features know a turned picture from the upright one, so that they can only judge the latter.
                cosine = 1.0 if turn else float(left.features[index] @ right.features[column])
                alike = not turn and correlation >= ALIKE[0] and cosine >= ALIKE[1]
                if alike or (correlation >= SAME[0] and cosine >= SAME[1]):
                    yield index, int(column)


def _frames_of(parts: Parts) -> dict[SplitName, _Frames]:
    everything = np.concatenate([case.joined for cases in parts.values() for case in cases])
    mean, scale = everything.mean(axis=0), np.maximum(everything.std(axis=0), 1e-6)
    shared = np.concatenate([case.thumbnails.mean(axis=-1) for cases in parts.values() for case in cases]).mean(axis=0)
    frames = {}
    for name, cases in parts.items():
        grey = np.concatenate([case.thumbnails.mean(axis=-1) for case in cases])
        features = (np.concatenate([case.joined for case in cases]) - mean) / scale
        frames[name] = _Frames(
            cases=cases,
            case=np.repeat(np.arange(len(cases)), [len(case.joined) for case in cases]),
            names=tuple(object_name for case in cases for object_name in case.names),
            pixels=tuple(pixels for case in cases for pixels in case.pixel_hashes),
            grey=grey,
            features=features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6),
            shows=grey.std(axis=(1, 2)) > _BLANK,
            shared=shared,
        )
    return frames


def _leak(
    kind: LeakKind, frames: Mapping[SplitName, _Frames], first: tuple[SplitName, int], second: tuple[SplitName, int]
) -> Leak:
    sides = []
    for name, index in (first, second):
        part = frames[name]
        sides.append((name, part.cases[part.case[index]], part.names[index]))
    return Leak(kind, sides[0], sides[1])


def _flat(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 1024) thumbnails of mean 0 and L2 norm 1: their products are correlations."""
    flat = grey.reshape(len(grey), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    normalised: NDArray[np.float32] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return normalised
