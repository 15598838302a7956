"""Layouts of public data sets that people hold, turned into labelled images. Nothing is downloaded.

    for path, label, patient, split in read_layout("c-nmc", folder): ...

Labels are the data set's own, in plain words; `docs/data.md` has each layout, its terms and a task definition.
What a layout keeps as BMP, TIFF or arrays is written once as PNG below `FOLDER/similis-png`, without loss.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from services.training.dataset.cases import DatasetError

PNG_FOLDER: Final = "similis-png"


class LabelledPath(NamedTuple):
    """One image of a data set.

    Attributes:
        path: Below the data folder.
        label: Its class.
        patient: "" where the data set does not say.
        split: "training", "calibration", "test", or "" where the data set does not say.
    """

    path: Path
    label: str
    patient: str
    split: str


def read_layout(name: str, folder: Path) -> Iterator[LabelledPath]:
    """The labelled images of a data set, in a fixed order.

    Args:
        name: One of `LAYOUTS`.
        folder: Where it was unpacked.

    Raises:
        DatasetError: there is no such layout, or the folder does not have it.
    """
    if name not in LAYOUTS:
        raise DatasetError(f"no layout {name!r}: there are {', '.join(LAYOUTS)}")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    empty = True
    for image in LAYOUTS[name](folder):
        empty = False
        yield image
    if empty:
        raise DatasetError(f"{folder} holds no image where the layout {name} has them: see docs/data.md")


def _brain_tumor_mri(folder: Path) -> Iterator[LabelledPath]:
    """Kaggle, Brain Tumor MRI Dataset: {Training,Testing}/{glioma,meningioma,notumor,pituitary}/*.jpg; no patients."""
    labels = {"glioma": "glioma", "meningioma": "meningioma", "notumor": "normal", "pituitary": "pituitary"}
    for part, split in (("Training", "training"), ("Testing", "test")):
        for inner, label in labels.items():
            for path in _pictures(folder / part / inner):
                yield LabelledPath(path, label, "", split)


_CNMC_NAME: Final = re.compile(r"^UID_(H?\d+)_\d+_\d+_(all|hem)$")


def _c_nmc(folder: Path) -> Iterator[LabelledPath]:
    """C-NMC 2019: training folds by class with the patient in the name; the preliminary test set by a CSV."""
    table = next(iter(sorted(folder.rglob("C-NMC_test_prelim_phase_data_labels.csv"))), None)
    training = sorted(folder.rglob("fold_[0-9]/*/*.bmp"))
    for path in training:
        matched = _CNMC_NAME.match(path.stem)
        if matched is None or matched[2] != path.parent.name:
            raise DatasetError(f"{path.relative_to(folder).parent}: a name is not of the form UID_P_N_M_(all|hem).bmp")
        label = {"all": "blast", "hem": "normal"}[matched[2]]
        yield LabelledPath(_as_png(folder, path), label, matched[1], "training" if table else "")
    if table is None:
        return
    by_name = {path.name: path for path in table.parent.rglob("*.bmp") if "fold_" not in str(path.parent)}
    for row in _rows(table, ("Patient_ID", "new_names", "labels")):
        picture = by_name.get(row["new_names"])
        matched = _CNMC_NAME.match(Path(row["Patient_ID"]).stem)
        if picture is None or matched is None or row["labels"] not in ("0", "1"):
            raise DatasetError(f"{table.name}: a row names no picture, no patient or no label")
        label = "blast" if row["labels"] == "1" else "normal"
        yield LabelledPath(_as_png(folder, picture), label, matched[1], "test")


def _all_idb(folder: Path) -> Iterator[LabelledPath]:
    """ALL-IDB 1 or 2: im/ or img/ with names that end in _1 (blasts) or _0 (healthy); no patients."""
    for path in sorted([*folder.rglob("Im*_[01].jpg"), *folder.rglob("Im*_[01].tif")]):
        if PNG_FOLDER in path.parts:
            continue
        label = "blast" if path.stem.endswith("_1") else "normal"
        yield LabelledPath(path if path.suffix == ".jpg" else _as_png(folder, path), label, "", "")


_ODIR: Final = {
    "N": "normal", "D": "diabetic-retinopathy", "G": "glaucoma", "C": "cataract", "A": "macular-degeneration",
    "H": "hypertension", "M": "myopia", "O": "other",
}  # fmt: skip


def _odir_5k(folder: Path) -> Iterator[LabelledPath]:
    """Kaggle, ODIR-5K: full_df.csv names each eye's picture, patient and class."""
    table = next(iter(sorted(folder.rglob("full_df.csv"))), None)
    if table is None:
        raise DatasetError(f"{folder}: full_df.csv is missing")
    by_name: dict[str, Path] = {}
    # The preprocessed pictures are the ones that the rows are about; the originals serve where there are none.
    for path in sorted(_pictures(folder, deep=True), key=lambda path: "preprocessed" in str(path)):
        by_name[path.name] = path
    for row in _rows(table, ("ID", "labels", "filename")):
        codes = re.findall(r"[NDGCAHMO]", row["labels"])
        if len(codes) != 1:
            raise DatasetError(f"{table.name}: a row has {len(codes)} classes, not one")
        if row["filename"] in by_name:  # some pictures of the list were withdrawn
            yield LabelledPath(by_name[row["filename"]], _ODIR[codes[0]], row["ID"], "")


def _eye_diseases(folder: Path) -> Iterator[LabelledPath]:
    """Kaggle, Eye Diseases Classification: a folder a class; a patient where the name is N_left or N_right."""
    labels = {
        "normal": "normal",
        "diabetic_retinopathy": "diabetic-retinopathy",
        "glaucoma": "glaucoma",
        "cataract": "cataract",
    }
    top = folder / "dataset" if (folder / "dataset").is_dir() else folder
    for inner, label in labels.items():
        for path in _pictures(top / inner):
            matched = re.match(r"^(\d+)_(?:left|right)$", path.stem)
            yield LabelledPath(path, label, f"odir-{matched[1]}" if matched else "", "")


_MEDMNIST: Final[dict[str, tuple[str, ...]]] = {
    "bloodmnist": (
        "basophil", "eosinophil", "erythroblast", "immature-granulocyte", "lymphocyte", "monocyte", "neutrophil",
        "platelet",
    ),
    "retinamnist": ("grade-0", "grade-1", "grade-2", "grade-3", "grade-4"),
    "breastmnist": ("malignant", "normal-or-benign"),
    "pneumoniamnist": ("normal", "pneumonia"),
}  # fmt: skip
_MEDMNIST_SPLITS: Final = {"train": "training", "val": "calibration", "test": "test"}


def _medmnist(folder: Path) -> Iterator[LabelledPath]:
    """MedMNIST+: one NAME.npz or NAME_SIZE.npz of flat images with one class each; no patients."""
    archives = sorted(folder.glob("*.npz"))
    if len(archives) != 1:
        raise DatasetError(f"{folder} must hold one MedMNIST file, it holds {len(archives)}")
    name = archives[0].stem.split("_")[0]
    with np.load(archives[0], allow_pickle=False) as arrays:
        for part, split in _MEDMNIST_SPLITS.items():
            try:
                images, classes = arrays[f"{part}_images"], arrays[f"{part}_labels"]
            except (KeyError, ValueError) as error:
                raise DatasetError(f"{archives[0].name} lacks the images or labels of {part}") from error
            flat = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
            if not flat or images.dtype != np.uint8 or classes.shape != (len(images), 1):
                raise DatasetError(f"{archives[0].name}: only flat 8-bit images with one class each can be read")
            for number, (image, value) in enumerate(zip(images, classes[:, 0], strict=True)):
                names = _MEDMNIST.get(name)
                label = names[int(value)] if names and int(value) < len(names) else f"class-{int(value)}"
                path = folder / PNG_FOLDER / archives[0].stem / part / f"{number:06d}.png"
                if not path.exists():
                    _save(Image.fromarray(image), path)
                yield LabelledPath(path, label, "", split)


def _lidc_idri(folder: Path) -> Iterator[LabelledPath]:
    """TCIA, LIDC-IDRI: series of CT slices with the readers' XML beside them."""
    from services.training.dataset.lidc_layout import lidc_slices

    for path, label, patient in lidc_slices(folder):
        yield LabelledPath(path, label, patient, "")


LAYOUTS: Final[dict[str, Callable[[Path], Iterator[LabelledPath]]]] = {
    "brain-tumor-mri": _brain_tumor_mri,
    "lidc-idri": _lidc_idri,
    "c-nmc": _c_nmc,
    "all-idb": _all_idb,
    "odir-5k": _odir_5k,
    "eye-diseases": _eye_diseases,
    "medmnist": _medmnist,
}
"""Readers by name."""


def _pictures(folder: Path, *, deep: bool = False) -> list[Path]:
    found = folder.rglob("*") if deep else folder.glob("*")
    return sorted(
        path for path in found if path.suffix.lower() in (".jpg", ".jpeg", ".png") and PNG_FOLDER not in path.parts
    )


def _as_png(folder: Path, path: Path) -> Path:
    """The picture as a PNG below `FOLDER/similis-png`, made where it is missing."""
    target = (folder / PNG_FOLDER / path.relative_to(folder)).with_suffix(".png")
    if not target.exists():
        try:
            with Image.open(path) as image:
                _save(image, target)
        except OSError as error:
            raise DatasetError(f"{path.relative_to(folder)} is no picture: {error}") from error
    return target


def _save(image: Image.Image, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    image.save(partial, format="PNG")
    partial.replace(target)


def _rows(table: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file, which must have `columns`."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := set(columns) - set(reader.fieldnames or ()):
                raise DatasetError(f"{table.name} lacks the columns {', '.join(sorted(missing))}")
            for row in reader:
                yield {name: (row[name] or "").strip() for name in columns}
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table.name} is no readable CSV file") from error
