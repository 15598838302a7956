"""The card's words: notice, intended use and limits, from what is known of the training."""

from __future__ import annotations

from typing import Final

_FEW_CASES: Final = 100


def notice_of(kind: str) -> str:
    """What stands above everything."""
    if kind == "phantom":
        return "Phantom results. Research use only. Never seen by this head: a real patient."
    return "Research use only. Not a medical device; not validated for any clinical decision."


def intended_use(kind: str, task: str) -> str:
    """What the head is for, and what not."""
    if kind == "phantom":
        return (
            "To show and to test Similis end to end without patient data, and as the pattern for a task trained on "
            "real, labelled studies. It is no diagnostic device and knows phantoms only."
        )
    return (
        f"Research on {task} with images like those that it was trained on. It is no diagnostic device: no decision "
        "about a patient may rest on it."
    )


def limits_of(
    kind: str,
    *,
    patients_known: bool,
    moved: int,
    test_cases: int,
    frames_labelled: bool,
    is_reached: bool,
    is_calibrated: bool = True,
) -> tuple[str, ...]:
    """What a reader must know before trusting the figures."""
    limits = []
    if kind == "phantom":
        limits += [
            "Trained and measured on simulated images: the figures say nothing about real ones.",
            "The classes are caricatures with one look each, and equally frequent; real prevalence differs.",
        ]
    else:
        limits.append(
            "Measured on patients from the same origin as training's: expect less elsewhere, and measure there first."
        )
        limits.append("The classes' frequencies are those of the training data; real prevalence differs.")
    if not patients_known:
        limits.append(
            "Patients are not known: images of one patient may be in several splits, unless they look alike. The "
            "figures may flatter."
        )
    if moved:
        limits.append(f"{moved} cases were moved between splits, since they leaked; the split is not as given.")
    if test_cases < _FEW_CASES:
        limits.append(f"Only {test_cases} test cases: read the intervals, not the figures.")
    if not is_reached:
        limits.append("No limit reached what was aimed at: half of the studies are left to a person.")
    if not is_calibrated:
        limits.append(
            "The calibration ended at a limit of what it may choose, or did not settle: the scores hardly tell the "
            "classes apart, or are of another scale. Do not read confidences as probabilities."
        )
    if not frames_labelled:
        limits.append("Only studies were labelled, not their frames: which frames show a finding was inferred.")
    return (
        *limits,
        "Frames are judged one at a time and pooled by a fixed rule: a lesion's extent across slices is not used.",
        "Near duplicates are looked for by thumbnails and features: an image that was cut by half or warped passes.",
        "Training again gives an equivalent head, not the same bits: rounding differs with threads and processors.",
    )
