"""Text models of `transformers` as content encoder and as recommender backbone.

Tiny ones with random weights, made by the fixture `text_models`; nothing is downloaded.
"""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.optim import AdamW
from transformers import (
    AutoModel,
    PreTrainedTokenizerFast,
)

from hymirec.datasets.synthetic import WorldConfig, generate
from hymirec.encoder import (
    PADDING_TOKEN,
    ContentEncoder,
    EncoderConfig,
    ItemTower,
    count_tokens,
    make_tokenizer,
    tokenise,
)
from hymirec.fitting import fit
from hymirec.models.hymirec import HyMiRec, HyMiRecConfig
from hymirec.models.layers import BackboneConfig, build_backbone
from hymirec.models.nextitem import NextItemConfig, NextItemRecommender
from hymirec.models.pretrained import (
    PretrainedConfig,
    without_adapters,
)
from hymirec.package import RecommenderPackage
from hymirec.recipes import get_recipe
from hymirec.tensors import assemble

TEXTS = [
    "Title: Heat 1995 Content: crime thriller",
    "Title: Casablanca Content: drama",
    "Title:  Content:",
    "Title: The Third Man Content: film noir mystery thriller of Vienna after the war",
    "Title: Toy Story Content: animation children comedy",
]
CAUSAL = ("llama", "qwen2", "gpt2")
every_kind = pytest.mark.parametrize("kind", [*CAUSAL, "bert"])
every_causal = pytest.mark.parametrize("kind", CAUSAL)
every_pooling = pytest.mark.parametrize("pooling", ["last", "mean"])
every_tuning = pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])


def backbone_of(source, **settings):
    checkpointing = settings.pop("gradient_checkpointing", False)
    return BackboneConfig(
        pretrained=PretrainedConfig(source=str(source), **settings),
        gradient_checkpointing=checkpointing,
        dropout=0.0,
    )


def make_tower(source, pooling="last", **settings):
    config = EncoderConfig(
        width=8, backbone=backbone_of(source, **settings), pooling=pooling, max_tokens=20,
        texts_per_step=4, text_weight=0.0,
    )  # fmt: skip
    tokenizer = make_tokenizer(config, TEXTS)
    tokens = tokenise(tokenizer, TEXTS, config.max_tokens, item_token=pooling == "last")
    tokens = torch.cat([torch.full_like(tokens[:1], PADDING_TOKEN), tokens])
    torch.manual_seed(0)
    tower = ItemTower(config, tokens, count_tokens(tokenizer), torch.ones(len(tokens)))
    tower.reread()
    return tower


def make_first_stage(source, backbone_source="", **settings):
    backbone = BackboneConfig(dropout=0.0)
    if backbone_source:
        backbone = backbone_of(backbone_source, **settings)
    return NextItemRecommender(
        make_tower(source, **settings),
        NextItemConfig(backbone=backbone, num_recent=10, num_negatives=8, temperature=0.3),
    )


def make_hymirec(source, items, codebook, **settings):
    config = HyMiRecConfig(
        num_interests=3, num_coarse=2, window=3, num_cuts=4, max_history=30, num_recent=8,
        coarse_layers=1, num_negatives=20, backbone=backbone_of(source, **settings),
    )  # fmt: skip
    torch.manual_seed(0)
    return HyMiRec(items, codebook, config)


def trained(model, *, steps, rate=0.01, **batch):
    """Losses of some steps on one batch; the negatives drawn are the same in every step."""
    optimiser = AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    model.train()
    losses = []
    for _ in range(steps):
        torch.manual_seed(1)
        loss = model(**batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


SEQUENCES = torch.tensor([[1, 2, 3, 4, 5, 1, 2, 3], [2, 3, 4, 5, 1, 2, 0, 0]])
BATCH = {"items": SEQUENCES, "times": torch.zeros_like(SEQUENCES)}


@every_pooling
@every_kind
def test_hidden_states_are_those_that_the_model_itself_has(text_models, kind, pooling):
    """Text by text through `transformers` alone, the item token's embedding put in by hand."""
    tower = make_tower(text_models[kind], pooling)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(text_models[kind])
    model = AutoModel.from_pretrained(text_models[kind]).eval()
    table = model.get_input_embeddings().weight
    for place, text in enumerate(TEXTS, start=1):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        room = 19 if pooling == "last" else 20
        if kind == "bert":
            assert [ids[0, 0], ids[0, -1]] == tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
            ids = torch.cat([ids[:, : min(room, ids.shape[1]) - 1], ids[:, -1:]], dim=1)
        ids = ids[:, :room]
        if pooling == "mean":
            expected = model(input_ids=ids).last_hidden_state[0].mean(dim=0)
        else:
            embeddings = torch.cat([table[ids], table.mean(dim=0).expand(1, 1, -1)], dim=1)
            expected = model(inputs_embeds=embeddings).last_hidden_state[0, -1]
        torch.testing.assert_close(tower.last_read[place], expected, rtol=1e-4, atol=1e-5)
    assert (tower.tokens[4] != PADDING_TOKEN).all()
    assert (tower.tokens[2] == PADDING_TOKEN).any()


@every_pooling
@every_kind
def test_padding_changes_nothing_and_batch_equals_single(text_models, kind, pooling):
    tower = make_tower(text_models[kind], pooling)
    encoder, tokens = tower.encoder.eval(), tower.tokens[1:]
    together = encoder(tokens)
    assert together.isfinite().all()
    padded = encoder(torch.cat([tokens, torch.full((5, 7), PADDING_TOKEN)], dim=1))
    torch.testing.assert_close(padded, together, rtol=1e-4, atol=1e-5)
    for row, text in enumerate(tokens):
        alone = encoder(text[None, : int((text != PADDING_TOKEN).sum())])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


@every_kind
def test_lora_changes_adapters_item_token_and_what_stands_around(text_models, kind):
    tower = make_tower(text_models[kind], tuning="lora", lora_rank=2)
    item_token = tower.tokens[1].max().item()  # added last: the highest id
    before = without_adapters(tower).state_dict()
    learnable = {name for name, p in tower.encoder.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "trainable_tokens" in name for name in learnable)
    model = NextItemRecommender(tower, NextItemConfig(num_recent=10, num_negatives=8))
    trained(model, steps=2, **BATCH)
    after = without_adapters(tower).state_dict()

    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    table = next(n for n in before if n.endswith(("embed_tokens.weight", "wte.weight",
                                                  "word_embeddings.weight")))  # fmt: skip
    projections = {"gpt2": ("c_attn.",), "bert": ("query.", "value.")}
    attention = {
        name for name in before
        if any(f"{part}weight" in name for part in projections.get(kind, ("q_proj.", "v_proj.")))
    }  # fmt: skip
    assert len(attention) == (2 if kind == "gpt2" else 4)
    around = {"free.weight", "project.weight", "project.bias", "last_read"}
    assert changed == {table} | attention | around
    rows = (before[table] != after[table]).any(dim=1).nonzero().flatten().tolist()
    assert rows == [item_token]
    rank = torch.linalg.matrix_rank(after[min(attention)] - before[min(attention)], rtol=1e-4)
    assert 1 <= rank <= 2


def test_frozen_reads_each_text_once_and_trains_what_stands_around(text_models):
    tower = make_tower(text_models["bert"], "mean", tuning="frozen")
    assert not tower.encoder.learns
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    model = NextItemRecommender(tower, NextItemConfig(num_recent=10, num_negatives=8))
    trained(model, steps=2, **BATCH)
    changed = {
        name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"project.weight", "project.bias", "free.weight"}
    read = tower.last_read.clone()
    tower.encoder.forward = None  # not called again
    vectors = tower.embeddings()
    assert torch.equal(tower.last_read, read)
    torch.testing.assert_close(vectors[1:].norm(dim=1), torch.ones(5))


@every_tuning
@every_kind
def test_the_loss_falls(text_models, kind, tuning):
    model = make_first_stage(text_models[kind], tuning=tuning)
    losses = trained(model, steps=40, **BATCH)
    print(f"loss {losses[0]:.3f} to {losses[-1]:.3f}")
    assert losses[-1] < 0.8 * losses[0]


@every_tuning
@every_causal
def test_the_loss_falls_with_a_pretrained_recommender(text_models, kind, tuning):
    model = make_first_stage(text_models["llama"], text_models[kind], tuning=tuning)
    losses = trained(model, steps=80, **BATCH)
    print(f"loss {losses[0]:.3f} to {losses[-1]:.3f}")
    assert losses[-1] < 0.8 * losses[0]


@every_tuning
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_saved_first_stage_needs_no_source_and_answers_alike(text_models, kind, tuning, tmp_path):
    sources = {}
    for part, name in (("encoder", kind), ("backbone", "qwen2")):
        sources[part] = shutil.copytree(text_models[name], tmp_path / part)
    model = make_first_stage(sources["encoder"], sources["backbone"], tuning=tuning)
    trained(model, steps=3, **BATCH)
    merged = without_adapters(model).eval()
    model.save(tmp_path / "model")
    for place in sources.values():
        shutil.rmtree(place)
    loaded = NextItemRecommender.load(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    assert not any("lora" in name or "base_model" in name for name in weights)

    torch.testing.assert_close(
        loaded.item_vectors(), model.eval().item_vectors(), rtol=1e-4, atol=1e-5
    )
    lengths = torch.tensor([8, 6])
    inputs = {
        "recent_items": SEQUENCES, "recent_times": BATCH["times"], "recent_length": lengths,
    }  # fmt: skip
    torch.testing.assert_close(
        loaded.encode_user(inputs), model.encode_user(inputs), rtol=1e-4, atol=1e-5
    )
    assert torch.equal(loaded.encode_user(inputs), merged.encode_user(inputs))
    loaded.save(tmp_path / "again")
    again = load_file(tmp_path / "again" / "weights.safetensors")
    del again["tower.last_read"], weights["tower.last_read"]  # texts were read since
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def test_saved_encoder_reads_alike(text_models, tmp_path):
    encoder = make_tower(text_models["gpt2"], tuning="full").encoder.eval()
    encoder.save(tmp_path / "encoder")
    tokens = torch.tensor([[1, 2, 3, PADDING_TOKEN], [4, 3, 2, 1]])
    assert torch.equal(ContentEncoder.load(tmp_path / "encoder")(tokens), encoder(tokens))


@every_tuning
@every_causal
def test_a_cut_in_a_block_mask_answers_as_the_shortened_history(
    text_models, kind, tuning, items, codebook, history_of
):
    model = make_hymirec(text_models[kind], items, codebook, tuning=tuning).eval()
    history = history_of([3, 9, 27, 1, 14, 8])
    whole = assemble([history], max_history=30, num_recent=8)
    cuts = torch.tensor([[2, 6, 4, 1]])
    at_cuts = model.interests_at(
        whole["history_codes"], whole["recent_items"], history_cuts=cuts, recent_cuts=cuts
    )
    assert at_cuts.shape == (1, 4, 3, 16)
    for place, cut in enumerate(cuts[0].tolist()):
        alone = model.encode_user(assemble([history.until(cut)], max_history=30, num_recent=8))
        torch.testing.assert_close(at_cuts[:, place], alone, rtol=1e-4, atol=1e-5)
    # And cuts differ: the model does read.
    assert (at_cuts[0, 0] * at_cuts[0, 1]).sum(dim=-1).max() < 0.999


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_hymirec_starts_from_a_pretrained_first_stage_and_is_saved_whole(
    text_models, tuning, items, codebook, random_histories, tmp_path
):
    source = shutil.copytree(text_models["gpt2"], tmp_path / "source")
    first = build_backbone(16, backbone_of(source, tuning=tuning), max_tokens=8)
    with torch.no_grad():
        for parameter in first.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model = make_hymirec(source, items, codebook, tuning=tuning)
    inputs = assemble(random_histories([5, 30, 1]), max_history=30, num_recent=8)
    before = model.eval().encode_user(inputs)
    model.start_from(first)
    tokens = torch.randn(2, 6, 16)
    torch.testing.assert_close(
        model.backbone(inputs_embeds=tokens).last_hidden_state,
        first.eval()(inputs_embeds=tokens).last_hidden_state, rtol=1e-4, atol=1e-5,
    )  # fmt: skip
    answer = model.encode_user(inputs)
    assert not torch.allclose(answer, before, atol=1e-2)
    has_adapters = any(".lora_" in name for name in model.state_dict())
    assert has_adapters == (tuning == "lora")

    model.save(tmp_path / "model")
    shutil.rmtree(source)
    loaded = HyMiRec.load(tmp_path / "model")
    torch.testing.assert_close(loaded.encode_user(inputs), answer, rtol=1e-4, atol=1e-5)
    # A merged first stage, as it comes from disk, gives the same start.
    other = without_adapters(first)
    model.start_from(other)
    torch.testing.assert_close(model.encode_user(inputs), answer, rtol=1e-4, atol=1e-5)


def test_a_whole_run_on_pretrained_models_ends_in_a_package_that_stands_alone(
    text_models, tmp_path
):
    world = generate(WorldConfig.tiny().model_copy(update={"num_users": 25}))
    text = shutil.copytree(text_models["bert"], tmp_path / "text")
    behaviour = shutil.copytree(text_models["gpt2"], tmp_path / "behaviour")
    recipe = get_recipe("tiny").with_text_model(PretrainedConfig(source=str(text), lora_rank=2))
    one = {"num_epochs": 1}
    backbone = {"backbone": backbone_of(behaviour, tuning="lora", lora_rank=2)}
    recipe = recipe.model_copy(
        update={
            "first_stage": recipe.first_stage.model_copy(update=backbone),
            "first_training": recipe.first_training.model_copy(update=one),
            "recommender": recipe.recommender.model_copy(update=backbone),
            "training": recipe.training.model_copy(update=one),
        }
    )
    fitted = fit(world.dataset, recipe, directory=tmp_path / "work")
    fitted.package.save(tmp_path / "package")
    shutil.rmtree(text)
    shutil.rmtree(behaviour)
    loaded = RecommenderPackage.load(tmp_path / "package")
    for history in list(fitted.histories.values())[:3]:
        found, _ = loaded.recommend(history, 10)
        assert [one.item_id for one in found] == [
            one.item_id for one in fitted.package.recommend(history, 10)[0]
        ]
    assert not any("lora" in name for name in loaded.model.state_dict())


@every_causal
def test_projections_come_with_the_width_and_the_table_of_tokens_goes(text_models, kind):
    backbone = build_backbone(8, backbone_of(text_models[kind]), max_tokens=40)
    assert backbone(inputs_embeds=torch.randn(2, 5, 8)).last_hidden_state.shape == (2, 5, 8)
    assert backbone.project_in.weight.shape == (12, 8)
    assert backbone.project_out.weight.shape == (8, 12)
    assert backbone.model.get_input_embeddings().weight.shape == (1, 12)
    # Items come in as large as the model's own tokens are.
    table = load_file(text_models[kind] / "model.safetensors")
    tokens = next(v for n, v in table.items() if n.endswith(("embed_tokens.weight", "wte.weight")))
    size = backbone.project_in(torch.randn(1000, 8)).square().mean()
    torch.testing.assert_close(size, tokens.square().mean(), rtol=0.1, atol=0)


def test_checkpointed_gradients_are_the_same(text_models):
    gradients = []
    for checkpointing in (False, True):
        model = make_first_stage(
            text_models["llama"], text_models["qwen2"], tuning="lora",
            gradient_checkpointing=checkpointing,
        )  # fmt: skip
        torch.manual_seed(2)
        model.train()(**BATCH)["loss"].backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    plain, checkpointed = gradients
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert any("lora_B" in name and g.abs().sum() > 0 for name, g in plain.items())


@every_tuning
def test_half_precision_leaves_a_finite_loss_and_gradients(text_models, tuning):
    model = make_first_stage(text_models["bert"], text_models["llama"], tuning=tuning).train()
    torch.manual_seed(2)
    expected = model(**BATCH)["loss"]
    torch.manual_seed(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**BATCH)["loss"]
    loss.backward()
    assert abs(loss.item() - expected.item()) < 0.1 * expected.item()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.tower.last_read.dtype == torch.float32
