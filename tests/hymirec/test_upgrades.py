"""A home of an earlier release opens; one of a later release is refused with what to do."""

import json

import pytest

from hymirec import __version__, upgrades
from hymirec.errors import UsageError
from hymirec.home import LAYOUT, Home
from hymirec.upgrades import bring_up_to_date


def old_home(path):
    """A home as 0.1.0 leaves it: state, and no word about its layout."""
    (path / "mlflow").mkdir(parents=True)
    (path / "mlflow" / "mlflow.db").write_bytes(b"state")
    return Home.at(path)


def layout_of(home):
    return json.loads(home.layout_file.read_text())["layout"]


def test_every_layout_has_a_way_to_the_next():
    assert len(upgrades.MIGRATIONS) == LAYOUT


def test_a_new_home_is_of_this_release(tmp_path):
    home = Home.at(tmp_path / "home").create()
    assert json.loads(home.layout_file.read_text()) == {"layout": LAYOUT, "hymirec": __version__}
    bring_up_to_date(home)


def test_a_home_that_is_not_there_is_not_made(tmp_path):
    home = Home.at(tmp_path / "home")
    bring_up_to_date(home)
    assert not home.root.exists()


def test_a_home_of_0_1_0_opens_with_all_it_has(tmp_path):
    home = old_home(tmp_path)
    # A command may well create its rooms first: that must not pass it off as a new one.
    home.create()
    assert not home.layout_file.exists()
    bring_up_to_date(home)
    assert layout_of(home) == LAYOUT
    assert (home.mlflow / "mlflow.db").read_bytes() == b"state"


def test_migrations_run_once_each_in_order_and_go_on_where_they_were_interrupted(
    tmp_path, monkeypatch
):
    home = old_home(tmp_path)
    calls = []

    def interrupted(home):
        calls.append("interrupted")
        if calls.count("interrupted") == 1:
            raise KeyboardInterrupt

    steps = [lambda home: calls.append("first"), interrupted, lambda home: calls.append("last")]
    monkeypatch.setattr(upgrades, "MIGRATIONS", steps)
    with pytest.raises(KeyboardInterrupt):
        bring_up_to_date(home)
    assert layout_of(home) == 1
    bring_up_to_date(home)
    bring_up_to_date(home)
    assert calls == ["first", "interrupted", "interrupted", "last"]
    assert layout_of(home) == 3


def test_a_home_of_a_later_release_is_refused_and_left_alone(tmp_path):
    home = old_home(tmp_path)
    text = json.dumps({"layout": LAYOUT + 1, "hymirec": "9.0.0"})
    home.layout_file.write_text(text)
    with pytest.raises(UsageError, match=r"made by hymirec 9\.0\.0.*install hymirec 9\.0\.0"):
        bring_up_to_date(home)
    assert home.layout_file.read_text() == text


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"layout": 1}', '{"layout": "1", "hymirec": "0.2.0"}',
             '{"layout": -1, "hymirec": "0.2.0"}', '{"layout": true, "hymirec": "0.2.0"}']
)  # fmt: skip
def test_a_damaged_note_is_named_with_what_it_should_say(tmp_path, text):
    home = old_home(tmp_path)
    home.layout_file.write_text(text)
    with pytest.raises(UsageError, match=r"home\.json is damaged"):
        bring_up_to_date(home)


def test_the_command_line_refuses_a_later_home(tmp_path):
    from hymirec.commands.options import configured

    home = old_home(tmp_path)
    home.layout_file.write_text(json.dumps({"layout": LAYOUT + 1, "hymirec": "9.0.0"}))
    with pytest.raises(UsageError, match="has layout"):
        configured(home.root)
