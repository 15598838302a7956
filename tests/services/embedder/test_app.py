"""The process around the step."""

from __future__ import annotations

import numpy as np
import pytest
from embedder_studies import archive_study, made_up_task, slices

from services.embedder import app
from services.embedder.embed_study import EmbedStudy
from services.embedder.handlers import Progress
from services.embedder.settings import EmbedderSettings
from shared.archive import LocalArchive
from shared.errors import ConfigurationError
from shared.events import Decision
from shared.health import Health
from shared.pixels import PixelLimits
from shared.settings import QdrantSettings, VisionSettings
from shared.vector_index.memory import MemoryIndex


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SIMILIS_EMBEDDER__UPSERT_POINTS", "0", "upsert_points"),
        ("SIMILIS_EMBEDDER__MISSPELLED", "1", "misspelled"),
        ("SIMILIS_ARCHIVE__URL", "ftp://nowhere", "SIMILIS_ARCHIVE__URL"),
    ],
)
def test_a_wrong_setting_ends_the_process_with_2_and_a_message(monkeypatch, capsys, name, value, message):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(app, "configure_logging", lambda *_, **__: None)
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_without_a_vector_engine_the_step_is_not_built(tmp_path):
    settings = EmbedderSettings(qdrant=QdrantSettings(), vision=VisionSettings(device="cpu"))
    with pytest.raises(ConfigurationError, match="SIMILIS_QDRANT"):
        app.build_step(settings, LocalArchive(tmp_path), Progress(Health()))


def test_a_study_goes_through_the_real_backbone_from_a_local_archive(tmp_path, real_backbone):
    backbone = real_backbone
    archive, index = LocalArchive(tmp_path), MemoryIndex(backbone.dim)
    step = EmbedStudy(archive, backbone, (made_up_task(backbone.id, backbone.dim),), index, PixelLimits())
    received = archive_study(archive, slices(5))
    (event,) = step(received)
    assert event.decision is Decision.FINDING
    assert event.backbone_id == backbone.id
    stored = index.scroll(limit=10)
    assert len(stored) == 5
    np.testing.assert_allclose([np.linalg.norm(point.vector) for point in stored], 1, atol=1e-5)
    hit = index.search(stored[0].vector, limit=1)[0]
    assert hit.id == stored[0].id
    assert step(received) == (event,)
