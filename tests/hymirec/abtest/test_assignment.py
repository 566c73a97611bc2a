import subprocess
import sys

import pytest

from hymirec.abtest.assignment import PLACES, Split, assign, place, ranges

USERS = [f"user-{number}" for number in range(20_000)]

# tests/cases.json of github.com/growthbook/growthbook-python (commit c444b7d), "hash", version 2.
PUBLISHED_PLACES = [
    ("seed", "a", 0.0505),
    ("seed", "b", 0.2696),
    ("foo", "ab", 0.2575),
    ("foo", "def", 0.2019),
    ("89123klj", "8952klfjas09ujkasdf", 0.124),
    ("90850943850283058242805", "123", 0.7516),
    ("()**(%$##$%#$#", '___)((*":&', 0.0128),
]
# The same file, "getBucketRange".
PUBLISHED_RANGES = [
    ([0.5, 0.5], 1, [(0, 0.5), (0.5, 1)]),
    ([0.5, 0.5], 0.5, [(0, 0.25), (0.5, 0.75)]),
    ([0.5, 0.5], 0, [(0, 0), (0.5, 0.5)]),
    ([0.4, 0.6], 1, [(0, 0.4), (0.4, 1)]),
    ([0.2, 0.3, 0.5], 1, [(0, 0.2), (0.2, 0.5), (0.5, 1)]),
    ([0.2, 0.3, 0.5], 0.2, [(0, 0.04), (0.2, 0.26), (0.5, 0.6)]),
]


def a_split(name="one", share=1.0, **changes):
    values = {
        "layer": "ranking", "slice": (0.0, 1.0), "variants": ("control", "new"),
        "weights": (0.5, 0.5), "share": share,
    }  # fmt: skip
    return Split(name=name, salt=f"experiment:{name}:", **(values | changes))


def variants_of(split, users=USERS):
    found = {user: split.assign(user) for user in users}
    return {user: one.variant for user, one in found.items() if one is not None}


@pytest.mark.parametrize(("salt", "user", "expected"), PUBLISHED_PLACES)
def test_places_are_the_published_ones(salt, user, expected):
    assert place(user, salt) == expected


@pytest.mark.parametrize(("weights", "share", "expected"), PUBLISHED_RANGES)
def test_ranges_are_the_published_ones(weights, share, expected):
    assert ranges(weights, share) == [pytest.approx(one, abs=1e-12) for one in expected]


def test_an_id_beyond_ascii_has_a_place_by_its_utf_16_units():
    # fnv1a32 of growthbook 4.0.0 (PyPI), which follows the SDK in JavaScript.
    assert place("Zoë-😀", "seed") == 0.6195


def test_another_process_puts_everyone_in_the_same_place():
    program = (
        "from hymirec.abtest.assignment import place; "
        "print([place(f'user-{n}', 'experiment:one:') for n in range(200)])"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)},
    ).stdout  # fmt: skip
    assert said.strip() == str([place(user, "experiment:one:") for user in USERS[:200]])


def test_places_of_a_month_ago_are_those_of_today():
    # As this was first released (growthbook 4.0.0 says the same); they must never change.
    golden = [0.3663, 0.1317, 0.961, 0.0527, 0.0127]
    assert [place(user, "experiment:one:") for user in USERS[:5]] == golden


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.1, 0.9), (0.2, 0.3, 0.5), (1 / 3,) * 3])
def test_a_ramp_brings_users_in_and_moves_nobody(weights):
    names = tuple("abc"[: len(weights)])
    before: dict[str, str] = {}
    for share in (0.01, 0.02, 0.1, 0.25, 0.333, 0.5, 0.77, 0.99, 1.0):
        now = variants_of(a_split(share=share, weights=weights, variants=names), USERS[:4000])
        assert before.items() <= now.items()
        before = now
    assert len(before) == 4000


def test_shares_and_weights_are_kept():
    found = variants_of(a_split(share=0.2, weights=(0.25, 0.75)))
    control = sum(variant == "control" for variant in found.values())
    assert len(found) == pytest.approx(0.2 * len(USERS), rel=0.05)
    assert control == pytest.approx(0.05 * len(USERS), rel=0.1)


def test_two_experiments_split_users_independently():
    one, two = (variants_of(a_split(name)) for name in ("one", "two"))
    both = sum(one[user] == "new" and two[user] == "new" for user in USERS)
    assert both == pytest.approx(len(USERS) / 4, rel=0.05)


def test_experiments_of_one_layer_never_share_a_user_and_leave_nobody_out():
    left = variants_of(a_split("one", slice=(0.0, 0.3)))
    right = variants_of(a_split("two", slice=(0.3, 1.0)))
    assert not left.keys() & right.keys()
    assert left.keys() | right.keys() == set(USERS)
    assert len(left) == pytest.approx(0.3 * len(USERS), rel=0.05)
    # Within a slice the variants are as likely as outside it: the two hashes are independent.
    assert sum(v == "new" for v in left.values()) == pytest.approx(len(left) / 2, rel=0.06)


def test_a_user_is_in_one_experiment_of_each_layer_and_a_tester_where_he_tests():
    splits = [
        a_split("one", slice=(0.0, 0.5)),
        a_split("two", slice=(0.5, 1.0), overrides={"tester": "new"}),
        a_split("three", layer="page"),
    ]
    for user in USERS[:200]:
        found = [one.experiment for one in assign(splits, user)]
        assert found in (["one", "three"], ["two", "three"])
    tester = assign(splits, "tester")
    assert (tester[0].variant, tester[0].is_override) == ("new", True)
    assert [one.experiment for one in tester] == ["two", "three"]


def test_targeting_and_exclusions():
    split = a_split(attributes={"country": frozenset({"de", "at"})}, excluded=frozenset({"user-1"}))
    assert split.assign("user-2") is None
    assert split.assign("user-2", {"country": "fr"}) is None
    assert split.assign("user-2", {"country": "at"}) is not None
    assert split.assign("user-1", {"country": "at"}) is None


def test_places_are_even():
    counts = [0] * 10
    for user in USERS:
        counts[int(place(user, "any") * 10)] += 1
    assert min(counts) > 0.9 * len(USERS) / 10
    assert PLACES == 10_000
