"""PatchRec: which items make a patch, and what a position may read."""

import torch

from hymirec.models.patchrec import PatchRec


class Recorder(torch.nn.Module):
    """A backbone that says what it was given: each patch as it is."""

    def forward(self, inputs_embeds):
        self.given = inputs_embeds
        return type("Output", (), {"last_hidden_state": inputs_embeds})


def patches_of(model, length, room):
    model.backbone = Recorder()
    tokens = torch.arange(1.0, room + 1)[None, :, None].expand(1, room, 16)
    states = model.hidden(tokens, torch.tensor([length]), torch.zeros(1, room))
    return model.backbone.given[0, 1:, 0].tolist(), states[0, :, 0].tolist()


def test_old_items_are_read_by_session_and_recent_ones_alone(build):
    model = build(PatchRec, num_single=4, session_size=3, num_recent=20)
    start = model.start[0].item()
    # Of nine items five are old: one whole session of three, two that wait for the next.
    given, states = patches_of(model, length=9, room=9)
    assert given == [2, 4, 5, 6, 7, 8, 9]
    # Within a session a position knows what came before the session, here nothing.
    assert states == [start, start, 2, 4, 5, 6, 7, 8, 9]


def test_a_short_history_is_read_item_by_item(build):
    model = build(PatchRec, num_single=4, session_size=3, num_recent=20)
    given, states = patches_of(model, length=6, room=6)
    assert given == [1, 2, 3, 4, 5, 6]
    assert states == given


def test_training_reads_both_grains(build):
    model = build(PatchRec, num_single=4, session_size=3, num_recent=20).train()
    torch.manual_seed(0)
    lengths = {len(patches_of(model, length=9, room=9)[0]) for _ in range(20)}
    assert lengths == {9, 7}


def test_an_item_is_the_mean_of_its_tokens(build):
    model = build(PatchRec)
    vectors, _ = model.tower(torch.tensor([3]))
    tokens = model.tower.tokens[3]
    mean = model.tower.table.weight[tokens[tokens >= 0]].mean(dim=0)
    torch.testing.assert_close(vectors[0], mean / mean.norm())
