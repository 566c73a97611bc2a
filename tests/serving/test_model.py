"""What the served model makes of ids, before any server stands around it."""

import pytest
from mlflow.exceptions import MlflowException

from serving.model import _user_id


@pytest.mark.parametrize(("given", "meant"), [("42", "42"), (42, "42"), (42.0, "42"), ("a", "a")])
def test_an_id_is_the_same_user_as_text_and_as_a_number(given, meant):
    assert _user_id(given) == meant


@pytest.mark.parametrize("given", [None, float("nan"), float("inf"), 1.5, True, ["a"]])
def test_what_names_no_user_is_refused(given):
    with pytest.raises(MlflowException, match="a text or a whole number is needed"):
        _user_id(given)
