"""Item texts to tokens to vectors."""

import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from hymirec.encoder import (
    PADDING_TOKEN,
    TOKENS_PER_BATCH,
    ContentEncoder,
    EncoderConfig,
    ItemTower,
    length_batches,
    tokenise,
    train_tokenizer,
)
from hymirec.errors import UsageError
from hymirec.models.layers import BackboneConfig
from hymirec.texts import item_texts

CONFIG = EncoderConfig(
    width=16,
    hidden_width=12,
    backbone=BackboneConfig(num_layers=2, num_heads=2, dropout=0.0),
    max_tokens=8,
    texts_per_step=3,
)
TEXTS = ["Title: Café 1995 Content: noir", "Title: a Content:", "", "Title: b c d e f g Content: h"]
ITEM_TOKEN = 2


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 200)


@pytest.fixture
def tower(tokenizer):
    torch.manual_seed(0)
    tokens = tokenise(tokenizer, TEXTS, CONFIG.max_tokens)
    tokens = torch.cat([torch.full_like(tokens[:1], PADDING_TOKEN), tokens])
    # Item 3 never occurs in training.
    return ItemTower(CONFIG, tokens, tokenizer.get_vocab_size(), torch.tensor([0, 5, 1, 0, 2]))


def test_texts_hold_the_title_and_every_column_of_text_in_order():
    items = pd.DataFrame(
        {
            "item_id": ["a", "b"],
            "genre": ["noir", None],
            "title": ["Heat", None],
            "source_row": [1, 2],
            "year": [1995, 1996],
            "story": ["A chase", "Two men"],
        }
    )
    assert item_texts(items) == [
        "Title: Heat Content: noir A chase",
        "Title:  Content:  Two men",
    ]


def test_tokens_end_in_the_item_token_and_long_texts_are_cut_before_it(tokenizer):
    tokens = tokenise(tokenizer, TEXTS, max_tokens=6)
    assert tokens.shape == (4, 6)
    for row in tokens.tolist():
        real = [token for token in row if token != PADDING_TOKEN]
        assert row == real + [PADDING_TOKEN] * (6 - len(real))
        assert real[-1] == ITEM_TOKEN
        assert real.count(ITEM_TOKEN) == 1
    assert tokens[2].tolist() == [ITEM_TOKEN] + 5 * [PADDING_TOKEN]
    assert (tokens[3] != PADDING_TOKEN).all()
    whole = tokenise(tokenizer, TEXTS[3:], max_tokens=50)
    assert whole[0, :5].tolist() == tokens[3, :5].tolist()


def test_items_without_text_are_counted_once_and_have_a_vector(tokenizer, caplog):
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["", "Heat", None], "year": 1995})
    texts = item_texts(items)
    assert texts == ["Title:  Content:", "Title: Heat Content:", "Title:  Content:"]
    assert [record.getMessage() for record in caplog.records] == [
        "items: 2 of 3 have no text, 'a' for one: to the encoder they are all the same"
    ]
    tokens = tokenise(tokenizer, [*texts, ""], CONFIG.max_tokens)
    hidden = ContentEncoder(CONFIG, tokenizer.get_vocab_size()).eval()(tokens)
    assert hidden.isfinite().all()
    torch.testing.assert_close(hidden[0], hidden[2])


def test_no_room_for_text_is_refused(tokenizer):
    with pytest.raises(UsageError, match=r"max_tokens is 1: .* no room"):
        tokenise(tokenizer, TEXTS, max_tokens=1)
    assert tokenise(tokenizer, TEXTS, max_tokens=1, item_token=False).shape == (4, 1)


def test_batches_are_of_one_length_hold_every_row_once_and_keep_to_the_budget():
    lengths = torch.randint(1, 40, (5000,), generator=torch.Generator().manual_seed(0))
    tokens = torch.where(torch.arange(40) < lengths[:, None], 7, PADDING_TOKEN)
    batches = list(length_batches(tokens))
    assert torch.cat(batches).sort().values.tolist() == list(range(5000))
    in_order = lengths[torch.cat(batches)]
    assert (in_order.diff() >= 0).all()
    sizes = [len(batch) * int(lengths[batch].max()) for batch in batches]
    assert max(sizes) <= TOKENS_PER_BATCH
    assert min(sizes[:-1]) > 0.9 * TOKENS_PER_BATCH
    long = torch.full((3, TOKENS_PER_BATCH + 1), 7)
    assert [len(batch) for batch in length_batches(long)] == [1, 1, 1]


def test_case_and_accents_do_not_matter_and_digits_stand_alone(tokenizer):
    one, other = tokenise(tokenizer, ["CAFÉ 1995", "cafe 1 9 9 5"], 20)
    assert torch.equal(one, other)


def test_padding_changes_nothing_and_batch_equals_single(tokenizer):
    torch.manual_seed(0)
    encoder = ContentEncoder(CONFIG, tokenizer.get_vocab_size()).eval()
    tokens = tokenise(tokenizer, TEXTS, CONFIG.max_tokens)
    together = encoder(tokens)
    padded = encoder(torch.cat([tokens, torch.full((4, 5), PADDING_TOKEN)], dim=1))
    torch.testing.assert_close(padded, together)
    for row, text in enumerate(tokens):
        alone = encoder(text[None, : int((text != PADDING_TOKEN).sum())])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_embeddings_have_unit_length_and_padding_none(tower):
    vectors = tower.embeddings()
    torch.testing.assert_close(vectors.norm(dim=1), torch.tensor([0.0, 1, 1, 1, 1]))
    assert tower.training


def test_embeddings_read_every_text_anew(tower):
    before = tower.embeddings()
    with torch.no_grad():
        tower.encoder.backbone.embed_tokens.weight += 0.5
    after = tower.embeddings()
    assert (before[1:] * after[1:]).sum(dim=1).max() < 0.999


def test_an_item_never_trained_on_is_its_text_alone(tower):
    before = tower.embeddings()
    with torch.no_grad():
        tower.free.weight += 1.0
    after = tower.embeddings()
    torch.testing.assert_close(after[3], before[3])
    assert not torch.allclose(after[1], before[1], atol=1e-2)


def test_a_training_step_reads_some_texts_with_gradients_and_keeps_what_it_read(tower):
    tower.reread()
    tower.train()
    stale = tower.last_read.clone()
    with torch.no_grad():
        tower.encoder.backbone.embed_tokens.weight += 0.5
    vectors, text_loss = tower(torch.tensor([1, 2, 3, 4]))
    (vectors.sum() + text_loss).backward()
    changed = (tower.last_read != stale).any(dim=1)
    assert changed.sum() == CONFIG.texts_per_step
    assert not changed[0]
    assert tower.encoder.backbone.embed_tokens.weight.grad.isfinite().all()


def test_loss_of_text_alone_asks_each_text_which_item_it_belongs_to(tokenizer):
    backbone = CONFIG.backbone.model_copy(update={"dropout": 0.0})
    config = CONFIG.model_copy(
        update={"backbone": backbone, "texts_per_step": 4, "text_weight": 0.5}
    )
    tokens = tokenise(tokenizer, ["", *TEXTS], config.max_tokens)
    tower = ItemTower(config, tokens, tokenizer.get_vocab_size(), torch.tensor([0, 1, 1, 0, 1]))
    tower.reread()
    tower.train()
    items = torch.tensor([1, 2, 4])
    vectors, loss = tower(items)
    alone = normalize(tower.project(tower.last_read[items]), dim=1)
    terms = []
    for place in range(3):
        likeness = torch.stack([alone[place] @ vector for vector in vectors]) / 0.07
        terms.append(-likeness.softmax(dim=0)[place].log())
    torch.testing.assert_close(loss, 0.5 * torch.stack(terms).mean())
    loss.backward()
    assert tower.free.weight.grad is None  # text follows the items, not the other way round
    assert tower.project.weight.grad.any()
    assert tower.eval()(items)[1] == 0
