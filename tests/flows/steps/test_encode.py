"""The encoder's step with a pretrained model: what it depends on, and that it stands alone."""

import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

import flows.tracking.record
from flows.steps.data import ingest
from flows.steps.encode import read_embeddings, read_first_stage, source_digests, train_encoder
from hymirec.datasets.synthetic import WorldConfig, generate, write_world
from hymirec.encoder import train_tokenizer
from hymirec.errors import UsageError
from hymirec.home import Home
from hymirec.models.layers import BackboneConfig
from hymirec.models.pretrained import PretrainedConfig
from hymirec.recipes import get_recipe
from hymirec.texts import item_texts


@pytest.fixture
def world():
    return generate(WorldConfig.tiny().model_copy(update={"num_users": 25, "num_items": 200}))


@pytest.fixture
def source(world, tmp_path):
    """A text model whose words are those of the world."""
    tokenizer = train_tokenizer(item_texts(world.dataset.items), 200)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    LlamaModel(config).save_pretrained(tmp_path / "source")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def test_the_step_depends_on_the_models_files_and_its_result_on_nothing(
    world, source, tmp_path, monkeypatch
):
    for name in ("log_metrics", "_replay"):
        monkeypatch.setattr(flows.tracking.record, name, lambda *args: None)
    home = Home.at(tmp_path / "home").create()
    write_world(world, tmp_path / "world")
    data = ingest(home, tmp_path / "world")
    recipe = get_recipe("tiny").with_text_model(
        PretrainedConfig(source=str(source), tuning="lora", lora_rank=2)
    )
    recipe = recipe.model_copy(
        update={"first_training": recipe.first_training.model_copy(update={"num_epochs": 1})}
    )
    first = train_encoder(home, data, recipe, "run")
    assert not first.skipped
    again = train_encoder(home, data, recipe, "run")
    assert again.skipped
    assert recipe.flat()["encoder.backbone.pretrained.source"] == str(source)

    torch.manual_seed(1)
    other = LlamaModel(LlamaModel.config_class.from_pretrained(source))
    other.save_pretrained(source)
    changed = train_encoder(home, data, recipe, "run")
    assert not changed.skipped
    shutil.rmtree(source)
    vectors, others = read_embeddings(first), read_embeddings(changed)
    assert vectors.shape == (201, 32)
    assert not torch.allclose(vectors, others, atol=1e-2)
    torch.testing.assert_close(
        read_first_stage(first).item_vectors(), vectors, rtol=1e-4, atol=1e-5
    )


def test_only_pretrained_backbones_have_digests_and_unknown_ones_are_refused(source):
    pretrained = BackboneConfig(pretrained=PretrainedConfig(source=str(source)))
    assert source_digests(BackboneConfig()) == {}
    digests = source_digests(BackboneConfig(), pretrained)
    assert list(digests) == [f"pretrained {source}"]
    with pytest.raises(UsageError, match="no/such"):
        source_digests(BackboneConfig(pretrained=PretrainedConfig(source="no/such")))
