"""What the OpenAPI document says is what happens, whatever is sent."""

import threading
import time

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.gateway import create_app
from serving.server import free_port

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance,
]  # fmt: skip


@pytest.fixture
def document(home, make_fleet):
    port = free_port("127.0.0.1")
    config = uvicorn.Config(create_app(home, make_fleet()), port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
    server.should_exit = True
    thread.join()


def test_nothing_answers_with_what_is_not_documented(document):
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) == 8
    for operation in operations:

        @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def send(case):
            case.call_and_validate(checks=CHECKS)

        send()


def test_a_client_can_be_generated(home, make_fleet):
    """What openapi-python-client and its like need in order to make classes and typed calls."""
    document = create_app(home, make_fleet()).openapi()
    operations = {
        operation["operationId"]: operation
        for path in document["paths"].values()
        for operation in path.values()
    }
    assert all(name.isidentifier() for name in operations)
    tags = {tag["name"] for tag in document["tags"]}
    for operation in operations.values():
        assert set(operation["tags"]) <= tags
        for status, response in operation["responses"].items():
            content = response["content"]
            assert content, (operation["operationId"], status)
            if status != "200":
                schema = content["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}
    taken = {
        name: operations[name]["requestBody"]["content"]["application/json"]["schema"]
        for name in ("recommend", "recommend_batch", "events")
    }
    assert taken == {
        "recommend": {"$ref": "#/components/schemas/Ask"},
        "recommend_batch": {"$ref": "#/components/schemas/Asks"},
        "events": {"$ref": "#/components/schemas/EventsIn"},
    }
    # A schema that is an object and a choice at once becomes no class.
    for name, schema in document["components"]["schemas"].items():
        assert not ({"anyOf", "oneOf", "allOf"} & schema.keys()), name
        for field in schema.get("properties", {}).values():
            assert not {"ge", "le"} & {word for one in field.get("anyOf", ()) for word in one}
