"""The contract of every recommender; models are found by walking `hymirec.models`."""

import pytest
import torch

from hymirec.models.base import Baseline, InterestRecommender

LENGTHS = [5, 1, 0, 40, 13]


def answers(model, inputs):
    """All that a model says about a batch."""
    said = {"score": model.score(inputs)}
    if isinstance(model, InterestRecommender):
        said["interests"] = model.encode_user(inputs)
    return said


def assert_same_answers(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert values.isfinite().all()
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)


def test_scores_every_item_for_every_user(model_class, build, items, random_histories):
    model = build(model_class)
    scores = model.score(model.assemble(random_histories(LENGTHS)))
    assert scores.shape == (len(LENGTHS), len(items))
    assert scores.isfinite().all()
    assert model.max_history >= 1
    assert model.num_recent >= 1


def test_batch_equals_single(model_class, build, random_histories):
    model = build(model_class)
    histories = random_histories(LENGTHS)
    together = answers(model, model.assemble(histories))
    for row, history in enumerate(histories):
        alone = answers(model, model.assemble([history]))
        expected = {name: values[row : row + 1] for name, values in together.items()}
        assert_same_answers(alone, expected)


def test_what_lies_beyond_the_length_is_never_read(model_class, build, items, random_histories):
    model = build(model_class)
    histories = random_histories(LENGTHS)
    inputs = model.assemble(histories)
    expected = answers(model, inputs)
    # More room, and in it, and in the padding there was, other events.
    generator = torch.Generator().manual_seed(1)
    codes, recent = inputs["history_codes"], inputs["recent_items"]
    shape = (len(LENGTHS), recent.shape[1] + 7)
    noise = torch.randint(0, len(items), shape, generator=generator)
    times = torch.randint(0, 10**9, shape, generator=generator)
    known = torch.arange(recent.shape[1]) < inputs["recent_length"][:, None]
    for noisy, true in ((noise, recent), (times, inputs["recent_times"])):
        noisy[:, : recent.shape[1]] = torch.where(known, true, noisy[:, : recent.shape[1]])
    other = random_histories([codes.shape[1] + 9] * len(LENGTHS), seed=2)
    noisy_codes = torch.stack([torch.from_numpy(history.codes) for history in other])
    real = torch.arange(codes.shape[1]) < inputs["history_length"][:, None]
    noisy_codes[:, : codes.shape[1]] = torch.where(
        real[..., None], codes, noisy_codes[:, : codes.shape[1]]
    )
    noisy = {
        **inputs, "history_codes": noisy_codes, "recent_items": noise, "recent_times": times,
    }  # fmt: skip
    assert_same_answers(answers(model, noisy), expected)


def test_answers_are_repeatable(model_class, build, random_histories):
    model = build(model_class)
    inputs = model.assemble(random_histories(LENGTHS))
    assert torch.equal(model.score(inputs), model.score(inputs))


def test_saved_it_gives_the_same_answers(model_class, make, build, random_histories, tmp_path):
    model = build(model_class)
    inputs = model.assemble(random_histories(LENGTHS))
    expected = answers(model, inputs)
    other = make(model_class, seed=1)
    assert not torch.allclose(other.score(inputs), expected["score"])
    other.load_state_dict(model.state_dict())
    assert_same_answers(answers(other, inputs), expected)
    model.save(tmp_path / "model")
    loaded = model_class.load(tmp_path / "model")
    assert not loaded.training
    assert_same_answers(answers(loaded, inputs), expected)
    assert getattr(loaded, "settings", None) == getattr(model, "settings", None)


def test_every_baseline_has_settings_of_its_own_that_need_no_argument(model_class):
    if issubclass(model_class, Baseline):
        assert model_class.config_type().model_config["extra"] == "forbid"


def test_a_batch_of_its_examples_moves_every_parameter(trained_class, build, random_histories):
    model = build(trained_class).train()
    examples = model.examples(random_histories([9, 2, 31, 12], seed=7))
    torch.manual_seed(0)
    out = model(**examples.collate([examples[i] for i in range(len(examples))]))
    assert out["weight"] > 0
    out["loss"].backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_gradients_are_the_same_every_time(trained_class, build, random_histories):
    """With two threads, and so much that PyTorch uses both: it adds up some things as they come."""
    model = build(trained_class).train()
    examples = model.examples(random_histories([30] * 300, seed=7))
    batch = examples.collate([examples[i] for i in range(len(examples))])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = []
        for _ in range(4):
            torch.manual_seed(0)
            model.zero_grad()
            model(**batch)["loss"].backward()
            found.append({name: one.grad for name, one in model.named_parameters()})
    finally:
        torch.set_num_threads(threads)
    first, *others = found
    for other in others:
        for name, gradient in first.items():
            assert gradient is None or torch.equal(other[name], gradient), name


def test_examples_without_any_target_teach_nothing(trained_class, build, history_of):
    model = build(trained_class).train()
    examples = model.examples([history_of([1, 2, 3])])
    batch = examples.collate([examples[0]])
    for name in ("targets", "items"):  # of the one kind of examples or the other
        if name in batch:
            batch[name][..., int(name == "items") :] = 0
    out = model(**batch)
    assert out["weight"] == 0
    out["loss"].backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_interests_have_unit_length_and_those_of_no_history_are_zero(
    interest_class, build, random_histories
):
    model = build(interest_class)
    interests = model.encode_user(model.assemble(random_histories(LENGTHS)))
    known = torch.tensor(LENGTHS) > 0
    norms = interests.norm(dim=2)
    torch.testing.assert_close(norms, known[:, None].expand_as(norms).float())
    alone = model.encode_user(model.assemble(random_histories([0])))
    assert torch.equal(alone, torch.zeros_like(alone))


def test_items_have_unit_length_and_padding_none(interest_class, build):
    vectors = build(interest_class).item_vectors()
    assert not vectors[0].any()
    torch.testing.assert_close(vectors[1:].norm(dim=1), torch.ones(len(vectors) - 1))


def test_score_is_the_best_cosine_over_the_interests(interest_class, build, random_histories):
    model = build(interest_class)
    inputs = model.assemble(random_histories(LENGTHS))
    interests, vectors, scores = (
        model.encode_user(inputs),
        model.item_vectors(),
        model.score(inputs),
    )
    for user in range(len(LENGTHS)):
        for item in range(1, len(vectors)):
            best = max((vectors[item] @ interest).item() for interest in interests[user])
            assert scores[user, item].item() == pytest.approx(best, abs=1e-5)


def test_the_last_event_changes_the_interests(interest_class, build, history_of):
    model = build(interest_class)
    first, second = model.encode_user(
        model.assemble([history_of([1, 2, 3]), history_of([1, 2, 4])])
    )
    assert (first * second).sum(dim=1).max() < 0.999
