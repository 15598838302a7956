from __future__ import annotations

from pathlib import Path

import pytest

from services.training.phantoms.anatomy import Anatomy, icbm152
from services.training.phantoms.brain_dicom import PhantomStudy, write_phantoms


@pytest.fixture(scope="session")
def anatomy() -> Anatomy:
    return icbm152()


@pytest.fixture(scope="session")
def written(anatomy: Anatomy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PhantomStudy]]:
    out = tmp_path_factory.mktemp("phantoms")
    return out, write_phantoms(out, studies=4, seed=3, contrast=4.0, anatomy=anatomy)
