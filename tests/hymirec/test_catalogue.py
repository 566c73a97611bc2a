"""A catalogue read in shards: the same whatever was interrupted and however many read."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

import hymirec.catalogue
from hymirec.catalogue import embed_catalogue, encode_catalogue
from hymirec.encoder import PADDING_TOKEN, ContentEncoder, EncoderConfig, ItemTower
from hymirec.errors import HymirecError
from hymirec.models.layers import BackboneConfig
from hymirec.models.pretrained import PretrainedConfig

NUM_TEXTS, VOCABULARY, SHARD = 300, 50, 64


def make_tokens(seed=0):
    """Texts of 1 to 12 tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, VOCABULARY, (NUM_TEXTS, 12), generator=generator)
    lengths = torch.randint(1, 13, (NUM_TEXTS, 1), generator=generator)
    return torch.where(torch.arange(12) < lengths, tokens, PADDING_TOKEN)


def make_encoder(seed=0, **settings):
    torch.manual_seed(seed)
    config = EncoderConfig(
        **{
            "width": 8,
            "hidden_width": 8,
            "max_tokens": 12,
            "backbone": BackboneConfig(),
            **settings,
        }
    )
    return ContentEncoder(config, VOCABULARY)


@pytest.fixture(autouse=True)
def one_thread():
    """Sums over another number of threads may end in other digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.glob("shard-*"))}


def test_shards_hold_what_the_encoder_reads_one_by_one(tmp_path):
    encoder, tokens = make_encoder(), make_tokens()
    encoder.train()
    hidden = encode_catalogue(encoder, tokens, tmp_path, texts_per_shard=SHARD)
    assert encoder.training
    assert len(contents(tmp_path)) == 5
    encoder.eval()
    for text, found in zip(tokens[:40], hidden, strict=False):
        alone = encoder(text[None, : int((text != PADDING_TOKEN).sum())])[0]
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_another_encoder_other_texts_or_other_shards_start_anew(tmp_path):
    encoder, tokens = make_encoder(), make_tokens()
    first = encode_catalogue(encoder, tokens, tmp_path, texts_per_shard=SHARD)
    other = encode_catalogue(make_encoder(seed=1), tokens, tmp_path, texts_per_shard=SHARD)
    assert not torch.allclose(first, other, atol=1e-2)
    changed = encode_catalogue(encoder, make_tokens(seed=1), tmp_path, texts_per_shard=SHARD)
    assert not torch.allclose(first, changed, atol=1e-2)
    encode_catalogue(encoder, tokens, tmp_path, texts_per_shard=NUM_TEXTS)
    assert len(contents(tmp_path)) == 1


def test_interrupted_it_goes_on_from_the_shards_there_are(tmp_path, monkeypatch):
    encoder, tokens = make_encoder(), make_tokens()
    expected = encode_catalogue(encoder, tokens, tmp_path / "whole", texts_per_shard=SHARD)
    read = hymirec.catalogue._encode_shard
    done = []

    def stops_at_the_third(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args[-1])
        read(*args)

    monkeypatch.setattr(hymirec.catalogue, "_encode_shard", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        encode_catalogue(encoder, tokens, tmp_path / "stopped", texts_per_shard=SHARD)
    kept = contents(tmp_path / "stopped")
    assert len(kept) == 2
    (tmp_path / "stopped" / "shard-00002.partial").write_bytes(b"half a shard")

    def counts(*args):
        done.append(args[-1])
        read(*args)

    monkeypatch.setattr(hymirec.catalogue, "_encode_shard", counts)
    found = encode_catalogue(encoder, tokens, tmp_path / "stopped", texts_per_shard=SHARD)
    assert [path.name for path in done[2:]] == [
        f"shard-0000{place}.safetensors" for place in (2, 3, 4)
    ]
    assert torch.equal(found, expected)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    encode_catalogue(encoder, tokens, tmp_path / "stopped", texts_per_shard=SHARD)
    assert len(done) == 5


KILLED = """
import sys, time, torch
torch.set_num_threads(1)
sys.path.insert(0, {folder!r})
import test_catalogue as here, hymirec.catalogue as catalogue
from pathlib import Path
read = catalogue._encode_shard
def slowly(*args):
    time.sleep(0.3)
    read(*args)
catalogue._encode_shard = slowly
catalogue.encode_catalogue(here.make_encoder(), here.make_tokens(), Path({out!r}),
                           texts_per_shard=here.SHARD)
"""


def test_killed_it_ends_with_the_same_bytes(tmp_path):
    script = KILLED.format(folder=str(Path(__file__).parent), out=str(tmp_path / "killed"))
    process = subprocess.Popen([sys.executable, "-c", script])
    while len(contents(tmp_path / "killed")) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = contents(tmp_path / "killed")
    assert 2 <= len(kept) < 5
    encoder, tokens = make_encoder(), make_tokens()
    found = encode_catalogue(encoder, tokens, tmp_path / "killed", texts_per_shard=SHARD)
    expected = encode_catalogue(encoder, tokens, tmp_path / "whole", texts_per_shard=SHARD)
    assert torch.equal(found, expected)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert contents(tmp_path / "killed").items() >= kept.items()


def test_several_processes_write_the_same_bytes_as_one(text_models, tmp_path, monkeypatch):
    monkeypatch.setattr(hymirec.catalogue, "SECONDS_WORTH_PROCESSES", 0.0)
    backbone = BackboneConfig(pretrained=PretrainedConfig(source=str(text_models["bert"])))
    encoder = make_encoder(backbone=backbone, pooling="mean")
    tokens = make_tokens()
    one = encode_catalogue(encoder, tokens, tmp_path / "one", texts_per_shard=SHARD)
    two = encode_catalogue(encoder, tokens, tmp_path / "two", num_workers=2, texts_per_shard=SHARD)
    assert torch.equal(one, two)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not (tmp_path / "two" / "encoder").exists()


def test_other_machines_write_the_same_bytes_and_only_what_is_missing(tmp_path):
    encoder, tokens, asked = make_encoder(), make_tokens(), []

    def elsewhere(work, shards):
        for shard in shards:
            asked.append(shard["place"])
            work(**shard)

    expected = encode_catalogue(encoder, tokens, tmp_path / "here", texts_per_shard=SHARD)
    place = tmp_path / "there"
    for again in ([0, 1, 2, 3, 4], [2]):
        found = encode_catalogue(encoder, tokens, place, texts_per_shard=SHARD, elsewhere=elsewhere)
        assert torch.equal(found, expected)
        assert contents(place) == contents(tmp_path / "here")
        assert asked == again
        asked.clear()
        (place / "shard-00002.safetensors").unlink()
    assert not (place / "encoder").exists()


def test_a_worker_that_fails_says_why_in_one_line(tmp_path, monkeypatch):
    class Failed:
        processes = ()

        def join(self, timeout):
            raise ProcessRaisedException("Traceback:\n  …\nIndexError: index 99", 0, 1234)

    monkeypatch.setattr(hymirec.catalogue, "SECONDS_WORTH_PROCESSES", 0.0)
    monkeypatch.setattr(hymirec.catalogue, "spawn", lambda *args, **settings: Failed())
    with pytest.raises(HymirecError, match=r"a worker process failed: IndexError: index 99$"):
        encode_catalogue(
            make_encoder(), make_tokens(), tmp_path, num_workers=2, texts_per_shard=SHARD
        )


def test_no_process_is_started_for_little(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(hymirec.catalogue, "spawn", lambda *args, **kwargs: started.append(args))
    hidden = encode_catalogue(
        make_encoder(), make_tokens(), tmp_path, num_workers=2, texts_per_shard=SHARD
    )
    assert hidden.isfinite().all()
    assert not started


def test_progress_tells_the_time_left(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(hymirec.catalogue, "SECONDS_BETWEEN_REPORTS", 0.0)
    with caplog.at_level("INFO"):
        encode_catalogue(make_encoder(), make_tokens(), tmp_path, texts_per_shard=SHARD)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 5
    assert lines[1].startswith("catalogue: 2 of 5 shards read, about ")
    assert lines[-1] == "catalogue: 5 of 5 shards read, about 0 s left"


def test_embeddings_by_way_of_shards_are_the_towers_own(tmp_path):
    torch.manual_seed(0)
    config = EncoderConfig(width=8, hidden_width=8, max_tokens=12)
    tower = ItemTower(config, make_tokens(), VOCABULARY, torch.ones(NUM_TEXTS))
    found = embed_catalogue(tower, tmp_path)
    torch.testing.assert_close(found, tower.embeddings(), rtol=1e-4, atol=1e-5)
