"""Where the tests of logs keep them."""

import pytest


@pytest.fixture(params=["file", "postgresql"])
def place(request, monkeypatch):
    """Where the log is: in a file of the home, or on a PostgreSQL server."""
    if request.param == "postgresql":
        address = request.getfixturevalue("postgresql_database")
        monkeypatch.setenv("HYMIREC_EVENT_LOG", address)
