import pytest
import yaml

from hymirec.abtest.definition import Traffic, check, parse, to_yaml
from hymirec.errors import UsageError


def test_a_document_and_its_experiment_say_the_same(declared):
    experiment = parse(yaml.safe_dump(declared), "one.yaml")
    assert parse(to_yaml(experiment), "again") == experiment
    assert "minimum_lift: 0.05\n" in to_yaml(experiment)  # there to be changed
    assert "- {name: longer, model: 8}\n" in to_yaml(experiment)
    assert experiment.control.name == "control"
    assert [one.name for one in experiment.treatments] == ["longer"]
    assert experiment.weights == [0.5, 0.5]
    assert experiment.planned_users == 3000


def test_the_split_is_salted_by_the_name(an_experiment):
    split = an_experiment().split(0.2)
    assert (split.salt, split.share) == ("experiment:longer-histories:", 0.2)
    assert split.variants == ("control", "longer")


VARIANTS = [{"name": "control", "model": "champion"}, {"name": "longer", "model": 8}]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"primary": "happiness"}, "primary: no metric is called 'happiness'; there are click_thr"),
        ({"primary": "coverage"}, "primary: coverage counts items, not users"),
        ({"guardrails": [{"metric": "latency_ms"}]}, "guardrail latency_ms needs one margin"),
        ({"guardrails": [{"metric": "luck", "absolute": 1}]}, "guardrails.0.metric: no metric is"),
        ({"variants": VARIANTS[:1]}, "variants: List should have at least 2 items"),
        ({"variants": [*VARIANTS, VARIANTS[0]]}, "two variants are called 'control'"),
        ({"variants": [VARIANTS[0] | {"weight": 0.3}, VARIANTS[1]]}, "weights have to be given"),
        (
            {"variants": [VARIANTS[0] | {"weight": 0.3}, VARIANTS[1] | {"weight": 0.3}]},
            "weights have to be given for all variants and add up to 1",
        ),
        ({"ramp": []}, "ramp: List should have at least 1 item"),
        ({"ramp": [{"share": 1.2, "min_users": 9}]}, "ramp.0.share: Input should be less than"),
        (
            {"ramp": [{"share": 0.5, "min_users": 9}, {"share": 0.1, "min_users": 99}]},
            "the ramp's shares have to grow",
        ),
        ({"overrides": {"me": "older"}}, "override of user 'me': there is no variant 'older'"),
        ({"traffic": {"begin": 0.5, "end": 0.5}}, "traffic: from 0.5 to 0.5 there is nobody"),
        ({"name": "Longer Histories"}, "name: up to 63 small letters, digits"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"mode": "shadow", "variants": [*VARIANTS, {"name": "c", "model": 9}]}, "compares two"),
        (
            {
                "mode": "interleaving",
                "variants": [{"name": "a", "model": 8}, {"name": "b", "model": 8}],
            },
            "interleaving of a version with itself",
        ),
        ({"horizon": {"days": 0}}, "horizon.days: Input should be greater than 0"),
    ],
)
def test_what_is_impossible_is_refused_in_a_line_that_says_where(declared, changes, says):
    with pytest.raises(UsageError) as refused:
        check(declared | changes, "one.yaml")
    message = str(refused.value)
    assert message.startswith("one.yaml: ")
    assert says in message
    assert "\n" not in message


def test_what_is_missing_is_named(declared):
    with pytest.raises(UsageError, match=r"one.yaml: owner: Field required"):
        check({name: value for name, value in declared.items() if name != "owner"}, "one.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "one.yaml line 1: "),
        ("- a\n- b", "one.yaml: an experiment is a mapping"),
        ("", "one.yaml: an experiment is a mapping"),
    ],
)
def test_what_is_no_document_is_refused(text, says):
    with pytest.raises(UsageError) as refused:
        parse(text, "one.yaml")
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


def test_ids_of_digits_are_text(declared):
    text = yaml.safe_dump(declared) + "\noverrides: {42: longer}\ntargeting: {exclude: [7]}"
    experiment = parse(text, "one.yaml")
    assert (experiment.overrides, experiment.targeting.exclude) == ({"42": "longer"}, ["7"])


def test_ids_that_yaml_reads_as_other_numbers_stay_as_they_are_written(declared):
    ids = ["0123", "1:30", "1_000", "0x1F", "+7", "-0"]
    text = yaml.safe_dump(declared) + f"\ntargeting: {{exclude: [{', '.join(ids)}]}}"
    assert parse(text, "one.yaml").targeting.exclude == ids


def test_slices_overlap_within_a_layer():
    left, right = Traffic(end=0.5), Traffic(begin=0.5)
    assert not left.overlaps(right)
    assert not right.overlaps(left)
    assert Traffic(begin=0.4, end=0.6).overlaps(left)
    assert not Traffic(layer="page").overlaps(left)
