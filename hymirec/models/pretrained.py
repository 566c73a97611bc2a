"""Text models of `transformers` as backbones: found, checked, tuned, saved.

A source is a local directory as `transformers` saves one, or a hub name whose files are in the
local Hugging Face cache. Nothing here reaches the network but `download`.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import BaseModel, ConfigDict, PositiveInt
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from hymirec.errors import DataError, UsageError

log = logging.getLogger(__name__)

WEIGHT_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
"""What `download` fetches, and all that `digest` reads."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model",
    "sentencepiece.bpe.model",
)  # fmt: skip


class PretrainedConfig(BaseModel):
    """A text model to start from, and how much of it training may change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = ""
    """A directory or a hub name; empty: a small Llama from scratch."""
    tuning: Literal["full", "lora", "frozen"] = "lora"
    """`full`: everything trains. `lora`: adapters of low rank on the attention's projections and
    the item token. `frozen`: nothing of the model does; what stands around it always trains."""
    lora_rank: PositiveInt = 8
    """Of the adapters."""


def locate(source: str) -> Path:
    """Find the directory of a source.

    Raises:
        UsageError: there is no such directory, nor such a model in the local cache.
        DataError: the directory has no `config.json`.
    """
    directory = Path(source).expanduser()
    if not directory.is_dir():
        try:
            directory = Path(snapshot_download(source, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError) as error:
            raise UsageError(
                f"backbone {source}: neither a directory nor a model in the local Hugging Face "
                "cache; nothing is downloaded unless asked for (`hymirec pipeline --download`)"
            ) from error
    if not (directory / "config.json").is_file():
        raise DataError(f"backbone {source}: {directory} has no config.json")
    return directory


def download(name: str) -> None:
    """Fetch a model of the Hugging Face hub into the local cache, where `locate` finds it.

    Raises:
        UsageError: it cannot be had; the message gives the hub's reason.
    """
    try:
        snapshot_download(name, allow_patterns=list(WEIGHT_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(f"backbone {name} cannot be downloaded: {_first_line(error)}") from error


def digest(source: str) -> str:
    """Digest of a source's files: another model under the same name gives other results."""
    found = hashlib.sha256()
    directory = locate(source)
    for path in sorted(path for pattern in WEIGHT_FILES for path in directory.glob(pattern)):
        found.update(path.name.encode())
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:12]


def read_model(source: str) -> Any:
    """Load a text model in single precision, without a pooling head.

    Raises:
        UsageError: see `locate`; or the model is not one that turns a text into hidden states.
        DataError: its files cannot be read, or its weights are not all there.
    """
    directory = locate(source)
    quiet = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        # The other attention kernels take a block mask of truth values for numbers to add.
        model, report = AutoModel.from_pretrained(
            directory, local_files_only=True, dtype=torch.float32, output_loading_info=True,
            attn_implementation="sdpa",
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise DataError(f"backbone {source} cannot be loaded: {_first_line(error)}") from error
    finally:
        if quiet:
            transformers_logging.enable_progress_bar()
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise DataError(
            f"backbone {source}: its weights lack {len(missing)} of the model's tensors, "
            f"{missing[0]} for one"
        )
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    if model.config.is_encoder_decoder or not isinstance(embedding, nn.Embedding):
        raise UsageError(
            f"backbone {source}: a {model.config.model_type} is not a causal or bidirectional "
            "text model"
        )
    return _without_extras(model)


def read_tokenizer(source: str, item_token: str) -> Tokenizer:
    """Load a source's tokenizer and add the item token to it.

    Raises:
        UsageError: see `locate`.
        DataError: there is none, or none that `tokenizers` can run.
    """
    directory = locate(source)
    # Without any file `transformers` makes an empty tokenizer and says nothing.
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise DataError(f"backbone {source}: {directory} has no tokenizer")
    try:
        if (directory / "tokenizer.json").is_file():
            tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        else:
            loaded = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except Exception as error:  # the library in Rust raises no kind more specific
        raise DataError(
            f"backbone {source}: its tokenizer cannot be loaded: {_first_line(error)}"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.add_special_tokens([item_token])
    return tokenizer


def fit_vocabulary(model: Any, source: str, vocab_size: int) -> None:
    """Give the embedding table a row for the item token, the mean of the rows there are.

    Args:
        model: of `read_model`.
        source: for messages.
        vocab_size: token ids there are, the item token's among them.

    Raises:
        DataError: the tokenizer has more tokens than the model.
    """
    num_rows = model.get_input_embeddings().num_embeddings
    if vocab_size > num_rows + 1:
        raise DataError(
            f"backbone {source}: its tokenizer has {vocab_size - 1} tokens, its embedding table "
            f"{num_rows} rows: they do not belong together"
        )
    if num_rows > 1.05 * vocab_size:
        log.warning(
            "backbone %s: its tokenizer has %d tokens, its embedding table %d rows: do they "
            "belong together?", source, vocab_size - 1, num_rows,
        )  # fmt: skip
    if vocab_size > num_rows:
        table = model.get_input_embeddings().weight
        mean = table.detach().mean(dim=0)
        model.resize_token_embeddings(vocab_size, pad_to_multiple_of=1, mean_resizing=False)
        with torch.no_grad():
            model.get_input_embeddings().weight[num_rows:] = mean


def check_length(model: Any, source: str, length: int, setting: str) -> None:
    """Refuse sequences longer than a model has positions for.

    Raises:
        UsageError: the message names the setting.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None:
        # RoBERTa and its kin count positions from behind the padding's.
        positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
        padding = getattr(positions, "padding_idx", None)
        limit -= 0 if padding is None else padding + 1
    if limit is not None and length > limit:
        raise UsageError(
            f"{setting} asks for {length} positions; backbone {source} has no more than {limit}"
        )


def tune(model: Any, config: PretrainedConfig, *, item_token: int | None = None) -> Any:
    """Say what of a model trains; with LoRA, add the adapters.

    Args:
        model: of `read_model`.
        config: settings.
        item_token: a token whose embedding trains with the adapters.

    Raises:
        UsageError: LoRA does not know which of the model's layers are attention projections.
    """
    if config.tuning == "full":
        return model
    if config.tuning == "frozen":
        return model.requires_grad_(False)
    from peft import LoraConfig, get_peft_model

    tokens: dict[str, list[int]] = {}
    if item_token is not None:
        table = model.get_input_embeddings()
        name = next(name for name, part in model.named_modules() if part is table)
        tokens = {name.rpartition(".")[2]: [item_token]}
    # Which layers the projections of a kind of model are, the library knows.
    adapters = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        fan_in_fan_out=model.config.model_type == "gpt2",  # its weights are stored transposed
        trainable_token_indices=tokens or None,
    )
    try:
        return get_peft_model(model, adapters)
    except ValueError as error:
        raise UsageError(
            f"backbone {config.source}: LoRA does not know the attention projections of a "
            f"{model.config.model_type}; tune it in full or leave it frozen"
        ) from error


def without_adapters(module: nn.Module) -> nn.Module:
    """The module itself or, where adapters are in it, a copy with each merged into its layer."""
    if not any(hasattr(part, "merge_and_unload") for part in module.modules()):
        return module
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            if hasattr(part, "merge_and_unload"):
                setattr(parent, name, cast(Any, part).merge_and_unload())
    return module


def take_over(module: nn.Module, other: nn.Module) -> None:
    """Give a module the weights of another of its shape, whichever of them has adapters.

    The other's adapters are merged; the module's own stay as they are.

    Raises:
        RuntimeError: their shapes differ.
    """
    adapters = {name: value for name, value in module.state_dict().items() if ".lora_" in name}
    own = {
        name.replace("base_model.model.", "").replace("base_layer.", ""): name
        for name in module.state_dict().keys() - adapters.keys()
    }
    weights = without_adapters(other).state_dict()
    module.load_state_dict(
        adapters | {own.get(name, name): value for name, value in weights.items()}
    )


def save_architecture(model: Any, directory: Path) -> None:
    """Write what `read_architecture` needs; the weights are the caller's."""
    model.config.save_pretrained(directory)


def read_architecture(directory: Path) -> Any:
    """Make a model of a saved architecture, its weights yet to be loaded."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    return _without_extras(AutoModel.from_config(config, attn_implementation="sdpa"))


def _without_extras(model: Any) -> Any:
    """Leave out what hidden states do not need: the pooling head and the cache of keys."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    model.config.use_cache = False
    return model


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
