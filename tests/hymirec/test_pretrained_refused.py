"""Text models that cannot be used are refused, in one line that names the thing."""

import json
import shutil
import socket

import pandas as pd
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertTokenizer,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from hymirec import catalogue
from hymirec.encoder import ContentEncoder, EncoderConfig, make_tokenizer, tokenise
from hymirec.errors import DataError, UsageError
from hymirec.models.hymirec import HyMiRec, HyMiRecConfig
from hymirec.models.layers import BackboneConfig, build_backbone
from hymirec.models.pretrained import PretrainedConfig, digest, download, locate

CAUSAL = ("llama", "qwen2", "gpt2")
every_kind = pytest.mark.parametrize("kind", [*CAUSAL, "bert"])
every_causal = pytest.mark.parametrize("kind", CAUSAL)
ITEMS = pd.DataFrame({"item_id": ["1", "2"], "title": ["Heat", "Casablanca"]})


def backbone_of(source, **settings):
    return BackboneConfig(pretrained=PretrainedConfig(source=str(source), **settings))


@pytest.fixture
def make_tower(tmp_path):
    """Make a tower that has read a small catalogue, unless its model is refused."""

    def make(source, **settings):
        config = EncoderConfig(width=8, backbone=backbone_of(source, **settings), max_tokens=20)
        occurrences = torch.ones(len(ITEMS) + 1, dtype=torch.int64)
        return catalogue.make_tower(ITEMS, config, occurrences, tmp_path / "read")[0]

    return make


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("source", ["/no/such/place", "no-such-org/no-such-model", "a/b/c", "x y"])
def test_unknown_models_are_refused_without_a_look_at_the_network(source, no_network):
    with pytest.raises(UsageError, match="neither a directory nor a model in the local") as caught:
        locate(source)
    assert source in str(caught.value)
    assert "--download" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_name_is_found_in_the_local_cache(
    text_models, tmp_path, monkeypatch, no_network, make_tower
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some-org--some-model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = shutil.copytree(text_models["llama"], repository / "snapshots" / ("0" * 40))
    assert locate("some-org/some-model") == snapshot
    assert make_tower("some-org/some-model").embeddings().isfinite().all()


def test_a_download_that_fails_says_why_in_one_line(monkeypatch):
    def unreachable(name, **settings):
        raise LocalEntryNotFoundError("the hub cannot be reached\nand more")

    monkeypatch.setattr("hymirec.models.pretrained.snapshot_download", unreachable)
    with pytest.raises(UsageError, match=r"a/b cannot be downloaded: the hub cannot be reached$"):
        download("a/b")


def broken(text_models, tmp_path, kind="llama"):
    return shutil.copytree(text_models[kind], tmp_path / "broken")


def test_directories_that_hold_no_model_are_refused(text_models, tmp_path, make_tower):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no config\.json"):
        make_tower(tmp_path / "empty")
    place = broken(text_models, tmp_path)
    (place / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(DataError, match=r"broken cannot be loaded: [^\n]*$"):
        make_tower(place)
    (place / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"broken cannot be loaded: [^\n]*$"):
        make_tower(place)
    (place / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(DataError, match=r"broken[^\n]*no-such-type[^\n]*$"):
        make_tower(place)


def test_weights_that_are_not_all_there_are_refused(text_models, tmp_path, make_tower):
    place = broken(text_models, tmp_path)
    weights = load_file(place / "model.safetensors")
    name = next(name for name in weights if "layers.1" in name and "q_proj" in name)
    del weights[name]
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"lack 1 of the model's tensors, layers.1.*q_proj"):
        make_tower(place)


def test_a_directory_without_a_tokenizer_is_refused(text_models, tmp_path, make_tower):
    place = broken(text_models, tmp_path)
    for path in place.glob("*token*"):
        path.unlink()
    with pytest.raises(DataError, match="broken has no tokenizer"):
        make_tower(place)
    (place / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer cannot be loaded: [^\n]*$"):
        make_tower(place)


def test_a_tokenizer_without_its_json_form_is_converted(text_models, tmp_path):
    place = broken(text_models, tmp_path, "bert")
    for path in place.glob("*token*"):
        path.unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "title", ":", "content", "heat"]
    (place / "vocab.txt").write_text("\n".join(words))
    assert len(BertTokenizer.from_pretrained(place)) == len(words)
    config = EncoderConfig(backbone=backbone_of(place))
    tokens = tokenise(make_tokenizer(config, []), ["Title: Heat", "Content: Vienna"], 10)
    item = len(words)
    assert tokens.tolist() == [[2, 5, 6, 8, 3, item], [2, 7, 6, 1, 3, item]]


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(text_models, tmp_path, make_tower):
    place = broken(text_models, tmp_path)
    rows = AutoModel.from_pretrained(place).get_input_embeddings().num_embeddings
    model = AutoModel.from_pretrained(place)
    model.resize_token_embeddings(rows - 1)
    model.save_pretrained(place)
    with pytest.raises(
        DataError, match=f"tokenizer has {rows} tokens, its embedding table {rows - 1} rows"
    ):
        make_tower(place)


def test_a_table_far_larger_than_the_vocabulary_is_warned_of(
    text_models, tmp_path, caplog, make_tower
):
    place = broken(text_models, tmp_path)
    model = AutoModel.from_pretrained(place)
    model.resize_token_embeddings(500)
    model.save_pretrained(place)
    make_tower(place)
    assert "do they belong together" in caplog.text


def test_a_model_padded_with_rows_keeps_them_and_gets_no_more(text_models, tmp_path, make_tower):
    place = broken(text_models, tmp_path)
    model = AutoModel.from_pretrained(place)
    rows = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(rows + 3)
    model.save_pretrained(place)
    tower = make_tower(place, tuning="full")
    assert tower.encoder.backbone.get_input_embeddings().num_embeddings == rows + 3


@every_kind
def test_texts_longer_than_the_model_reads_are_refused(text_models, kind):
    config = EncoderConfig(max_tokens=41, backbone=backbone_of(text_models[kind]))
    with pytest.raises(UsageError, match=r"encoder\.max_tokens asks for 41 .* no more than 40"):
        ContentEncoder(config, 20)
    ContentEncoder(config.model_copy(update={"max_tokens": 40}), 20)


@every_causal
def test_histories_longer_than_the_model_reads_are_refused(text_models, kind, items, codebook):
    with pytest.raises(UsageError, match=r"num_recent asks for 41 .* no more than 40"):
        HyMiRec(
            items, codebook, HyMiRecConfig(num_recent=40, backbone=backbone_of(text_models[kind]))
        )


def test_positions_that_a_roberta_keeps_for_padding_do_not_count(text_models, tmp_path):
    place = broken(text_models, tmp_path, "bert")
    config = RobertaConfig(
        vocab_size=200, hidden_size=12, intermediate_size=20, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=42, pad_token_id=1,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(place)
    settings = EncoderConfig(max_tokens=40, backbone=backbone_of(place, tuning="frozen"))
    encoder = ContentEncoder(settings, 200)
    assert encoder(torch.full((1, 40), 7)).isfinite().all()
    with pytest.raises(UsageError, match="no more than 40"):
        ContentEncoder(settings.model_copy(update={"max_tokens": 41}), 200)


def test_a_bidirectional_model_cannot_be_a_recommender(text_models):
    with pytest.raises(UsageError, match="a bert is not a causal decoder"):
        build_backbone(16, backbone_of(text_models["bert"]), max_tokens=8)


def test_an_encoder_decoder_is_refused(text_models, tmp_path, make_tower):
    place = shutil.copytree(text_models["llama"], tmp_path / "t5")
    config = T5Config(vocab_size=99, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(place)
    with pytest.raises((UsageError, DataError), match="t5"):
        make_tower(place)


def test_lora_without_known_projections_is_refused(text_models, monkeypatch, make_tower):
    from peft.tuners.lora import LoraModel

    monkeypatch.delitem(LoraModel.target_module_mapping, "llama")
    with pytest.raises(UsageError, match="attention projections of a llama"):
        make_tower(text_models["llama"], tuning="lora")
    make_tower(text_models["llama"], tuning="frozen")


def test_another_model_under_the_same_name_has_another_digest(text_models, tmp_path):
    place = broken(text_models, tmp_path)
    before = digest(str(place))
    assert before == digest(str(text_models["llama"]))
    settings = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 1e-5}))
    assert digest(str(place)) != before
