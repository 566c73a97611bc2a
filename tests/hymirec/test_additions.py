"""Items that come after training: vectors from text, publications as files, a package with more."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from hymirec import additions
from hymirec.additions import Additions, known_digests, publications, publish, text_digest
from hymirec.datasets.items import load_items
from hymirec.encoder import EncoderConfig, ItemTower, count_tokens, tokenise, train_tokenizer
from hymirec.errors import DataError, UsageError
from hymirec.frozen import FrozenEncoder
from hymirec.history import History
from hymirec.inputs import index_history, number_items
from hymirec.models.hymirec import HyMiRec, HyMiRecConfig
from hymirec.models.layers import BackboneConfig
from hymirec.models.nextitem import NextItemConfig, NextItemRecommender
from hymirec.package import RecommenderPackage

TEXTS = ["Title: red fox", "Title: blue whale", "Title: grey wolf in winter", "Title: owl"]
BACKBONE = BackboneConfig(num_layers=1, num_heads=2, dropout=0.0)


def make_additions(ids, vectors, codebook=None, titles=None):
    vectors = torch.as_tensor(vectors, dtype=torch.float32)
    codes = np.zeros((len(ids), 2), np.uint8) if codebook is None else codebook.encode(vectors)
    titles = titles or [f"Title of {item}" for item in ids]
    return Additions(
        list(ids), titles, [f"Title: {title}" for title in titles], vectors.numpy(),
        np.asarray(codes),
    )  # fmt: skip


# Vectors


@pytest.fixture(scope="module")
def encoder():
    """Four items, of which the last was never taken in training."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 120)
    config = EncoderConfig(
        width=8, hidden_width=8, backbone=BACKBONE, max_tokens=16, text_events=30.0
    )
    tokens = tokenise(tokenizer, ["", *TEXTS], 16)
    tower = ItemTower(config, tokens, count_tokens(tokenizer), torch.tensor([0, 30, 90, 5, 0]))
    return FrozenEncoder(tower.eval(), tokenizer)


def test_a_text_that_has_not_changed_has_the_vector_it_had(encoder):
    torch.testing.assert_close(encoder.embed(TEXTS, [1, 2, 3, 4]), encoder.tower.embeddings()[1:])


def test_a_new_item_stands_on_its_text_alone(encoder):
    alone = encoder.embed([TEXTS[0], TEXTS[3]], [0, 99])
    # Item 4 was never taken: its vector is its text's.
    torch.testing.assert_close(alone[1], encoder.tower.embeddings()[4])
    assert torch.cosine_similarity(alone[0], encoder.tower.embeddings()[1], dim=0) < 0.99


def test_a_changed_item_keeps_what_behaviour_taught(encoder):
    text = "Title: owl in winter"
    (alone,) = encoder.embed([text], [0])
    own = normalize(encoder.tower.free.weight[2], dim=0)
    # 90 events against a text that counts as 30: three parts behaviour, one part text.
    (changed,) = encoder.embed([text], [2])
    torch.testing.assert_close(changed, normalize(0.75 * own + 0.25 * alone, dim=0))


def test_many_texts_are_read_as_each_alone(encoder):
    texts = [TEXTS[n % 4] + " and" * (n % 7) for n in range(50)]
    together = encoder.embed(texts, [0] * 50)
    each = torch.cat([encoder.embed([text], [0]) for text in texts])
    torch.testing.assert_close(together, each)


def test_the_encoder_is_found_in_its_directory_and_missed_by_name(encoder, tmp_path):
    config = NextItemConfig(num_recent=4, num_negatives=2, backbone=BACKBONE)
    NextItemRecommender(encoder.tower, config).save(tmp_path / "first_stage")
    with pytest.raises(UsageError, match=r"tokenizer\.json is missing"):
        FrozenEncoder.load(tmp_path)
    encoder.tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = FrozenEncoder.load(tmp_path)
    assert torch.equal(again.embed(TEXTS, [0, 1, 2, 3]), encoder.embed(TEXTS, [0, 1, 2, 3]))
    for name in ("tokenizer.json", "first_stage/settings.json", "first_stage/weights.safetensors"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=f"{tmp_path / name.split('/')[0]} cannot be read: "):
            FrozenEncoder.load(tmp_path)
        (tmp_path / name).write_bytes(whole)


# Files


def test_publications_are_read_in_their_order_the_last_of_an_item_counting(tmp_path):
    directory = tmp_path / "book"
    assert publications(directory) == []
    assert additions.read([]) is None
    first = publish(directory, make_additions(["a", "b"], [[1, 0], [0, 1]]))
    second = publish(
        directory, make_additions(["b", "c"], [[0.6, 0.8], [0, -1]], titles=["B", "C"])
    )
    assert [first.name, second.name] == ["000001.parquet", "000002.parquet"]
    assert publications(directory) == [first, second]
    both = additions.read([first, second])
    assert both.item_ids == ["a", "b", "c"]
    assert both.titles == ["Title of a", "B", "C"]
    np.testing.assert_array_equal(both.vectors, np.float32([[1, 0], [0.6, 0.8], [0, -1]]))
    assert both.codes.shape == (3, 2)
    assert [path.name for path in directory.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_publication_is_named(tmp_path):
    (tmp_path / "000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"000001\.parquet: not a readable publication"):
        additions.read(publications(tmp_path))


def test_what_is_known_is_the_package_and_what_came_since():
    items = pd.DataFrame({"item_id": ["a", "b"], "text_digest": ["1", "2"]})
    assert known_digests(items, None) == {"a": (1, "1"), "b": (2, "2")}
    known = known_digests(items, make_additions(["c", "a"], [[1, 0], [0, 1]]))
    assert known["b"] == (2, "2")
    assert known["c"] == (3, text_digest("Title: Title of c"))
    assert known["a"] == (1, text_digest("Title: Title of a"))


# The package


@pytest.fixture
def package(items, codebook):
    torch.manual_seed(0)
    config = HyMiRecConfig(num_recent=8, max_history=16, coarse_layers=1, backbone=BACKBONE)
    table = pd.DataFrame(
        {"item_id": [f"i{n}" for n in range(1, 41)], "title": [f"title {n}" for n in range(1, 41)]}
    )
    counts = torch.arange(41)
    return RecommenderPackage.assemble(
        HyMiRec(items, codebook, config, counts), table, counts, recipe="tiny", data_digest="d"
    )


@pytest.fixture
def history_with(codebook, items):
    def make(ids, vectors):
        codes = codebook.encode(torch.as_tensor(vectors)).numpy()
        return History(ids, np.arange(len(ids), dtype=np.int64), codes, codebook.id)

    return make


def test_a_new_item_that_is_what_an_interest_asks_for_comes_first(package, items, history_with):
    history = history_with(["i3", "i7"], items[[3, 7]])
    interest = package.model.encode_user(package.model.assemble([_known(package, history)]))[0, 0]
    more = package.extended(make_additions(["n1", "n2"], torch.stack([interest, -interest])))
    found, served_by = more.recommend(history, 40)
    assert served_by == "full"
    assert found[0].item_id == "n1"
    assert found[0].title == "Title of n1"
    assert found[0].score == pytest.approx(1.0, abs=1e-5)
    assert {one.item_id for one in found[0].because} == {"i3", "i7"}
    assert more.index.num_items == 42
    # The package before goes on as it was.
    assert package.index.num_items == 40
    assert "n1" not in {one.item_id for one in package.recommend(history, 1000)[0]}


def test_a_new_item_counts_in_histories_and_explains(package, items, history_with):
    vector = items[5] + 0.1 * items[6]
    more = package.extended(make_additions(["n1"], normalize(vector[None], dim=1)))
    history = history_with(["i3", "n1"], torch.stack([items[3], vector]))
    without, _ = package.recommend(history, 5)
    found, _ = more.recommend(history, 5)
    assert [one.score for one in found] != [one.score for one in without]
    assert "n1" in {near.item_id for one in found for near in one.because}
    assert more.titles(["i3", "n1", "x"]) == ["title 3", "Title of n1", "x"]
    assert "n1" not in {one.item_id for one in more.recommend(history, 1000)[0]}
    assert more.recommend(None, 41)[0][-1].item_id == "n1"  # nobody has taken it yet


def test_a_changed_item_moves_and_is_renamed_where_it_stands(package, items):
    more = package.extended(make_additions(["n1", "i2"], torch.stack([items[9], -items[2]])))
    again = more.extended(make_additions(["n1"], -items[9][None], titles=["renamed"]))
    assert again.index.num_items == 41
    torch.testing.assert_close(again.model.item_vectors()[2], -items[2])
    torch.testing.assert_close(again.model.item_vectors()[41], -items[9])
    torch.testing.assert_close(more.model.item_vectors()[41], items[9])
    assert again.titles(["i1", "i2", "n1"]) == ["title 1", "Title of i2", "renamed"]
    assert again.items["popularity"].tolist() == [*range(1, 41), 0]
    assert torch.equal(package.model.item_vectors(), items)


def test_an_extended_package_is_kept_like_any_other(package, items, history_with, tmp_path):
    more = package.extended(make_additions(["n1"], items[9][None] * -1))
    more.save(tmp_path / "package")
    loaded = RecommenderPackage.load(tmp_path / "package")
    history = history_with(["i3", "i7"], items[[3, 7]])
    assert loaded.recommend(history, 41) == more.recommend(history, 41)
    assert loaded.info == more.info


def test_vectors_of_another_width_are_refused(package):
    with pytest.raises(DataError, match="are 2 wide, this model's 16"):
        package.extended(make_additions(["n1"], [[1, 0]]))


def _known(package, history):
    return index_history(history, number_items(package.items["item_id"].tolist()))


# A file of items


def write(path, text):
    path.write_text(text)
    return path


def test_a_file_of_items_is_read_with_its_texts(tmp_path):
    path = write(tmp_path / "new.csv", "item_id,title,year,genre\n7,One,1999,\n8,Two,2000,drama\n")
    items = load_items(path)
    assert items["item_id"].tolist() == ["7", "8"]
    assert items["year"].tolist() == ["1999", "2000"]
    assert items["genre"].fillna("").tolist() == ["", "drama"]
    movies = write(tmp_path / "movies.csv", "movieId,title,genres\n1,Heat (1995),Crime|Drama\n")
    assert load_items(movies).loc[0].tolist() == ["1", "Heat (1995)", "Crime, Drama"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,name\n1,One\n", "new.csv: no column 'title'; columns found: item_id, name"),
        ("item_id,title\n1,One\n2,\n3, \n", "new.csv line 3: no title (and 1 more such rows)"),
        ("item_id,title\n1,One\n,Two\n", "new.csv line 3: no item_id"),
        ("item_id,title\n1,One\n2,Two\n1,Uno\n", "new.csv line 4: item_id '1' a second time"),
        ("item_id,title\n", "new.csv: empty: it has columns but no rows"),
    ],
)
def test_what_cannot_be_published_is_named_with_its_line(text, message, tmp_path):
    with pytest.raises(DataError) as caught:
        load_items(write(tmp_path / "new.csv", text))
    assert str(caught.value) == message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        load_items(tmp_path / "none.csv")
