"""Trains small models in processes of their own, which are killed or share their batches.

Run by test_resume.py and test_processes.py: `trainings.py kills|shares DIR` prints JSON. The
processes are forked from one that has imported everything and computed nothing.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import transformers.trainer
from transformers import Trainer, TrainerState

from hymirec import checkpoints, processes, training
from hymirec.codebook import ResidualCodebook, ResidualConfig
from hymirec.encoder import EncoderConfig, ItemTower
from hymirec.examples import CutPointExamples, NextItemExamples
from hymirec.inputs import IndexedHistory
from hymirec.models.hymirec import HyMiRec, HyMiRecConfig
from hymirec.models.layers import BackboneConfig
from hymirec.models.nextitem import NextItemConfig, NextItemRecommender
from hymirec.training import TrainingConfig

NUM_ITEMS, WIDTH, NUM_USERS = 60, 16, 21
SCORES = [0.2, 0.5, 0.4]  # the weights kept are not the last


def histories(codes):
    rng = np.random.default_rng(3)
    indices = [rng.integers(1, NUM_ITEMS + 1, rng.integers(3, 12)) for _ in range(NUM_USERS)]
    return [IndexedHistory.of(items, codes[items]) for items in indices]


def next_item(dropout, texts_per_step):
    """The first stage, which draws examples, negatives, dropout and texts."""
    torch.manual_seed(1)
    tokens = torch.randint(3, 40, (NUM_ITEMS + 1, 5))
    tokens[0] = 0
    encoder = EncoderConfig(
        width=WIDTH, hidden_width=WIDTH, texts_per_step=texts_per_step, text_weight=dropout,
        backbone=BackboneConfig(num_layers=1, num_heads=2, dropout=dropout),
    )  # fmt: skip
    tower = ItemTower(encoder, tokens, 40, torch.ones(NUM_ITEMS + 1, dtype=torch.int64))
    model = NextItemRecommender(
        tower,
        NextItemConfig(
            backbone=BackboneConfig(num_layers=1, num_heads=2, dropout=dropout),
            num_recent=6,
            num_negatives=16,
        ),
    )
    model.tower.reread()
    examples = NextItemExamples(histories(np.zeros((NUM_ITEMS + 1, 0), np.uint8)), num_recent=6)
    return model, examples


def recommender(dropout):
    """The second stage."""
    torch.manual_seed(1)
    items = torch.nn.functional.normalize(torch.randn(NUM_ITEMS + 1, WIDTH), dim=1)
    items[0] = 0
    codebook = ResidualCodebook.fit(items[1:], ResidualConfig(num_layers=2, num_entries=8))
    settings = HyMiRecConfig(
        backbone=BackboneConfig(num_layers=1, num_heads=2, dropout=dropout),
        num_recent=6, num_cuts=3, max_history=20, coarse_layers=1, num_negatives=16,
    )  # fmt: skip
    model = HyMiRec(items, codebook, settings)
    examples = CutPointExamples(
        histories(codebook.encode(items).numpy()),
        num_recent=6, max_history=20, num_cuts=3, window=settings.window,
    )  # fmt: skip
    return model, examples


def train(directory, model, examples, **settings):
    """One call on a directory; losses go to a file line by line, the result to another."""
    validations = iter(range(10**6))
    config = TrainingConfig(
        **{"num_epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_steps": 2}
        | settings
    )
    steps = -(-len(examples) // config.batch_size)

    def validate():
        next(validations)
        if hasattr(model, "tower"):
            model.tower.reread()  # as every real validation does
        return {training.SELECTION_METRIC: SCORES[state["step"] // steps - 1]}

    def log_metrics(metrics, step):
        with (directory / "losses.jsonl").open("a") as file:
            file.write(json.dumps([step, metrics["toy/loss"]]) + "\n")

    state = {"step": 0}
    evaluate = training._Trainer.evaluate

    def noting_the_step(self, *args, **kwargs):
        state["step"] = self.state.global_step
        return evaluate(self, *args, **kwargs)

    training._Trainer.evaluate = noting_the_step
    training.train(
        model, examples, examples.collate, validate, config,
        directory=directory / "trainer", name="toy", log_metrics=log_metrics,
    )  # fmt: skip
    if processes.is_main():
        digest = hashlib.sha256()
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        (directory / "weights").write_text(digest.hexdigest())


def result(directory):
    """Digest of the final weights, and every loss that was logged for an epoch's last step."""
    losses = {}
    for line in (directory / "losses.jsonl").read_text().splitlines():
        step, loss = json.loads(line)
        losses.setdefault(str(step), []).append(loss)
    weights = directory / "weights"
    return {"weights": weights.read_text() if weights.exists() else None, "losses": losses}


def fork(work, **environment):
    """Run in a child; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update({name: str(value) for name, value in environment.items()})
        torch.set_num_threads(1)
        work()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(*children):
    """Whether all ended well; False if one was killed."""
    ended = [os.waitpid(child, 0)[1] for child in children]
    assert all(status in (0, signal.SIGKILL, signal.SIGALRM) for status in ended), ended
    return not any(ended)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(owner, name, call, half=None):
    """Replace a function by one that kills the process at some call, after half the work."""
    function, calls = getattr(owner, name), iter(range(1, 10**6))

    def dying(*args, **kwargs):
        if next(calls) == call:
            if half is not None:
                half(*args, **kwargs)
            die()
        return function(*args, **kwargs)

    setattr(owner, name, dying)


def die_after(seconds):
    """Set a clock at the first step that ends the process wherever it is by then."""
    step = training._Trainer.training_step

    def starting(*args, **kwargs):
        training._Trainer.training_step = step
        signal.setitimer(signal.ITIMER_REAL, seconds)  # nothing handles its signal
        return step(*args, **kwargs)

    training._Trainer.training_step = starting


def half_weights(tensors, path, **kwargs):
    Path(path).write_bytes(b"\0" * 999)


def half_state(self, path):
    Path(path).write_text('{"epoch": 1.5, "global_')


def half_removed(path, **kwargs):
    for name in ("optimizer.pt", "scheduler.pt"):
        (Path(path) / name).unlink()


MOMENTS = {
    "first step": lambda: die_at(training._Trainer, "training_step", 1),
    "within the first epoch": lambda: die_at(training._Trainer, "training_step", 4),
    "within a later epoch": lambda: die_at(training._Trainer, "training_step", 12),
    "half the weights written": lambda: die_at(
        safetensors.torch, "save_file", 4, half=half_weights
    ),
    "no optimizer yet": lambda: die_at(Trainer, "_save_optimizer_and_scheduler", 5),
    "no state yet": lambda: die_at(TrainerState, "save_to_json", 3),
    "half the state written": lambda: die_at(TrainerState, "save_to_json", 6, half=half_state),
    "half an old checkpoint removed": lambda: die_at(shutil, "rmtree", 3, half=half_removed),
    "half the last checkpoint removed": lambda: die_at(
        transformers.trainer.Trainer, "_load_best_model", 1, half=remove_last
    ),
    "in validation": lambda: die_at(training._Trainer, "evaluate", 2),
    "done but for the word": lambda: die_at(checkpoints, "mark_finished", 1),
}


def remove_last(self):
    half_removed(max(Path(self.args.output_dir).glob("checkpoint-*"), key=os.path.getmtime))


def kills(root):
    """Killed once at each moment, and at random ones until nothing is left to kill."""

    def work(directory, prepare=lambda: None):
        def run():
            prepare()
            train(directory, *next_item(dropout=0.2, texts_per_step=8))

        return run

    def fresh(name):
        directory = root / name
        directory.mkdir()
        return directory

    whole = fresh("whole")
    started = time.monotonic()
    assert wait(fork(work(whole)))
    seconds = time.monotonic() - started
    found = {"whole": result(whole)}
    for moment in MOMENTS:
        directory = fresh(moment)
        assert not wait(fork(work(directory, MOMENTS[moment]))), f"not killed: {moment}"
        assert wait(fork(work(directory)))
        found[moment] = result(directory)
    directory, rng, killed = fresh("at random"), random.Random(5), 0
    while True:
        delay = rng.uniform(0.02, 0.3) * seconds if killed < 10 else 1000.0  # then let it end
        if not wait(fork(work(directory, partial(die_after, delay)))):
            killed += 1
        elif killed:
            break
        else:  # the machine was busier while the whole one was timed
            directory, seconds = fresh(f"at random, {seconds:.3f} s"), seconds / 2
    found["at random"] = result(directory) | {"killed": killed}
    return found


def shares(root):
    """One process and two."""

    def run(name, num_processes, make, *, die_in_step=None, **settings):
        directory = root / name
        directory.mkdir(exist_ok=True)

        def work():
            if die_in_step is not None:
                die_at(training._Trainer, "training_step", die_in_step)
            train(directory, *make(), **settings)

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        together = {"WORLD_SIZE": num_processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ended = wait(
            *(
                fork(work, **together, RANK=rank, LOCAL_RANK=rank)
                if num_processes > 1
                else fork(work)
                for rank in range(num_processes)
            )
        )
        assert ended == (die_in_step is None)
        return result(directory)

    def quiet():
        return next_item(dropout=0.0, texts_per_step=1000)

    def random_all_over():
        return next_item(dropout=0.2, texts_per_step=8)

    found = {
        "first stage": [run(f"first{n}", n, quiet) for n in (1, 2)],
        "second stage": [run(f"second{n}", n, lambda: recommender(dropout=0.0)) for n in (1, 2)],
        "whole": run("whole", 2, random_all_over),
    }
    run("killed", 2, random_all_over, die_in_step=10)
    found["killed"] = run("killed", 2, random_all_over)
    run("two, then one", 2, quiet, die_in_step=10)
    found["two, then one"] = run("two, then one", 1, quiet)
    return found


if __name__ == "__main__":
    print(json.dumps({"kills": kills, "shares": shares}[sys.argv[1]](Path(sys.argv[2]))))
