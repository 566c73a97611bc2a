"""Bi-level: what is said of whom, by what, and what it teaches."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hymirec.datasets.synthetic import WorldConfig, generate
from hymirec.errors import UsageError
from hymirec.inputs import IndexedHistory
from hymirec.models.bilevel import BiLevel, SemanticTeacher
from hymirec.models.semantics import PromptedModel, TopicWords
from hymirec.texts import plain_texts
from hymirec.words import WordVectors

TEXTS = ["red river war", "river war drama", "space robot", "robot space moon", "moon garden"]


def history(*items):
    return IndexedHistory.of(np.array(items, np.int64))


@pytest.fixture
def teacher():
    words = WordVectors(TEXTS)
    return SemanticTeacher.make(TEXTS, words, TopicWords(words, 2), 4)


def test_topic_words_are_those_that_say_most():
    words = WordVectors(TEXTS)
    # `moon` stands once in each, in two of five texts; `garden` and `robot` are as rare or rarer.
    assert TopicWords(words, 2).describe(["space robot", "robot space moon"]) == "robot space"
    assert TopicWords(words).describe(["unheard of"]) == ""


def test_topic_words_of_a_world_are_those_of_its_topics():
    world = generate(WorldConfig.tiny())
    texts = plain_texts(world.dataset.items)
    words = WordVectors(texts)
    common = {words.words[i] for i in np.argsort(-words.shares)[:5]}
    said = TopicWords(words).describe([text for text in texts if "chess" in text.lower()])
    assert said.startswith("chess")
    assert not common & set(said.split())


def test_words_vectors_are_weighted_by_rarity():
    words = WordVectors(["a b", "a"])
    table = words.table.toarray()
    weight = np.log(3 / 2) + 1
    assert table[0] == pytest.approx(np.array([1, weight]) / np.hypot(1, weight))
    assert words.vectors(["b zzz"]).toarray()[0].tolist() == [0, 1]


def test_a_users_items_are_told_apart_by_text(teacher):
    said = teacher.interests(history(1, 3, 2, 4, 1), 2)
    assert said.shape == (2, 4)
    war, robots = teacher.vector("war river"), teacher.vector("robot space")
    nearest = (said @ torch.stack([war, robots]).T).max(dim=0).values
    assert (nearest > 0.9).all()


def test_no_more_is_said_than_there_are_items(teacher):
    said = teacher.interests(history(2, 2), 3)
    assert (said.norm(dim=1) > 0).tolist() == [True, False, False]


def test_informative_users_are_as_different_as_there_are(teacher):
    histories = [history(1, 2)] * 15 + [history(3, 4)] * 5
    chosen = teacher.informative(histories, 0.3)
    # Users who took the same are one: of each kind one is asked about.
    assert [user < 15 for user in chosen] == [True, False]


def test_alignment_draws_interests_to_what_was_said(build, random_histories):
    model = build(BiLevel, informative_share=1.0, alignment_weight=1.0, prediction_weight=0.0)
    histories = random_histories([9, 12, 7])
    examples = model.examples(histories)
    torch.manual_seed(0)
    batch = examples.collate([examples[i] for i in range(3)])
    losses = []
    optimizer = torch.optim.Adam(model.to_semantics.parameters(), lr=0.05)
    for _ in range(30):
        torch.manual_seed(1)
        loss = model(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2


def test_nothing_is_aligned_where_nothing_was_said(build, random_histories):
    model = build(BiLevel, alignment_weight=5.0, prediction_weight=0.0)
    examples = model.examples(random_histories([9, 12]))
    torch.manual_seed(0)
    batch = examples.collate([examples[0], examples[1]])
    batch["said"] = torch.zeros_like(batch["said"])
    torch.manual_seed(1)
    silent = model(**batch)["loss"]
    torch.manual_seed(1)
    plain = model.contrasted(batch["recent_items"], batch["recent_cuts"], batch["targets"]).loss
    torch.testing.assert_close(silent, plain)


def test_a_local_language_model_puts_interests_into_words(text_models, tmp_path):
    directory = tmp_path / "writer"
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=120, hidden_size=12, intermediate_size=20, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=90, bos_token_id=None,
            eos_token_id=None, pad_token_id=None, initializer_range=0.5,
        )
    ).save_pretrained(directory)  # fmt: skip
    for path in text_models["llama"].glob("tokenizer*"):
        (directory / path.name).write_bytes(path.read_bytes())
    writer = PromptedModel(str(directory), max_new_tokens=5)
    said = writer.describe(["a crime thriller", "film noir"])
    assert said
    assert "\n" not in said
    assert said == writer.describe(["a crime thriller", "film noir"])


def test_an_unknown_writer_is_named():
    with pytest.raises(UsageError, match="no/such-writer"):
        PromptedModel("no/such-writer")
