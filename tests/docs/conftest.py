"""The pages of the documentation, and the script that writes some of them."""

import importlib.util
import socket
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def generate():
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", REPOSITORY / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def documented_port():
    """Free, or what runs the pages' commands as they stand is left out."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 5055)) == 0:
            pytest.skip("something listens on port 5055")
