"""Item texts to tokens to vectors."""

import pandas as pd
import pytest
import torch

from hymirec.encoder import (
    ContentEncoder,
    EncoderConfig,
    ItemTower,
    item_texts,
    tokenise,
    train_tokenizer,
)
from hymirec.models.layers import BackboneConfig

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
    tokens = torch.cat([torch.zeros_like(tokens[:1]), tokens])
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
        real = [token for token in row if token]
        assert row == real + [0] * (6 - len(real))
        assert real[-1] == ITEM_TOKEN
        assert real.count(ITEM_TOKEN) == 1
    assert tokens[2].tolist() == [ITEM_TOKEN, 0, 0, 0, 0, 0]
    assert tokens[3].all()
    whole = tokenise(tokenizer, TEXTS[3:], max_tokens=50)
    assert whole[0, :5].tolist() == tokens[3, :5].tolist()


def test_case_and_accents_do_not_matter_and_digits_stand_alone(tokenizer):
    one, other = tokenise(tokenizer, ["CAFÉ 1995", "cafe 1 9 9 5"], 20)
    assert torch.equal(one, other)


def test_padding_changes_nothing_and_batch_equals_single(tokenizer):
    torch.manual_seed(0)
    encoder = ContentEncoder(CONFIG, tokenizer.get_vocab_size()).eval()
    tokens = tokenise(tokenizer, TEXTS, CONFIG.max_tokens)
    together = encoder(tokens)
    padded = encoder(torch.cat([tokens, torch.zeros(4, 5, dtype=torch.int64)], dim=1))
    torch.testing.assert_close(padded, together)
    for row, text in enumerate(tokens):
        alone = encoder(text[None, : int((text != 0).sum())])
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
    tower(torch.tensor([1, 2, 3, 4])).sum().backward()
    changed = (tower.last_read != stale).any(dim=1)
    assert changed.sum() == CONFIG.texts_per_step
    assert not changed[0]
    assert tower.encoder.backbone.embed_tokens.weight.grad.isfinite().all()
