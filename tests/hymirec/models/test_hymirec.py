"""HyMiRec: what an answer at a cut is, the loss, and each part left out."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import normalize

from hymirec.dmil import assign_targets, contrast, dmil_loss, merged_loss
from hymirec.models.hymirec import HyMiRec, interest_overlap
from hymirec.models.layers import BackboneConfig, build_backbone
from hymirec.models.nextitem import NextItemRecommender
from hymirec.tensors import assemble

LENGTHS = [5, 1, 0, 40, 13]


def at_cuts(model, inputs, history_cuts, recent_cuts):
    with torch.no_grad():
        return model.interests_at(
            inputs["history_codes"],
            inputs["recent_items"],
            history_cuts=torch.tensor([history_cuts]),
            recent_cuts=torch.tensor([recent_cuts]),
        )[0]


def test_a_cut_answers_as_the_shortened_history_does(build, random_histories):
    model = build(HyMiRec, max_history=40, num_recent=40)
    (history,) = random_histories([25])
    cuts = list(range(1, 26))
    together = at_cuts(model, model.assemble([history]), cuts, cuts)
    for cut, interests in zip(cuts, together, strict=True):
        alone = model.encode_user(model.assemble([history.until(cut)]))[0]
        torch.testing.assert_close(interests, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("max_history", "num_recent"), [(20, 6), (6, 20), (3, 9), (50, 4)])
def test_a_cut_of_truncated_inputs_answers_as_the_shortened_inputs_do(
    max_history, num_recent, build, random_histories
):
    model = build(HyMiRec, max_history=max_history, num_recent=num_recent)
    (history,) = random_histories([30])
    begins = max(0, 30 - max_history), max(0, 30 - num_recent)
    cuts = list(range(begins[1] + 1, 31))
    together = at_cuts(
        model,
        model.assemble([history]),
        [max(0, cut - begins[0]) for cut in cuts],
        [cut - begins[1] for cut in cuts],
    )
    for cut, interests in zip(cuts, together, strict=True):
        codes, recent = history.codes[begins[0] : cut], history.items[begins[1] : cut]
        alone = model.encode_user(
            {
                "history_codes": torch.from_numpy(codes)[None]
                if len(codes)
                else torch.zeros(1, 1, history.codes.shape[1], dtype=torch.uint8),
                "history_length": torch.tensor([len(codes)]),
                "recent_items": torch.from_numpy(recent)[None],
                "recent_length": torch.tensor([len(recent)]),
            }
        )[0]
        torch.testing.assert_close(interests, alone, rtol=1e-4, atol=1e-5)
    # And the last cut is what a request gets.
    request = model.encode_user(model.assemble([history]))[0]
    torch.testing.assert_close(together[-1], request, rtol=1e-4, atol=1e-5)


def test_coarse_interests_at_a_cut_see_what_lies_before_it_and_nothing_else(build, items):
    coarse = build(HyMiRec).coarse
    generator = torch.Generator().manual_seed(3)
    history = torch.randn(2, 20, items.shape[1], generator=generator)
    cuts = torch.tensor([[1, 7, 20], [0, 13, 19]])
    with torch.no_grad():
        together = coarse(history, cuts)
        for user in range(2):
            for place, cut in enumerate(cuts[user].tolist()):
                changed = history[user : user + 1].clone()
                changed[:, cut:] = torch.randn(changed[:, cut:].shape, generator=generator)
                one_cut = torch.tensor([[cut]])
                torch.testing.assert_close(
                    coarse(changed, one_cut)[0, 0], together[user, place], rtol=1e-4, atol=1e-5
                )
                if cut:
                    changed[:, cut - 1] += 1
                    moved = coarse(changed, one_cut)[0, 0] - together[user, place]
                    assert moved.abs().max() > 1e-3


def test_ages_are_told_apart_in_powers_of_two(build, items):
    """The first layer's answer to one event depends on its age only by the bias of that age."""
    model = build(HyMiRec, coarse_layers=1)
    layer = model.coarse.layers[0]
    generator = torch.Generator().manual_seed(4)
    pair = torch.randn(2, items.shape[1], generator=generator)
    length = 3000
    events = torch.zeros(1, length, items.shape[1])
    queries = model.coarse.queries[None, None]

    def seen(age):
        """With two events visible, one at `age` and one just now, all else out of sight."""
        events_now = events.clone()
        events_now[0, 0], events_now[0, 1] = pair
        ago = torch.full((1, 1, length), -1)
        ago[0, 0, 0], ago[0, 0, 1] = age, 0
        with torch.no_grad():
            return layer(queries, events_now, ago)

    classes = [range(1, 3), range(3, 7), range(7, 15), range(1023, 1026), range(2047, 2050)]
    bands = [[seen(age) for age in ages] for ages in classes]
    for band in bands:
        for answer in band[1:]:
            assert torch.equal(answer, band[0])
    for one, other in pairwise(bands[:4]):
        assert not torch.allclose(one[0], other[0], atol=1e-4)


def test_the_whole_history_reaches_the_interests_through_the_codes(build, random_histories):
    model = build(HyMiRec, max_history=40, num_recent=3)
    (history,) = random_histories([40])
    inputs = model.assemble([history])
    changed = {**inputs, "history_codes": inputs["history_codes"].clone()}
    changed["history_codes"][0, :20] = inputs["history_codes"][0, 20:]  # the old half
    assert not torch.allclose(model.encode_user(inputs), model.encode_user(changed), atol=1e-4)


def examples_by_hand(random_histories, num_negatives=0):
    """Two histories of 20, their inputs and three cuts with windows, one cut without targets."""
    histories = random_histories([20, 20], seed=5)
    cuts = torch.tensor([[6, 11, 18], [3, 12, 12]])
    targets = torch.zeros(2, 3, 3, dtype=torch.int64)
    for user in range(2):
        for place in range(3):
            ahead = torch.from_numpy(histories[user].items[cuts[user, place] :][:3])
            targets[user, place, : len(ahead)] = ahead
    targets[1, 2] = 0
    return histories, cuts, targets


@pytest.mark.parametrize("merged_weight", [0.0, 0.5])
def test_loss_is_that_of_every_cut_asked_alone(merged_weight, build, items, random_histories):
    # With as many negatives as items, all are drawn and chance has no part.
    model = build(
        HyMiRec, max_history=40, num_recent=40, num_negatives=40, merged_weight=merged_weight
    )
    histories, cuts, targets = examples_by_hand(random_histories)
    inputs = model.assemble(histories)
    with torch.no_grad():
        found = model(
            inputs["history_codes"], inputs["recent_items"], history_cuts=cuts, recent_cuts=cuts,
            targets=targets,
        )  # fmt: skip
    losses = []
    negatives = torch.arange(1, len(items))
    for user in range(2):
        for cut, window in zip(cuts[user].tolist(), targets[user], strict=True):
            if not window.any():
                continue
            interests = model.encode_user(model.assemble([histories[user].until(cut)]))
            present = (window > 0)[None]
            own = torch.isin(negatives, window)[None]
            contrasted = contrast(
                interests, items[window][None], items[negatives], torch.zeros(len(negatives)),
                own.nonzero(as_tuple=True), temperature=0.07,
            )  # fmt: skip
            owner = assign_targets(interests, items[window][None], present)
            loss = dmil_loss(contrasted, owner, present)
            loss = loss + merged_weight * merged_loss(contrasted, owner, present)
            losses.append(loss)
    assert len(losses) == 5
    torch.testing.assert_close(found["loss"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)
    assert -1 <= found["overlap"] <= 1
    assert 1 / 3 <= found["top_share"] <= 1


def test_gradients_are_finite_where_no_event_lies_before_a_cut(build, random_histories):
    model = build(HyMiRec).train()
    histories, cuts, targets = examples_by_hand(random_histories)
    inputs = assemble(histories, max_history=20, num_recent=20)
    history_cuts = torch.tensor([[0, 0, 0], [0, 5, 20]])
    model(
        inputs["history_codes"], inputs["recent_items"], history_cuts=history_cuts,
        recent_cuts=cuts, targets=targets,
    )["loss"].backward()  # fmt: skip
    for name, parameter in model.named_parameters():
        if name == "backbone.embed_tokens.weight":
            continue  # never used: the backbone is given vectors
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("setting", "without"),
    [("num_coarse", "coarse"), ("indicator", "indicator")],
)
def test_a_part_left_out_has_no_parameters_and_the_rest_goes_on(
    setting, without, build, random_histories
):
    model = build(HyMiRec, max_history=40, num_recent=40, **{setting: 0}).train()
    assert not any(name.startswith(without) for name, _ in model.named_parameters())
    histories, cuts, targets = examples_by_hand(random_histories)
    inputs = model.assemble(histories)
    model(
        inputs["history_codes"], inputs["recent_items"], history_cuts=cuts, recent_cuts=cuts,
        targets=targets,
    )["loss"].backward()  # fmt: skip
    assert model.refined_queries.grad.any()


def test_without_coarse_queries_the_codes_are_not_read(build, random_histories):
    model = build(HyMiRec, num_coarse=0)
    inputs = model.assemble(random_histories(LENGTHS))
    other = inputs | {"history_codes": torch.randint_like(inputs["history_codes"], 256)}
    assert torch.equal(model.score(inputs), model.score(other))


def test_max_matching_gives_every_target_to_the_interest_nearest_to_it(
    build, items, random_histories
):
    model = build(
        HyMiRec, max_history=40, num_recent=40, num_negatives=40, merged_weight=0.0, matching="max"
    )
    histories, cuts, targets = examples_by_hand(random_histories)
    inputs = model.assemble(histories)
    with torch.no_grad():
        found = model(
            inputs["history_codes"], inputs["recent_items"], history_cuts=cuts, recent_cuts=cuts,
            targets=targets,
        )["loss"]  # fmt: skip
    losses = []
    for user in range(2):
        for cut, window in zip(cuts[user].tolist(), targets[user], strict=True):
            present = window[window > 0].tolist()
            if not present:
                continue
            interests = model.encode_user(model.assemble([histories[user].until(cut)]))[0]
            others = [n for n in range(1, len(items)) if n not in present]
            terms = []
            for target in present:
                best = interests[(interests @ items[target]).argmax()]
                logits = items[[target, *others]] @ best / 0.07
                terms.append(logits.logsumexp(0) - logits[0])
            losses.append(sum(terms) / len(terms))
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def test_examples_without_any_target_teach_nothing(build, random_histories):
    model = build(HyMiRec).train()
    histories, cuts, targets = examples_by_hand(random_histories)
    inputs = assemble(histories, max_history=20, num_recent=20)
    found = model(
        inputs["history_codes"], inputs["recent_items"], history_cuts=cuts, recent_cuts=cuts,
        targets=torch.zeros_like(targets),
    )  # fmt: skip
    found["loss"].backward()
    assert found["loss"] == 0
    for parameter in model.parameters():
        assert parameter.grad is None or not parameter.grad.any()


def test_starting_from_a_first_stage_takes_over_its_backbone(build, items, codebook):
    first = build(NextItemRecommender)
    model = build(HyMiRec)
    other = {name: value.clone() for name, value in model.state_dict().items()}
    model.start_from(first.backbone)
    for name, value in model.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(value, first.backbone.state_dict()[name.removeprefix("backbone.")])
            assert value is not first.backbone.state_dict()[name.removeprefix("backbone.")]
        else:
            assert torch.equal(value, other[name])
    first_weight = next(first.backbone.layers[0].parameters())
    before = next(model.backbone.layers[0].parameters()).clone()
    with torch.no_grad():
        first_weight += 1
    assert torch.equal(next(model.backbone.layers[0].parameters()), before)


def test_starting_from_a_backbone_of_another_shape_is_refused(build, items):
    other = build_backbone(items.shape[1], BackboneConfig(num_layers=1))
    with pytest.raises(RuntimeError, match="Missing key"):
        build(HyMiRec).start_from(other)


def test_interests_start_apart(make):
    torch.manual_seed(0)
    queries = normalize(make(HyMiRec).refined_queries.detach(), dim=1)
    torch.testing.assert_close(queries @ queries.T, torch.eye(3), rtol=0, atol=1e-5)


def test_overlap_by_hand():
    x, y = torch.eye(2)
    diagonal = normalize(x + y, dim=0)
    assert interest_overlap(torch.stack([x, x])[None]) == 1
    assert interest_overlap(torch.stack([x, y])[None]) == 0
    assert interest_overlap(x[None, None]) == 0
    # Pairs x·y, x·d, y·d: (0 + 2/√2) / 3; and a second user whose interests are opposite.
    both = torch.stack([torch.stack([x, y, diagonal]), torch.stack([x, -x, -x])])
    expected = ((2 / 2**0.5) / 3 + (-1 - 1 + 1) / 3) / 2
    assert interest_overlap(both).item() == pytest.approx(expected, abs=1e-6)
