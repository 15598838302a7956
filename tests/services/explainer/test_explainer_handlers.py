"""Event in, event out: what is published, what is not, and stopping in the middle of a map."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from services.explainer.frame_explainer import SaliencyExplainer
from services.explainer.handlers import OnStudyDiagnosed, Progress, StoppingError
from services.explainer.settings import ExplainerSection, ExplainerSettings
from shared.errors import BrokerUnavailableError, ModelMismatchError
from shared.events import Decision
from shared.health import Health
from tests.services.explainer.conftest import with_explainer


class Outbox:
    """A publisher that keeps what it is given, once it works."""

    def __init__(self, *, failures: int = 0) -> None:
        self.failures, self.sent = failures, []

    async def publish(self, topic, event):
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailableError("no broker")
        self.sent.append((topic, event))


async def test_an_explained_finding_is_published(step, diagnosed):
    outbox = Outbox()

    await OnStudyDiagnosed(step, outbox)(diagnosed)

    ((topic, event),) = outbox.sent
    assert topic == "similis.study.explained.v1"
    assert event.maps[0].target_label == "glioma-like"
    assert event.key == b"1.2.3"


async def test_a_diagnosis_without_a_map_publishes_nothing(step, diagnosed):
    outbox = Outbox()

    await OnStudyDiagnosed(step, outbox)(diagnosed.model_copy(update={"decision": Decision.NO_FINDING}))

    assert outbox.sent == []


async def test_a_silent_broker_delays_the_same_event(step, diagnosed):
    outbox = Outbox(failures=1)
    handler = OnStudyDiagnosed(step, outbox)

    with pytest.raises(BrokerUnavailableError):
        await handler(diagnosed)
    await handler(diagnosed)
    await handler(diagnosed)

    assert len({event.model_dump_json() for _, event in outbox.sent}) == 1


async def test_a_permanent_error_reaches_the_delivery(step, diagnosed):
    outbox = Outbox()

    with pytest.raises(ModelMismatchError):
        await OnStudyDiagnosed(step, outbox)(diagnosed.model_copy(update={"head_id": "brain-mr@older"}))
    assert outbox.sent == []


def test_stop_ends_a_map_at_the_next_forward_pass_and_leaves_nothing(step, archive, backbone, diagnosed):
    progress = Progress(Health())
    passes = []

    def third_time_stops():
        passes.append(1)
        if len(passes) == 3:
            progress.stop()
        progress()

    explainer = SaliencyExplainer(backbone, ExplainerSection(delta=0.01), on_progress=third_time_stops)

    with pytest.raises(StoppingError):
        with_explainer(step, explainer)(diagnosed)
    assert len(passes) == 3
    assert not list(archive.list("explanations"))


def test_forward_passes_are_counted_and_keep_the_service_alive(step, backbone, diagnosed):
    clock = [0.0]
    health = Health(stuck_after_s=10, clock=lambda: clock[0])
    progress = Progress(health)

    def slow():
        clock[0] += 9
        progress()
        assert health.is_alive()

    before = REGISTRY.get_sample_value("similis_explainer_forward_passes_total")
    explainer = SaliencyExplainer(backbone, ExplainerSection(delta=0.01), on_progress=slow)

    with_explainer(step, explainer)(diagnosed)

    assert REGISTRY.get_sample_value("similis_explainer_forward_passes_total") >= before + 3
    clock[0] += 11
    assert not health.is_alive()


def test_settings_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("SIMILIS_EXPLAINER__DELTA", "0.05")
    monkeypatch.setenv("SIMILIS_VISION__THREADS", "1")

    settings = ExplainerSettings()

    assert settings.explainer.delta == 0.05
    assert settings.vision.threads == 1


@pytest.mark.parametrize(
    ("name", "value"), [("DELTA", "0"), ("FILL", "noise"), ("OVERLAY_SIZE_PX", "10"), ("DELAT", "1")]
)
def test_wrong_settings_are_refused(monkeypatch, name, value):
    monkeypatch.setenv(f"SIMILIS_EXPLAINER__{name}", value)

    with pytest.raises(ValueError, match=name.lower()):
        ExplainerSettings()
