"""Where keys are asked for, whoever has none gets 401, whatever the request holds."""

from __future__ import annotations

from hypothesis import given, seed
from hypothesis import strategies as st

from tests.fuzz.query import hostile, uploads, wire
from tests.fuzz.query.document import Api, setting_of
from tests.fuzz.query.running import Service
from tests.fuzz.scale import SEED, share_of_query

FORGED = (
    "Bearer",
    "Bearer x",
    "Basic Og==",
    "similis_0123456789ab_x",
    "Bearer similis_0123456789ab_" + "A" * 43,
    "\u00e9" * 50,
)


@seed(SEED)
@setting_of(share_of_query(0.1))
@given(st.data())
def test_without_a_key_nothing_is_let_in(closed_service: Service, api: Api, canary: str, data: st.DataObject):
    kind = data.draw(st.integers(0, 2))
    if kind == 0:
        request, whole = data.draw(uploads.requests())
    else:
        routes = [route for route in api.json_routes(closed_service) if "session" not in route[1]]
        method, target = data.draw(st.sampled_from(routes))
        if kind == 1:
            target = data.draw(
                hostile.targets(
                    [path for path in api.paths if "session" not in path], api.queries, closed_service.known, canary
                )
            )
            method = data.draw(st.sampled_from(hostile.METHODS))
        headers = [("Authorization", data.draw(st.sampled_from(FORGED)))] if data.draw(st.booleans()) else []
        request = wire.with_body(method, target, headers, data.draw(hostile.bodies(api.examples)))
        whole = True
    answer = wire.ask(closed_service, request, whole=whole)
    if answer is not None and request.split(b" ")[1].startswith(b"/v1/"):
        assert answer.status == 401 or answer.body == b"Invalid HTTP request received.", (request[:300], answer)
